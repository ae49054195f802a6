"""`ldmsid evaluate --raws DIR --truth DIR`: the model and its rivals on camera files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .cli_enhance import explain_failure
from .cli_evaluate import MODEL_ROUTE, STRENGTHS_NOTE, classical_results
from .cli_evaluate_measure import MeasureOptions, Measuring
from .cli_evaluate_results import find_pairs
from .errors import ConfigError, LdmSidError
from .evaluation.metrics import FloatImage
from .evaluation.noise_estimate import estimate_noise
from .evaluation.pairing import Pair, list_files, match
from .evaluation.pictures import check_same_size, read_picture
from .evaluation.sheet import to_float_image
from .evaluation.summary import Evaluation
from .hosts.dtypes import choose_device, choose_dtype
from .hosts.engine import ready_engine
from .hosts.host import load_host
from .hosts.settings import SamplingSettings
from .model_files import EMBEDDED, find_model
from .pipeline import DecodeLatent, SampleLatent, enhance
from .raw.develop_libraw import develop_fbdd
from .raw.exposure import auto_exposure_ratio
from .raw.loader import RAW_EXTENSIONS, load_raw
from .raw.packed_raw import PackedRaw
from .sampling_grid import DEFAULT_STEPS
from .taming.checkpoint import load_taming
from .taming.header import InputRecipe

LIBRAW_ROUTE = "LibRaw FBDD"
_LIBRAW_NOTE = (
    "LibRaw FBDD: counts amplified, then FBDD (full) and demosaicing at full size with the "
    "camera's white balance, averaged to half size in linear light; LibRaw's wavelet threshold is "
    "left out, since it ends the process in this release"
)
_NOISE_NOTE = "denoisers: gain and read noise are estimated from each RAW itself"


@dataclass(frozen=True)
class _Model:
    """The ready model."""

    sample: SampleLatent
    decode: DecodeLatent
    recipe: InputRecipe
    seed: int


def _as_stored(picture: FloatImage) -> FloatImage:
    """Values as an 8-bit PNG of `ldmsid enhance` would hold them."""
    return np.asarray((picture.clip(0.0, 1.0) * 255.0).round() / 255.0, dtype=np.float32)


def _routes(path: Path, raw: PackedRaw, ratio: float, model: _Model) -> dict[str, list[FloatImage]]:
    """Pictures of every route, the model first; all in 8 bits."""
    result = enhance(
        raw, model.recipe, exposure_ratio=ratio, seed=model.seed, sample=model.sample,
        decode=model.decode,
    )  # fmt: skip
    spans = raw.white_level - np.asarray(raw.black_level, np.float64)[:, None, None]
    noise = estimate_noise(raw.planes[0].double().numpy() * spans)
    pictures = {
        MODEL_ROUTE: [to_float_image(result.image)],
        **classical_results(raw, noise, ratio),
        LIBRAW_ROUTE: [to_float_image(develop_fbdd(path, exposure_ratio=ratio))],
    }
    return {route: [_as_stored(p) for p in found] for route, found in pictures.items()}


def _score_one(pair: Pair, path: Path, measuring: Measuring, model: _Model) -> None:
    """Score a file.

    Raises:
        LdmSidError: If the file, its truth, or their sizes do not serve.
    """
    raw = load_raw(path)
    height, width = raw.planes.shape[-2:]
    size = (height, width) if raw.orientation & 4 else (width, height)
    truth = read_picture(pair.truth)
    check_same_size(size, (truth.shape[1], truth.shape[0]), f"{path} at half size", str(pair.truth))
    ratio = auto_exposure_ratio(raw) if pair.ratio is None else pair.ratio
    try:
        routes = _routes(path, raw, ratio, model)
    except (RuntimeError, MemoryError) as error:
        raise explain_failure(error, raw) from error
    measuring.add(pair, routes, truth)


def evaluate_raws(
    raws: Path,
    *,
    truth: Path,
    pairs: Path | None = None,
    ratio: float | None = None,
    host: Path | None = None,
    taming: Path | None = None,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    options: MeasureOptions,
) -> tuple[Evaluation, list[str]]:
    """Run and score the model, classical routes and LibRaw; a bad file is recorded and left out.

    Args:
        raws: Folder of RAW files.
        truth: Folder of truths at half the sensor's size, upright.
        pairs: CSV list of pairs; None matches by name.
        ratio: For files whose ratio the list does not say; None finds it for each file.
        host: Host weights; None is the embedded model.
        taming: Taming checkpoint; None is the embedded one.
        steps: Sampling steps.
        seed: Of the noise that sampling starts from.
        device: As for `enhance`.
        dtype: As for `enhance`.
        options: Of measuring.

    Returns:
        The evaluation, and one sentence for each file that failed.

    Raises:
        ConfigError: If a folder is empty, nothing matches, or every file failed.
        OutputError: If a report is there and may not be replaced.
    """
    wanted = find_pairs(truth, pairs)
    if ratio is not None:
        wanted = tuple(replace(p, ratio=ratio) if p.ratio is None else p for p in wanted)
    matching = match(wanted, list_files(raws, RAW_EXTENSIONS, "RAW files"), raws)
    measuring = Measuring.begin(options, len(matching.files))
    where = choose_device(device)
    precision = choose_dtype(dtype, where)
    loaded_host = load_host(find_model(host, EMBEDDED.host), dtype=precision)
    loaded_taming = load_taming(find_model(taming, EMBEDDED.taming), dtype=precision)
    failures: list[str] = []
    with (
        torch.inference_mode(),
        ready_engine(
            loaded_host, loaded_taming, device=where, dtype=precision,
            settings=SamplingSettings(steps),
        ) as (sample, decode),
    ):  # fmt: skip
        model = _Model(sample, decode, loaded_taming.header.input_recipe, seed)
        for pair, path in tqdm(matching.files.items(), desc="evaluate", disable=options.quiet):
            try:
                _score_one(pair, path, measuring, model)
            except LdmSidError as error:
                text = " ".join(str(error).split())
                failures.append(text if path.name in text else f"{path}: {text}")
    measuring.notes += matching.sentences("RAW files")
    if failures:
        measuring.notes += [f"{len(failures)} files failed and are left out:", *failures]
    if not measuring.rows:
        raise ConfigError(f"Expected at least one RAW that can be scored: {'; '.join(failures)}")
    if any(pair.ratio is None for pair in matching.files):
        measuring.notes.append("exposure ratio: found from the brightness of each file (auto)")
    measuring.notes += [STRENGTHS_NOTE, _NOISE_NOTE, _LIBRAW_NOTE]
    settings: dict[str, Any] = {
        "raws": str(raws),
        "truth": str(truth),
        "pairs": "by name" if pairs is None else str(pairs),
        "ratio of files that the list leaves open": "auto" if ratio is None else ratio,
        "steps": steps,
        "seed": seed,
        "dtype": str(precision).removeprefix("torch."),
        "host": loaded_host.name,
        "taming": loaded_taming.name,
    }
    return measuring.finish("LDM-SID and its rivals on RAW files", settings), failures
