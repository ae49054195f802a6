"""The paper's ablations of one configuration, run one after the other."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..output.atomic import written_atomically
from ..wavelet import BandKind
from .compute import open_compute
from .config import TamedHalves, TrainingConfig
from .context import RunOptions, TrainingData
from .images import PoolConfig
from .losses import Perceptual
from .run import train_model

LIST_NAME = "ablations.json"
HOST_FOLDER = "host"
_DEFAULTS = RunOptions()


@dataclass(frozen=True)
class Variant:
    """One trained variant.

    Attributes:
        name: Of its folder.
        bands: What planes are split into.
        tamed: Which halves.
    """

    name: str
    bands: BandKind
    tamed: TamedHalves


VARIANTS = (
    Variant("both", "dwt", "both"),
    Variant("rescale", "rescale", "both"),
    Variant("unet_only", "dwt", "unet"),
    Variant("decoder_only", "dwt", "decoder"),
)


def variant_config(config: TrainingConfig, variant: Variant, host: str) -> TrainingConfig:
    """The configuration of a variant of a host: the taming stages alone."""
    stages = tuple(s for s in config.stages if s.kind in ("unet_taming", "decoder_taming"))
    pool = PoolConfig() if config.data.is_from_files else config.pool
    return replace(
        config, stages=stages, host=host, bands=variant.bands, taming=variant.tamed, pool=pool
    )  # fmt: skip


def run_ablations(
    config: TrainingConfig,
    folder: Path,
    *,
    options: RunOptions = _DEFAULTS,
    data: TrainingData | None = None,
    perceptual: Perceptual | None = None,
) -> Path:
    """Train all variants; resumes what it finds in the folder.

    A configuration that trains its own host trains it once, in `host`, for all variants.

    Args:
        config: With stages for both halves; its `bands` and `taming` are not looked at.
        folder: One folder a variant, and the list of results, which grows with each.
        options: As for `train_model`.
        data: As for `train_model`.
        perceptual: As for `train_model`.

    Returns:
        The list: JSON objects with name, bands, tamed, host and taming (files), paths relative to
        the list where they lie in its folder.

    Raises:
        LdmSidError: As `train_model`.
    """
    host = config.host
    if not host:
        own = tuple(s for s in config.stages if s.kind in ("vae", "unet"))
        files = train_model(replace(config, stages=own), folder / HOST_FOLDER, options=options)
        host = str(files.host.resolve())
    results: list[dict[str, str]] = []
    with open_compute(on_cpu=options.on_cpu) as compute:
        for variant in VARIANTS:
            chosen = variant_config(config, variant, host)
            files = train_model(
                chosen, folder / variant.name, options=options, data=data, perceptual=perceptual
            )
            found = {
                "host": _relative(files.host, folder),
                "taming": _relative(files.taming, folder),
            }
            results.append({**asdict(variant), **found})
            if compute.is_main:
                with written_atomically(folder / LIST_NAME, overwrite=True) as partial:
                    partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return folder / LIST_NAME


def _relative(path: Path, folder: Path) -> str:
    is_inside = path.resolve().is_relative_to(folder.resolve())
    return str(path.resolve().relative_to(folder.resolve()) if is_inside else path)
