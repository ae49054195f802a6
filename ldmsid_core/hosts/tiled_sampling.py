"""Joint denoising over tiles: in every step the prediction of a whole frame, tile by tile.

All tiles share one latent, one noise field and one set of norm statistics (`shared_norms`), so no
tile has a look of its own; the structure encoder runs on each tile's part of the low band (the
released implementation does the same).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..taming.attach import PredictNoise
from ..tiling import Tile, TileLayout, merge_tiles, stack_tiles


def tiled_prediction(predict: PredictNoise, layout: TileLayout) -> PredictNoise:
    """A prediction for a whole frame from one for tiles.

    Args:
        predict: `(latent, timestep, context, structure input)` -> prediction, of any size.
        layout: Of the frame, in latents.

    Returns:
        The same for frames of the layout's size; its results are float32.
    """

    def predict_frame(
        latent: Tensor, timestep: Tensor, context: Tensor, structure_input: Tensor
    ) -> Tensor:
        def compute(tiles: tuple[Tile, ...]) -> Tensor:
            count = len(tiles)
            return predict(
                _tiles_of(tiles, latent),
                timestep.repeat(count),
                context.repeat(count, 1, 1),
                _tiles_of(tiles, structure_input),
            )

        return merge_tiles(layout, compute)

    return predict_frame


def _tiles_of(tiles: tuple[Tile, ...], x: Tensor) -> Tensor:
    return stack_tiles(tiles, x).contiguous(memory_format=torch.channels_last)
