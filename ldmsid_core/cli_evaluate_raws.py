"""`ldmsid evaluate --raws DIR --truth DIR`: the model and its rivals on camera files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .cli_enhance import explain_failure
from .cli_evaluate import STRENGTHS_NOTE, classical_results
from .cli_evaluate_measure import MeasureOptions, Measuring
from .cli_evaluate_models import ModelOptions, Models, open_models
from .cli_evaluate_results import find_pairs
from .errors import ConfigError, LdmSidError
from .evaluation.metrics import FloatImage
from .evaluation.noise_estimate import estimate_noise
from .evaluation.pairing import Pair, list_files, match
from .evaluation.pictures import check_same_size, read_picture
from .evaluation.sheet import to_float_image
from .evaluation.summary import Evaluation
from .raw.develop_libraw import develop_fbdd
from .raw.exposure import auto_exposure_ratio
from .raw.loader import RAW_EXTENSIONS, load_raw
from .raw.packed_raw import PackedRaw

LIBRAW_ROUTE = "LibRaw FBDD"
_LIBRAW_NOTE = (
    "LibRaw FBDD: counts amplified, then FBDD (full) and demosaicing at full size with the "
    "camera's white balance, averaged to half size in linear light; LibRaw's wavelet threshold is "
    "left out, since it ends the process in this release"
)
_NOISE_NOTE = "denoisers: gain and read noise are estimated from each RAW itself"


def _as_stored(picture: FloatImage) -> FloatImage:
    """Values as an 8-bit PNG of `ldmsid enhance` would hold them."""
    return np.asarray((picture.clip(0.0, 1.0) * 255.0).round() / 255.0, dtype=np.float32)


def _routes(
    path: Path, raw: PackedRaw, ratio: float, models: Models
) -> dict[str, list[FloatImage]]:
    """Pictures of every route, the model first; all in 8 bits."""
    learned = {route: [run(raw, ratio)] for route, run in models.routes.items()}
    spans = raw.white_level - np.asarray(raw.black_level, np.float64)[:, None, None]
    noise = estimate_noise(raw.planes[0].double().numpy() * spans)
    pictures = {
        **learned,
        **classical_results(raw, noise, ratio),
        LIBRAW_ROUTE: [to_float_image(develop_fbdd(path, exposure_ratio=ratio))],
    }
    return {route: [_as_stored(p) for p in found] for route, found in pictures.items()}


def _score_one(pair: Pair, path: Path, measuring: Measuring, models: Models) -> None:
    """Score a file.

    Raises:
        LdmSidError: If the file, its truth, or their sizes do not serve.
    """
    raw = load_raw(path)
    height, width = raw.planes.shape[-2:]
    size = (height, width) if raw.orientation & 4 else (width, height)
    truth = read_picture(pair.truth)
    check_same_size(size, (truth.shape[1], truth.shape[0]), f"{path} at half size", str(pair.truth))
    ratio = auto_exposure_ratio(raw) if pair.exposure_ratio is None else pair.exposure_ratio
    try:
        routes = _routes(path, raw, ratio, models)
    except (RuntimeError, MemoryError) as error:
        raise explain_failure(error, raw) from error
    measuring.add(pair, routes, truth)


def evaluate_raws(
    raws: Path,
    *,
    truth: Path,
    pairs: Path | None = None,
    ratio: float | None = None,
    models: ModelOptions,
    options: MeasureOptions,
) -> tuple[Evaluation, list[str]]:
    """Run and score learned and classical routes and LibRaw; a bad file is recorded and left out.

    Args:
        raws: Folder of RAW files.
        truth: Folder of truths at half the sensor's size, upright.
        pairs: CSV list of pairs; None matches by name.
        ratio: For files whose ratio the list does not say; None finds it for each file.
        models: Learned routes.
        options: Of measuring.

    Returns:
        The evaluation, and one sentence for each file that failed.

    Raises:
        ConfigError: If a folder is empty, nothing matches, or every file failed.
        CheckpointError: If a weight file is missing or of another kind.
        OutputError: If a report is there and may not be replaced.
    """
    wanted = find_pairs(truth, pairs)
    if ratio is not None:
        wanted = tuple(
            replace(p, exposure_ratio=ratio) if p.exposure_ratio is None else p for p in wanted
        )
    matching = match(wanted, list_files(raws, RAW_EXTENSIONS, "RAW files"), raws)
    measuring = Measuring.begin(options, len(matching.files))
    failures: list[str] = []
    with torch.inference_mode(), open_models(models) as ready:
        for pair, path in tqdm(matching.files.items(), desc="evaluate", disable=options.quiet):
            try:
                _score_one(pair, path, measuring, ready)
            except LdmSidError as error:
                text = " ".join(str(error).split())
                failures.append(text if path.name in text else f"{path}: {text}")
    measuring.notes += matching.sentences("RAW files")
    if failures:
        measuring.notes += [f"{len(failures)} files failed and are left out:", *failures]
    if not measuring.rows:
        raise ConfigError(f"Expected at least one RAW that can be scored: {'; '.join(failures)}")
    if any(pair.exposure_ratio is None for pair in matching.files):
        measuring.notes.append("exposure ratio: found from the brightness of each file (auto)")
    measuring.notes += [STRENGTHS_NOTE, _NOISE_NOTE, _LIBRAW_NOTE, *ready.notes]
    settings: dict[str, Any] = {
        "raws": str(raws),
        "truth": str(truth),
        "pairs": "by name" if pairs is None else str(pairs),
        "ratio of files that the list leaves open": "auto" if ratio is None else ratio,
        **ready.settings,
    }
    return measuring.finish("LDM-SID and its rivals on RAW files", settings), failures
