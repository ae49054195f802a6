"""Our default recipe against the released one on one frame larger than 1024 px, embedded model.

Goal: PSNR against truth not lower by more than 0.1 dB. The released recipe takes 200 steps in 18
tiles of 64 latents here; `--steps` shortens it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from frames import ISO, RATIO, photograph_frame
from PIL import Image

from ldmsid_core.cli_enhance import enhance_files
from ldmsid_core.cli_enhance_options import EnhanceOptions
from ldmsid_core.cli_synth import dark_counts
from ldmsid_core.evaluation.metrics import psnr_rgb, ssim_rgb
from ldmsid_core.raw.dng import DngHeader, write_dng

SIZE = (1024, 1536)


def main() -> None:
    """Print scores of both recipes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="Of the released recipe.")
    options = parser.parse_args()
    truth = photograph_frame(*SIZE)
    scores = {}
    with tempfile.TemporaryDirectory() as name:
        raw = Path(name) / "frame.dng"
        write_dng(raw, dark_counts(truth, ratio=RATIO, iso=ISO, seed=0), DngHeader())
        for recipe, steps in (("default", None), ("released", options.steps)):
            started = time.process_time()
            wanted = EnhanceOptions(
                Path(name) / recipe, ratio=str(RATIO), recipe=recipe, steps=steps, quiet=True
            )
            (report,) = enhance_files([str(raw)], wanted)
            with Image.open(report["output"]) as picture:
                found = np.asarray(picture, dtype=np.float32) / 255.0
            own = truth.astype(np.float32) / 255.0
            scores[recipe] = psnr_rgb(found, own)
            print(
                f"{recipe} recipe: {scores[recipe]:.2f} dB, SSIM {ssim_rgb(found, own):.3f}, "
                f"{time.process_time() - started:.0f} CPU s", flush=True,
            )  # fmt: skip
    print(f"default - released: {scores['default'] - scores['released']:+.2f} dB (goal -0.10)")


if __name__ == "__main__":
    main()
