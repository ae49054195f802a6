"""Shards large enough to train on, and a random host to tame with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.datasets import write_pictures, write_sid
from helpers.tiny_model import write_model

from ldmsid_core.training.config import TrainingConfig, parse_training_config
from ldmsid_core.training.context import RunOptions
from ldmsid_core.training.data.prepare import prepare_dataset

CROP = 128  # the coarsest level of 64 has one pixel, which no GroupNorm of 32 channels takes
QUIET = RunOptions(quiet=True, on_cpu=True)


def pair_shards(folder: Path, *, side: int = CROP, **header: Any) -> Path:
    """Two scenes of two dark RAWs each, a little larger than a crop."""
    write_sid(folder / "sid", scenes=2, shorts=2, size=(side + 8, side + 16), **header)
    prepare_dataset(folder / "sid", folder / "pairs", kind="sid")
    return folder / "pairs"


def photograph_shards(folder: Path, *, side: int = CROP) -> Path:
    """Three photographs, a little larger than a crop."""
    write_pictures(folder / "photos", count=3, size=(side + 8, side + 16))
    prepare_dataset(folder / "photos", folder / "pictures", kind="folder")
    return folder / "pictures"


def random_host(folder: Path) -> Path:
    """A host file of random weights with a taming file beside it."""
    return write_model(folder / "model").host


def taming_config(host: Path | str, data: dict[str, Any], **changes: Any) -> TrainingConfig:
    """Two steps of both taming stages on data from files."""
    common = {"steps": 2, "batch": 2, "crop": CROP, "warmup": 0, "precision": "no"}
    values = {
        "host": str(host),
        "stages": [
            {"kind": "unet_taming", "accumulation": 2, **common},
            {"kind": "decoder_taming", **common},
        ],
        "unet_modules": {
            "encoder": {
                "width": 32, "multipliers": [1, 1, 1, 1], "blocks": 1, "attention_levels": [2],
                "heads": 4, "features": 32,
            },
            "widths": [32, 32, 64, 64], "hidden": 8,
        },
        "decoder_modules": {"widths": [32, 32, 32]},
        "generation": {"window": 2, "group": 2, "renew_every": 1, "steps": 1},
        "data": data,
        **changes,
    }  # fmt: skip
    return parse_training_config(values, source="test")


def break_shard(path: Path) -> None:
    """Damage a shard so that its size stays."""
    data = path.read_bytes()
    path.write_bytes(b"\xff" * 64 + data[64:])
