"""`ldmsid enhance`: files, folders and globs to photographs, one bad file stops nothing."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .band_views import amplified_low_band
from .cli_enhance_options import EnhanceOptions
from .cli_files import find_raws, output_paths
from .crop import Crop, crop_on_sensor
from .errors import ConfigError, LdmSidError
from .frame_plan import Costs
from .hosts.dtypes import choose_device, choose_dtype
from .hosts.engine import Engine, attached_engine
from .hosts.fit import check_fit
from .hosts.host import Host, load_host
from .hosts.region import enhance_region
from .hosts.settings import SamplingSettings
from .memory import is_out_of_memory
from .model_files import EMBEDDED, find_model
from .output.atomic import check_folder, refuse_existing
from .output.settings import OutputInfo
from .output.writers import suffix_of, write_image
from .pipeline import (
    Enhanced,
    finish_image,
    prepare_bands,
    recipe_planes,
    recipe_white_balance,
)
from .raw.exposure import auto_exposure_ratio, reference_exposure_ratio
from .raw.loader import load_gps, load_metadata, load_raw
from .raw.packed_raw import PackedRaw, RawMetadata
from .raw.packing import check_exposure_ratio
from .released_recipe import decode_released
from .taming.checkpoint import Taming, load_taming
from .tiling import LATENT_PIXELS
from .wavelet import LEVELS, PAD_MULTIPLE

log = logging.getLogger(__name__)
Report = dict[str, Any]
# Settings that a result tells.
_KEPT = (
    "steps", "sampler", "strength", "decoder_strength", "tile", "overlap", "start", "decode",
    "decode_tile",
)  # fmt: skip


@dataclass(frozen=True)
class _Job:
    """What all files of a run share; `costs` holds those of the networks once they are counted."""

    options: EnhanceOptions
    host: Host
    taming: Taming
    device: torch.device
    dtype: torch.dtype
    settings: SamplingSettings
    reference: RawMetadata | None
    costs: list[Costs] = field(default_factory=list)


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
    settings, _ = options.settings(), options.region()
    reference = None if options.reference is None else load_metadata(options.reference)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    host = load_host(find_model(options.host, EMBEDDED.host), dtype=dtype)
    taming = load_taming(find_model(options.taming, EMBEDDED.taming), dtype=dtype)
    check_fit(host, taming)
    if not options.dry_run:
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
    places = output_paths(raws, options.output, suffix_of(options.output_format))
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
    if not options.dry_run:
        refuse_existing(output, overwrite=options.overwrite)
    raw = load_raw(path)
    ratio, mode = _ratio_for(raw, job)
    planes = raw.planes.shape[-2:]
    region = options.region()
    if region is not None:
        region = crop_on_sensor(
            region, height=planes[0], width=planes[1], orientation=raw.orientation
        )
    gps = load_gps(path) if options.keep_gps else None
    settings = options.for_size(job.settings, *planes)
    with _bars(path.name, settings.steps, options.quiet or options.dry_run) as (steps, decoded):
        try:
            with attached_engine(
                job.host, job.taming, device=job.device, dtype=job.dtype, settings=settings,
                progress=steps, decode_progress=decoded, costs=next(iter(job.costs), None),
            ) as engine:  # fmt: skip
                try:
                    if options.dry_run:
                        return _estimate(path, planes, engine)
                    result = _picture(raw, ratio, region, job, engine)
                finally:
                    job.costs[:] = filter(None, [engine.planner.known])
        except (RuntimeError, MemoryError) as error:
            raise explain_failure(error, raw) from error
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
        **{name: getattr(settings, name) for name in _KEPT},
        "crop": options.crop,
        "recipe": options.recipe,
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


def _estimate(path: Path, planes: torch.Size, engine: Engine) -> Report:
    """What a file would take; nothing is written."""
    height, width = (-(-side // PAD_MULTIPLE) * PAD_MULTIPLE // 2**LEVELS for side in planes)
    found = engine.planner.estimate(height, width)
    layout = found.plan.layout
    return {
        "raw": str(path),
        "estimate": found.sentence(),
        "tiles": len(layout.tiles()),
        "tile": LATENT_PIXELS * max(layout.tile_height, layout.tile_width),
        "decode": found.plan.decode,
        "peak_bytes": found.peak_bytes,
        "free_bytes": found.free_bytes,
        "flops": found.flops,
        "seconds": found.seconds,
    }


def _picture(
    raw: PackedRaw, ratio: float, region: Crop | None, job: _Job, engine: Engine
) -> Enhanced:
    recipe, seed = job.taming.header.input_recipe, job.options.seed
    bands = prepare_bands(raw, recipe, exposure_ratio=ratio)
    white_balance = recipe_white_balance(raw, recipe)
    begin = None
    if engine.settings.start != 1.0:
        begin = amplified_low_band(bands, raw, recipe)
    with torch.inference_mode():
        if job.options.is_released:
            decoded = decode_released(
                recipe_planes(raw, recipe, exposure_ratio=ratio), seed=seed,
                sample=engine.sample, decode=engine.decode, bands=recipe.bands,
            )  # fmt: skip
        elif region is None:
            decoded = engine.decode(engine.sample(bands, seed, begin), bands)
        else:
            decoded = enhance_region(engine, bands, region, seed, begin)
            bands = replace(bands, content_size=(region.height, region.width))
    return Enhanced(finish_image(decoded, raw, bands), ratio, white_balance)


@contextlib.contextmanager
def _bars(
    name: str, steps: int, silent: bool
) -> Iterator[tuple[Callable[[int, int], None], Callable[[float], None]]]:
    """Progress of sampling and of decoding."""
    with (
        tqdm(total=steps, desc=name, unit="step", disable=silent) as sampling,
        tqdm(total=1.0, desc="decode", disable=silent, leave=False,
             bar_format="{desc}: {percentage:3.0f}%|{bar}|") as decoding,
    ):  # fmt: skip
        yield (
            lambda done, _total: sampling.update(done - sampling.n) and None,
            lambda part: decoding.update(min(part, 1.0 - decoding.n)) and None,
        )


def explain_failure(error: RuntimeError | MemoryError, raw: PackedRaw) -> LdmSidError:
    """What PyTorch could not compute, as one clear line: mostly memory."""
    if not is_out_of_memory(error):
        return LdmSidError(
            f"PyTorch could not compute {raw.file_name}: {str(error).splitlines()[0]}; try "
            "--device cpu --dtype fp32."
        )
    height, width = raw.planes.shape[-2:]
    return LdmSidError(
        f"Not enough memory to enhance {raw.file_name} at {width}x{height}; close other "
        "programs, or use a smaller --tile with --decode bounded, --dtype bf16, or a device with "
        "more memory."
    )
