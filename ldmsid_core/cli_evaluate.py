"""`ldmsid evaluate`: the model against classical routes on photographs never trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from .cli_evaluate_measure import MeasureOptions, Measuring
from .cli_evaluate_models import ModelOptions, open_models
from .cli_synth import dark_counts
from .errors import ConfigError
from .evaluation.classical import ROUTES, STRENGTHS, denoise_counts
from .evaluation.defaults import ISO, RATIOS
from .evaluation.metrics import FloatImage, psnr_rgb, ssim_rgb
from .evaluation.pairing import Pair
from .evaluation.sheet import save_sheet, to_float_image
from .evaluation.table import Row, ScoreTable
from .output.atomic import check_folder, refuse_existing, written_atomically
from .raw.develop import develop_planes
from .raw.noise import A7S2_BLACK_LEVEL, A7S2_WHITE_LEVEL, SensorNoise, a7s2_noise
from .raw.packed_raw import PackedRaw, RawMetadata, apply_orientation
from .raw.packing import check_exposure_ratio, normalise, pack_bayer
from .raw.simulate import A7S2_WHITE_BALANCE, A7S2_XYZ_TO_CAMERA
from .training.photographs import EVALUATION_PHOTOGRAPHS, load_photograph

_EMBEDDED_MODEL = ModelOptions()
STRENGTHS_NOTE = (
    f"BayesShrink and non-local means: best of the strengths {', '.join(map(str, STRENGTHS))} for "
    "each metric by itself, chosen with the truth, which the model never sees; sheets show the "
    "middle one"
)


def parse_ratios(text: str) -> list[float]:
    """Ratios of a comma-separated list.

    Raises:
        ConfigError: If one is no number or out of range.
    """
    try:
        ratios = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"Expected ratios such as 100,250,300, found {text!r}.") from error
    return [check_exposure_ratio(ratio) for ratio in ratios]


def simulated_raw(counts: NDArray[np.uint16], name: str) -> PackedRaw:
    """The `PackedRaw` of counts that `dark_counts` made, as a file of them would load."""
    planes = normalise(
        pack_bayer(torch.from_numpy(counts.astype(np.float32))[None], cfa="RGGB"),
        black_level=(A7S2_BLACK_LEVEL,) * 4,
        white_level=A7S2_WHITE_LEVEL,
    )
    return PackedRaw(
        planes=planes,
        cfa="RGGB",
        black_level=(A7S2_BLACK_LEVEL,) * 4,
        white_level=A7S2_WHITE_LEVEL,
        white_balance=A7S2_WHITE_BALANCE,
        white_balance_source="as shot",
        xyz_to_camera=A7S2_XYZ_TO_CAMERA,
        orientation=0,
        metadata=RawMetadata(),
        file_name=name,
    )


def classical_results(
    raw: PackedRaw, noise: SensorNoise, ratio: float
) -> dict[str, list[FloatImage]]:
    """Every classical route's pictures, one per strength, upright, with the file's own colour.

    Args:
        raw: The file: its levels, balance, matrix and orientation are used.
        noise: Of its counts.
        ratio: Exposure ratio.
    """
    spans = raw.white_level - np.asarray(raw.black_level, np.float64)[:, None, None]
    signal = raw.planes[0].double().numpy() * spans
    results: dict[str, list[FloatImage]] = {}
    for name, denoiser in ROUTES.items():
        clean = (
            [signal]
            if denoiser is None
            else [denoise_counts(signal, noise, denoiser, s) for s in STRENGTHS]
        )
        results[name] = [_developed(light * (ratio / spans), raw) for light in clean]
    return results


def _developed(light: NDArray[np.float64], raw: PackedRaw) -> FloatImage:
    picture = develop_planes(
        torch.from_numpy(light)[None],
        white_balance=raw.white_balance,
        xyz_to_camera=raw.xyz_to_camera,
    )
    return to_float_image(apply_orientation(picture, raw.orientation))


def _rows(name: str, ratio: float, pictures: dict[str, list[FloatImage]],
          truth: FloatImage) -> list[Row]:  # fmt: skip
    """One row a route; a route with several strengths gets the best of each metric."""
    return [
        {
            "photograph": name,
            "ratio": ratio,
            "route": route,
            "psnr": max(psnr_rgb(picture, truth) for picture in found),
            "ssim": max(ssim_rgb(picture, truth) for picture in found),
        }
        for route, found in pictures.items()
    ]


def evaluate_model(
    *,
    output: Path | None = None,
    ratios: str = RATIOS,
    iso: float = ISO,
    models: ModelOptions = _EMBEDDED_MODEL,
    overwrite: bool = False,
    quiet: bool = False,
    options: MeasureOptions | None = None,
) -> ScoreTable:
    """Score learned and classical routes; optionally write sheets, the table and a report.

    Args:
        output: Folder for `NAME_xRATIO.png` (each route at its best PSNR, the learned ones, truth),
            `scores.json` and the report with all metrics.
        ratios: Comma-separated.
        iso: Of the simulated A7S II.
        models: Learned routes; their seed is that of simulated noise too.
        overwrite: Replace older sheets and scores.
        quiet: No progress bar.
        options: What the report measures by; its folder is `output`.

    Raises:
        ConfigError: If ratios, ISO, device or dtype are none.
        CheckpointError: If a weight file is missing or of another kind.
        OutputError: If a result exists and may not be replaced, or cannot be written.
    """
    noise = a7s2_noise(iso)
    cases = [(r, n) for r in parse_ratios(ratios) for n in sorted(EVALUATION_PHOTOGRAPHS)]
    if output is not None:
        for ratio, name in cases:
            refuse_existing(output / f"{name}_x{ratio:g}.png", overwrite=overwrite)
        refuse_existing(output / "scores.json", overwrite=overwrite)
        check_folder(output)
    measured = replace(options or MeasureOptions(), output=output, overwrite=overwrite)
    measuring = None if output is None else Measuring.begin(measured, len(cases))
    rows: list[Row] = []
    with open_models(models) as ready:
        for ratio, name in tqdm(cases, desc="evaluate", disable=quiet):
            photograph = load_photograph(name)
            counts = dark_counts(photograph, ratio=ratio, iso=iso, seed=models.seed)
            raw = simulated_raw(counts, name)
            truth = np.asarray(photograph, dtype=np.float32) / 255.0
            learned = {route: [run(raw, ratio)] for route, run in ready.routes.items()}
            pictures = classical_results(raw, noise, ratio) | learned
            rows += _rows(name, ratio, pictures, truth)
            if output is not None and measuring is not None:
                ordered = {**learned, **pictures}
                measuring.add(Pair(name, Path(f"{name}.png"), ratio), ordered, truth)
                shown = [
                    max(found, key=partial(psnr_rgb, truth=truth)) for found in pictures.values()
                ]
                sheet = output / f"{name}_x{ratio:g}.png"
                save_sheet(sheet, [*shown, truth], overwrite=overwrite)
    table = ScoreTable(rows)
    if output is not None and measuring is not None:
        measuring.notes += [STRENGTHS_NOTE, *ready.notes]
        settings = {"ratios": ratios, "iso": iso, **ready.settings}
        measuring.finish("LDM-SID against classical routes on simulated RAW files", settings)
        with written_atomically(output / "scores.json", overwrite=overwrite) as draft:
            draft.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return table
