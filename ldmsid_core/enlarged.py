"""A small picture enlarged to pixels and encoded tile by tile: what sampling may begin with."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from .tiling import LATENT_PIXELS, Tile, merge_tiles, plan_tiles

_TILE, _OVERLAP = 64, 8


def encode_enlarged(picture: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Enlarge a picture eightfold and encode it.

    Args:
        picture: `(B, 3, h, w)` unit range, one pixel a latent.
        encode: `(B, 3, 8h, 8w)` unit range -> latent `(B, C, h, w)`.

    Returns:
        `(B, C, h, w)` float32.
    """
    height, width = picture.shape[-2:]
    layout = plan_tiles(height, width, tile=_TILE, overlap=_OVERLAP)

    def compute(tiles: tuple[Tile, ...]) -> Tensor:
        (tile,) = tiles
        # Rows and columns beside the tile, so that enlarging knows no borders within the frame.
        top, left = max(0, tile.top - 1), max(0, tile.left - 1)
        near = picture[..., top : tile.top + tile.height + 1, left : tile.left + tile.width + 1]
        large = functional.interpolate(near, scale_factor=float(LATENT_PIXELS), mode="bilinear")
        rows, columns = LATENT_PIXELS * (tile.top - top), LATENT_PIXELS * (tile.left - left)
        bottom, right = rows + LATENT_PIXELS * tile.height, columns + LATENT_PIXELS * tile.width
        return encode(large[..., rows:bottom, columns:right])

    return merge_tiles(layout, compute)
