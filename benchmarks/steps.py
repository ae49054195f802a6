"""Steps, solvers and starts on the embedded model: which few steps are as good as many.

PSNR and SSIM against truth and PSNR against the 200-step result, means over the evaluation
photographs, ratio 250, ISO 1600.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from frames import RATIO, dark_frame
from numpy.typing import NDArray

from ldmsid_core.band_views import amplified_low_band
from ldmsid_core.evaluation.metrics import psnr_rgb, ssim_rgb
from ldmsid_core.hosts.dtypes import choose_dtype
from ldmsid_core.hosts.engine import attached_engine
from ldmsid_core.hosts.host import load_host
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.model_files import EMBEDDED
from ldmsid_core.pipeline import finish_image, prepare_bands
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.training.photographs import EVALUATION_PHOTOGRAPHS, load_photograph

STEPS = (2, 4, 12, 20)
SAMPLERS = ("dpmpp-2m", "unipc", "ddim")
STARTS = (1.0, 0.8, 0.6)
MANY = 200


def photographs(settings: SamplingSettings, names: list[str]) -> list[NDArray[np.float32]]:
    """Results for all photographs, `(H, W, 3)` unit range."""
    host, taming = load_host(EMBEDDED.host), load_taming(EMBEDDED.taming)
    device, recipe = torch.device("cpu"), taming.header.input_recipe
    found = []
    dtype = choose_dtype("auto", device)
    with (
        torch.inference_mode(),
        attached_engine(host, taming, device=device, dtype=dtype, settings=settings) as engine,
    ):
        for name in names:
            raw = dark_frame(load_photograph(name), name)
            bands = prepare_bands(raw, recipe, exposure_ratio=RATIO)
            latent = engine.sample(bands, 0, amplified_low_band(bands, raw, recipe))
            image = finish_image(engine.decode(latent, bands), raw, bands)
            found.append(image[0].permute(1, 2, 0).numpy())
    return found


def main() -> None:
    """Print the table, best PSNR against truth last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="One photograph, few cases.")
    parser.add_argument("--json", type=Path, help="Write the rows here as well.")
    options = parser.parse_args()
    names = sorted(EVALUATION_PHOTOGRAPHS)[: 1 if options.short else None]
    steps, starts = ((4, 12), (1.0, 0.6)) if options.short else (STEPS, STARTS)
    many = 30 if options.short else MANY
    truths = [load_photograph(name).astype(np.float32) / 255.0 for name in names]
    reference = photographs(SamplingSettings(many), names)
    cases = [(many, "dpmpp-2m", 1.0), *itertools.product(steps, SAMPLERS, starts)]
    rows = []
    print(f"steps  solver    start  PSNR   SSIM   PSNR against {many} steps")
    for count, sampler, start in cases:
        images = photographs(SamplingSettings(count, sampler, start=start), names)
        pairs = list(zip(images, truths, reference, strict=True))
        row = {
            "steps": count, "sampler": sampler, "start": start,
            "psnr": float(np.mean([psnr_rgb(i, t) for i, t, _ in pairs])),
            "ssim": float(np.mean([ssim_rgb(i, t) for i, t, _ in pairs])),
            "psnr_many": float(np.mean([min(99.0, psnr_rgb(i, r)) for i, _, r in pairs])),
        }  # fmt: skip
        rows.append(row)
        print(
            f"{count:5d}  {sampler:8s}  {start:5.1f}  {row['psnr']:.2f}  {row['ssim']:.3f}  "
            f"{row['psnr_many']:.1f}", flush=True,
        )  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
