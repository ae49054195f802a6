"""A part of a frame at its own scale, without computing the rest of it.

Noise, tiles and exposure are those of the whole frame. What the decoder's norms must know of the
rest comes from small tiles spread over the frame, each sampled alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..crop import (
    DECODER_MARGIN,
    Crop,
    cut_to_crop,
    latents_of,
    part_of_layout,
    tiles_outside,
)
from ..decoding.bounded import statistics_tiles
from ..decoding.layers import STRIP
from ..frame_plan import FramePlan, smaller_plan
from ..memory import with_less_memory
from ..sampling_grid import initial_noise
from ..tiling import Tile, plan_tiles
from ..wavelet import SubBands
from .engine import Engine
from .in_words import plan_named


def enhance_region(
    engine: Engine, bands: SubBands, crop: Crop, seed: int, picture: Tensor | None = None
) -> Tensor:
    """Sample and decode a part of a frame, once more with smaller tiles if memory runs out.

    Where the frame is so small that it is sampled in one piece, all of it is computed.

    Args:
        engine: Ready.
        bands: Of the whole frame, batch 1.
        crop: In pixels, not turned.
        seed: Of the noise.
        picture: To begin with; see `Engine.sample`.

    Returns:
        `(1, 3, height, width)` of the crop, model range.
    """
    height, width = bands.structure_input.shape[-2:]
    part = latents_of(crop, margin=DECODER_MARGIN, height=height, width=width)
    plan = engine.plan(height, width)
    layout, _ = part_of_layout(plan.layout, part)
    if len(layout.tiles()) == len(plan.layout.tiles()):
        whole = engine.decode(engine.sample(bands, seed, picture), bands)
        return cut_to_crop(whole, crop, Tile(0, 0, height, width, 0, 0))

    def compute(plan: FramePlan) -> Tensor:
        layout, box = part_of_layout(plan.layout, part)
        noise = initial_noise((1, engine.planner.channels, height, width), seed)
        latent = torch.zeros(noise.shape)
        norms = engine.shared_norms(bands, plan.layout, noise, seed, picture)
        for tile in tiles_outside(statistics_tiles(height, width, plan.decode_layout()), box):
            side = max(tile.height, tile.width)
            alone = plan_tiles(tile.height, tile.width, tile=side, overlap=0)
            found = engine.sample_part(bands, tile, alone, noise, seed, picture, norms)
            tile.cut(latent).copy_(found)
        found = engine.sample_part(bands, box, layout, noise, seed, picture, norms)
        box.cut(latent).copy_(found)
        image, place = engine.decoder.bounded_part(latent, bands, plan.decode_tile, part)
        return cut_to_crop(image, crop, place)

    def smaller(plan: FramePlan) -> FramePlan | None:
        engine.decoder.strip = STRIP
        return smaller_plan(plan)

    engine.decoder.strip = 0
    return with_less_memory(compute, plan, engine.stand_in.releasing(smaller), plan_named)
