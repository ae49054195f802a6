"""`ldmsid enhance`: files, folders and globs to photographs, one bad file stops nothing."""

from __future__ import annotations

import glob
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .errors import ConfigError, LdmSidError, UnsupportedRawError
from .hosts.dtypes import choose_device, choose_dtype
from .hosts.engine import (
    SamplingSettings,
    check_fit,
    ready_engine,
)
from .hosts.host import Host, load_host
from .hosts.schedule import DEFAULT_SAMPLER
from .model_files import EMBEDDED, find_model
from .output.atomic import check_folder, refuse_existing
from .output.settings import OutputInfo
from .output.writers import suffix_of, write_image
from .pipeline import enhance
from .raw.exposure import auto_exposure_ratio, reference_exposure_ratio
from .raw.loader import RAW_EXTENSIONS, load_gps, load_metadata, load_raw
from .raw.packed_raw import PackedRaw, RawMetadata
from .raw.packing import check_exposure_ratio
from .sampling_grid import DEFAULT_STEPS
from .taming.checkpoint import Taming, load_taming
from .tiling import DEFAULT_OVERLAP

log = logging.getLogger(__name__)
Report = dict[str, Any]


@dataclass(frozen=True)
class EnhanceOptions:
    """Options of the command; see its help."""

    output: Path
    ratio: str = "auto"
    reference: Path | None = None
    output_format: str = "png"
    rounding: str = "nearest"
    sampler: str = DEFAULT_SAMPLER
    host: Path | None = None
    taming: Path | None = None
    keep_gps: bool = False
    steps: int = DEFAULT_STEPS
    strength: float = 1.0
    decoder_strength: float = 1.0
    tile: int | None = None
    overlap: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    overwrite: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class _Job:
    """What all files of a run share."""

    options: EnhanceOptions
    host: Host
    taming: Taming
    device: torch.device
    dtype: torch.dtype
    settings: SamplingSettings
    reference: RawMetadata | None


def find_raws(names: Sequence[str]) -> tuple[list[Path], list[Report]]:
    """The files that names, folders and globs stand for, in order and without repeats.

    Returns:
        The files, and a report with an error for each folder or glob that holds none.
    """
    found: dict[Path, None] = {}
    reports: list[Report] = []
    for name in names:
        try:
            found.update(dict.fromkeys(_files_of(name)))
        except LdmSidError as error:
            reports.append({"raw": name, "error": " ".join(str(error).split())})
    return list(found), reports


def _files_of(name: str) -> list[Path]:
    """The files of one argument.

    Raises:
        UnsupportedRawError: If a folder or a glob holds no RAW file.
    """
    path = Path(name)
    if path.is_dir():
        try:
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in RAW_EXTENSIONS)
        except OSError as error:
            raise UnsupportedRawError(
                f"Cannot read the folder {path}: {error.strerror}; check its permissions."
            ) from error
        if not inside:
            raise UnsupportedRawError(
                f"Expected RAW files in the folder {path}, found none; known endings are "
                f"{' '.join(RAW_EXTENSIONS)}."
            )
        return inside
    if not path.exists() and glob.has_magic(name):
        inside = sorted(Path(p) for p in glob.glob(name))
        if not inside:
            raise UnsupportedRawError(f"Expected files that match {name}, found none; check it.")
        return inside
    return [path]


def parse_ratio(text: str) -> float | None:
    """A ratio by hand, or None for `auto`.

    Raises:
        ConfigError: If it is neither, or out of range.
    """
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigError(f"Expected --ratio as a number or auto, found {text!r}.") from error
    return check_exposure_ratio(value)


def _output_paths(raws: list[Path], options: EnhanceOptions) -> dict[Path, Path]:
    """One result per file; files that share a stem get their ending into the name."""
    suffix = suffix_of(options.output_format)
    stems = Counter(raw.stem.lower() for raw in raws)
    places: dict[Path, Path] = {}
    taken: set[str] = set()
    for raw in raws:
        stem = raw.stem if stems[raw.stem.lower()] == 1 else f"{raw.stem}_{raw.suffix[1:]}"
        name, number = stem, 2
        while name.lower() in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name.lower())
        places[raw] = options.output / f"{name}{suffix}"
    return places


def _ratio_for(raw: PackedRaw, job: _Job) -> tuple[float, str]:
    if job.reference is not None and job.options.reference is not None:
        name = job.options.reference.name
        return reference_exposure_ratio(raw, job.reference, name), "reference"
    by_hand = parse_ratio(job.options.ratio)
    if by_hand is not None:
        return by_hand, "by hand"
    return auto_exposure_ratio(raw), "auto"


def _load_job(options: EnhanceOptions) -> _Job:
    if options.reference is not None and options.ratio != "auto":
        raise ConfigError("Expected either --ratio or --reference, found both.")
    parse_ratio(options.ratio)
    if options.overlap is not None and options.tile is None:
        raise ConfigError("Expected --tile with --overlap, found none: name the side of a tile.")
    overlap = DEFAULT_OVERLAP if options.overlap is None else options.overlap
    settings = SamplingSettings(
        options.steps, options.sampler, options.strength, options.decoder_strength,
        options.tile, overlap,
    )  # fmt: skip
    reference = None if options.reference is None else load_metadata(options.reference)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    host = load_host(find_model(options.host, EMBEDDED.host), dtype=dtype)
    taming = load_taming(find_model(options.taming, EMBEDDED.taming), dtype=dtype)
    check_fit(host, taming)
    check_folder(options.output)
    return _Job(options, host, taming, device, dtype, settings, reference)


def enhance_files(names: Sequence[str], options: EnhanceOptions) -> list[Report]:
    """Enhance every file; one that fails is reported and the others go on.

    Args:
        names: Files, folders, globs.
        options: Of the command.

    Returns:
        One report a file: `raw`, and either `error` or `output`, `exposure_ratio`, `ratio_mode`,
        `width`, `height`, `seconds`.

    Raises:
        LdmSidError: If nothing can be done at all: no model, no output folder.
    """
    raws, reports = find_raws(names)
    if not raws:
        return reports
    places = _output_paths(raws, options)
    job = _load_job(options)
    for raw in raws:
        try:
            reports.append(_enhance_one(raw, places[raw], job))
        except LdmSidError as error:
            text = " ".join(str(error).split())
            named = text if raw.name in text else f"{raw}: {text}"
            reports.append({"raw": str(raw), "error": named})
    return reports


def _enhance_one(path: Path, output: Path, job: _Job) -> Report:
    options, started = job.options, time.monotonic()
    refuse_existing(output, overwrite=options.overwrite)
    raw = load_raw(path)
    ratio, mode = _ratio_for(raw, job)
    gps = load_gps(path) if options.keep_gps else None
    with tqdm(total=options.steps, desc=path.name, unit="step", disable=options.quiet) as bar:
        try:
            with ready_engine(
                job.host, job.taming, device=job.device, dtype=job.dtype, settings=job.settings,
                progress=lambda done, _total: bar.update(done - bar.n),
            ) as (sample, decode):  # fmt: skip
                result = enhance(
                    raw, job.taming.header.input_recipe, exposure_ratio=ratio, seed=options.seed,
                    sample=sample, decode=decode,
                )  # fmt: skip
        except RuntimeError as error:
            raise _explain(error, raw) from error
    report = {
        "raw": str(path),
        "output": str(output),
        "exposure_ratio": ratio,
        "ratio_mode": mode,
        "width": result.image.shape[-1],
        "height": result.image.shape[-2],
    }
    used = {
        **report,
        "raw": path.name,
        "output": output.name,
        "white_balance": list(result.white_balance),
        "seed": options.seed,
        "steps": options.steps,
        "sampler": options.sampler,
        "strength": options.strength,
        "decoder_strength": options.decoder_strength,
        "tile": job.settings.tile,
        "overlap": None if job.settings.tile is None else job.settings.overlap,
        "dtype": str(job.dtype).removeprefix("torch."),
        "host": job.host.name,
        "host_sha256": job.host.sha256,
        "taming": job.taming.name,
        "version": version("ldmsid"),
    }
    info = OutputInfo(raw.metadata, used, gps)
    write_image(
        output, result.image, info, output_format=options.output_format,
        rounding=options.rounding, overwrite=options.overwrite,
    )  # fmt: skip
    return {**report, "seconds": time.monotonic() - started}


def _explain(error: RuntimeError, raw: PackedRaw) -> LdmSidError:
    """What PyTorch could not compute, as one clear line: mostly memory."""
    if "memory" not in str(error).lower():
        return LdmSidError(
            f"PyTorch could not compute {raw.file_name}: {str(error).splitlines()[0]}; try "
            "--device cpu --dtype fp32."
        )
    height, width = raw.planes.shape[-2:]
    return LdmSidError(
        f"Not enough memory to enhance {raw.file_name} at {width}x{height}; close other programs, "
        "or use --dtype bf16, or a device with more memory."
    )
