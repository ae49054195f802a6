"""`bounded` decoding against `exact` on whole camera frames, embedded model: PSNR of unit range.

The latent is sampled once; both modes decode it. Goal: at least 45 dB. A frame of 61 MP needs some
12 GB for `exact`.
"""

from __future__ import annotations

import argparse
import math

import torch
from frames import RATIO, dark_frame, photograph_frame
from seams import psnr

from ldmsid_core.hosts.dtypes import choose_dtype
from ldmsid_core.hosts.engine import attached_engine
from ldmsid_core.hosts.host import load_host
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.model_files import EMBEDDED
from ldmsid_core.pipeline import prepare_bands, to_unit_range
from ldmsid_core.taming.checkpoint import load_taming

SIZES = (24, 61)
_TALL, _WIDE = 2, 3


def compare(megapixels: float, steps: int) -> None:
    """Print how near the two modes are on a 3:2 frame of a sensor with so many pixels."""
    host, taming = load_host(EMBEDDED.host), load_taming(EMBEDDED.taming)
    unit = math.sqrt(megapixels * 1e6 / 4 / (_TALL * _WIDE))
    raw = dark_frame(photograph_frame(round(_TALL * unit), round(_WIDE * unit)), "photograph")
    bands = prepare_bands(raw, taming.header.input_recipe, exposure_ratio=RATIO)
    device, pictures = torch.device("cpu"), []
    latent: torch.Tensor | None = None
    for mode in ("exact", "bounded"):
        settings = SamplingSettings(steps, tile=512, decode=mode)
        with (
            torch.inference_mode(),
            attached_engine(
                host, taming, device=device, dtype=choose_dtype("auto", device), settings=settings
            ) as engine,
        ):
            if latent is None:
                latent = engine.sample(bands, 0)
            pictures.append(to_unit_range(engine.decode(latent, bands)))
    found = psnr(pictures[1], pictures[0])
    print(f"{megapixels:g} MP: bounded against exact {found:.1f} dB (goal 45)", flush=True)


def main() -> None:
    """Print a line a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, nargs="+", default=SIZES)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    for size in options.megapixels:
        compare(size, options.steps)


if __name__ == "__main__":
    main()
