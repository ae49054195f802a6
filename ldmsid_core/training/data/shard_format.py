"""A shard: one safetensors file with pairs of planes and truth, read window by window.

Tensors: `planes.N`, `(4, h, w)` uint16 counts R, G1, B, G2 as the sensor gave them, black level
included, not amplified; `truth.N`, `(3, h, w)` uint8 sRGB. A truth serves every pair of its scene
that the shard holds. The header's one text, `ldmsid_shard`, is JSON: `{"format": 1, "pairs":
[...]}`, where each pair is a `ShardPair`. Shards of photographs hold no planes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...errors import ConfigError, DatasetError, OutputError
from ...output.atomic import touch_for_mode, written_atomically
from ...taming.configs import config_from_dict

FORMAT = 1
HEADER_KEY = "ldmsid_shard"


@dataclass(frozen=True)
class RawFacts:
    """What a dark RAW's counts need beside them.

    Attributes:
        cfa: Layout of its mosaic.
        black_level: Counts per plane in packed order.
        white_level: Saturation count.
        white_balance: Multipliers R, G, B with green 1.
        white_balance_source: Where they come from.
        xyz_to_camera: The matrix, row by row; empty where unknown.
        camera: Maker and model; empty where unknown.
        iso: Sensitivity; 0 where unknown.
        shutter_s: Exposure time in seconds; 0 where unknown.
    """

    cfa: str
    black_level: tuple[float, ...]
    white_level: float
    white_balance: tuple[float, ...]
    white_balance_source: str
    xyz_to_camera: tuple[float, ...]
    camera: str
    iso: float
    shutter_s: float


@dataclass(frozen=True)
class ShardPair:
    """One pair in a shard.

    Attributes:
        name: The dark RAW's path in the dataset, or the picture's.
        long: The long exposure's path, or the picture's.
        truth: Tensor of the truth.
        height: Of planes and truth.
        width: Of planes and truth.
        planes: Tensor of the counts; empty for a photograph.
        exposure_ratio: 1 for a photograph.
        split: Of the dataset.
        scene: Pairs of one scene show the same thing.
        flags: What is known to be wrong with the pair.
        raw: Of the dark RAW; None for a photograph.
    """

    name: str
    long: str
    truth: str
    height: int
    width: int
    planes: str = ""
    exposure_ratio: float = 1.0
    split: str = "train"
    scene: str = ""
    flags: tuple[str, ...] = ()
    raw: RawFacts | None = None


@dataclass(frozen=True)
class Window:
    """A rectangle on the packed grid."""

    top: int
    left: int
    height: int
    width: int


def pair_from_dict(values: Mapping[str, Any], *, source: str) -> ShardPair:
    """A pair from JSON; unknown and missing keys are errors.

    Raises:
        DatasetError: If it is none.
    """
    try:
        raw = values.get("raw") if isinstance(values, Mapping) else None
        facts = None if raw is None else config_from_dict(RawFacts, raw, source=source)
        return config_from_dict(ShardPair, {**values, "raw": facts}, source=source)
    except (ConfigError, TypeError) as error:
        raise DatasetError(
            f"Expected a pair as this version writes it in {source}, found another ({error}); "
            "prepare the shards again."
        ) from error


def write_shard(
    path: Path,
    tensors: Mapping[str, NDArray[Any]],
    pairs: tuple[ShardPair, ...],
    *,
    overwrite: bool,
) -> None:
    """Write a shard; it appears whole or not at all, the same bytes for the same pairs.

    Raises:
        OutputError: If it exists or the disk does not take it.
    """
    header = json.dumps({"format": FORMAT, "pairs": [asdict(pair) for pair in pairs]})
    ready = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with written_atomically(path, overwrite=overwrite) as partial:
        mode = touch_for_mode(partial)
        try:
            save_file(ready, str(partial), metadata={HEADER_KEY: header})
        except SafetensorError as error:  # how the library reports a full disk
            raise OutputError(
                f"Cannot write {path}: {error}. Make room and run the command again; finished "
                "shards are kept."
            ) from error
        partial.chmod(mode)


def read_shard_pairs(path: Path) -> tuple[ShardPair, ...]:
    """What a shard says it holds.

    Raises:
        DatasetError: If it is no shard of this format, or damaged.
    """
    try:
        with safe_open(str(path), "np") as stored:
            header = json.loads((stored.metadata() or {}).get(HEADER_KEY, "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise DatasetError(
            f"Expected a shard of `ldmsid prepare`, but {path} is missing, damaged or of another "
            f"kind ({error}); delete it and run `ldmsid prepare` again."
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DatasetError(
            f"Expected a shard of format {FORMAT}, but {path} is none; prepare the shards again."
        )
    return tuple(pair_from_dict(values, source=str(path)) for values in header.get("pairs", []))


def read_window(path: Path, tensor: str, window: Window) -> NDArray[Any]:
    """A rectangle of a stored tensor; the file is memory-mapped and only that part touched.

    Args:
        path: The shard.
        tensor: A name in it.
        window: Inside the tensor.

    Returns:
        `(channels, window.height, window.width)`, a copy in the stored type.

    Raises:
        DatasetError: If the shard is missing, truncated or lacks it.
    """
    rows = slice(window.top, window.top + window.height)
    columns = slice(window.left, window.left + window.width)
    try:
        with safe_open(str(path), "np") as stored:
            piece: NDArray[Any] = stored.get_slice(tensor)[:, rows, columns]
    except (SafetensorError, OSError, ValueError) as error:
        raise DatasetError(
            f"Expected {tensor} in the shard {path}, but it is missing, truncated or damaged "
            f"({error}); run `ldmsid prepare` again."
        ) from error
    if piece.shape[1:] != (window.height, window.width):
        raise DatasetError(
            f"Expected {tensor} of {path} to hold {window}, found {piece.shape}; the index belongs "
            "to another shard. Run `ldmsid prepare` again."
        )
    return piece
