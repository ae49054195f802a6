"""Parts of a frame that are enhanced alone against the same parts of the whole, embedded model.

PSNR of unit range, and PSNR of both against truth. No goal: a part shows what the whole will be.
"""

from __future__ import annotations

import numpy as np
import torch
from frames import RATIO, Picture, dark_frame
from seams import OVERLAP, SIZE, TILE, both_scenes, psnr

from ldmsid_core.crop import Crop, cut_to_crop
from ldmsid_core.hosts.dtypes import choose_dtype
from ldmsid_core.hosts.engine import attached_engine
from ldmsid_core.hosts.host import load_host
from ldmsid_core.hosts.region import enhance_region
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.model_files import EMBEDDED
from ldmsid_core.pipeline import prepare_bands, to_unit_range
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.tiling import LATENT_PIXELS, Tile

CROPS = (Crop(900, 500, 400, 300), Crop(100, 100, 400, 400))


def compare(name: str, truth: Picture, steps: int) -> None:
    """Print a line for each part of one scene."""
    host, taming = load_host(EMBEDDED.host), load_taming(EMBEDDED.taming)
    bands = prepare_bands(dark_frame(truth, name), taming.header.input_recipe, exposure_ratio=RATIO)
    device = torch.device("cpu")
    own = torch.from_numpy(truth.astype(np.float32) / 255.0).permute(2, 0, 1)[None]
    frame = Tile(0, 0, SIZE[0] // LATENT_PIXELS, SIZE[1] // LATENT_PIXELS, 0, 0)
    settings = SamplingSettings(steps, tile=TILE, overlap=OVERLAP)
    dtype = choose_dtype("auto", device)
    with (
        torch.inference_mode(),
        attached_engine(host, taming, device=device, dtype=dtype, settings=settings) as engine,
    ):
        whole = to_unit_range(engine.decode(engine.sample(bands, 0), bands))
        for crop in CROPS:
            alone = to_unit_range(enhance_region(engine, bands, crop, 0))
            same, wanted = cut_to_crop(whole, crop, frame), cut_to_crop(own, crop, frame)
            print(
                f"{name}, {crop.width} x {crop.height} at {crop.left}, {crop.top}: alone against "
                f"whole {psnr(alone, same):.1f} dB; against truth alone {psnr(alone, wanted):.2f} "
                f"dB, whole {psnr(same, wanted):.2f} dB",
                flush=True,
            )


if __name__ == "__main__":
    both_scenes(compare, __doc__)
