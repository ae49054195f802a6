"""The paper's ablations of one configuration, run one after the other."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

from ..errors import CheckpointError, ConfigError
from ..output.atomic import written_atomically
from ..taming.configs import config_from_dict
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

    def __post_init__(self) -> None:
        """Check the choices."""
        if self.bands not in get_args(BandKind) or self.tamed not in get_args(TamedHalves):
            raise ConfigError(
                "Expected bands dwt or rescale and tamed both, unet or decoder, found "
                f"{self.bands!r} and {self.tamed!r}."
            )


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
        config, stages=stages, host=host, bands=variant.bands, taming=variant.tamed, pool=pool,
        prediction_type="epsilon",  # a given host's own counts
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
    if config.is_regression:
        raise ConfigError(
            "Expected stages of taming for ablations, found regression; train the baseline with "
            "`ldmsid train`."
        )
    missing = {"unet_taming", "decoder_taming"} - {stage.kind for stage in config.stages}
    if missing:
        raise ConfigError(
            f"Expected stages of both halves for ablations, found no {', '.join(sorted(missing))}."
        )
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


@dataclass(frozen=True)
class TrainedVariant:
    """An entry of the list that `run_ablations` writes.

    Attributes:
        variant: What was trained.
        host: File or folder.
        taming: File.
    """

    variant: Variant
    host: Path
    taming: Path


def read_ablations(path: Path) -> tuple[TrainedVariant, ...]:
    """The variants of a list, which may still grow.

    Raises:
        ConfigError: If it is no such list, or is empty.
        CheckpointError: If a file that it names does not exist.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"Cannot read the list of ablations {path}: {error.strerror}; name the {LIST_NAME} "
            "that `ldmsid ablate` wrote."
        ) from error
    except ValueError as error:
        raise ConfigError(f"Expected JSON in {path}, found something else: {error}.") from error
    if not isinstance(values, list) or not values:
        raise ConfigError(
            f"Expected a list of trained variants in {path}, found none; run `ldmsid ablate`."
        )
    found = tuple(_trained(entry, path) for entry in values)
    names = [entry.variant.name for entry in found]
    if len(set(names)) < len(names):
        raise ConfigError(f"Expected variants of different names in {path}, found {names}.")
    return found


def _trained(values: object, path: Path) -> TrainedVariant:
    wanted = {"name", "bands", "tamed", "host", "taming"}
    keys = set(values) if isinstance(values, dict) else None
    if not isinstance(values, dict) or keys != wanted:
        raise ConfigError(
            f"{path}: expected variants with {', '.join(sorted(wanted))} alone, found "
            f"{values!r}; run `ldmsid ablate` again."
        )
    settings = {key: values[key] for key in ("name", "bands", "tamed")}
    variant = config_from_dict(Variant, settings, source=str(path))
    files = [path.parent / str(values[key]) for key in ("host", "taming")]
    for file in files:
        if not file.exists():
            raise CheckpointError(
                f"Expected the files that {path} names, but {file} does not exist; keep the list "
                "in the folder of its run."
            )
    return TrainedVariant(variant, *files)


def _relative(path: Path, folder: Path) -> str:
    is_inside = path.resolve().is_relative_to(folder.resolve())
    return str(path.resolve().relative_to(folder.resolve()) if is_inside else path)
