"""A picture as a latent to begin sampling with, through the host's own encoder, tile by tile."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from ..tiling import LATENT_PIXELS, Tile, merge_tiles, plan_tiles

_TILE, _OVERLAP = 64, 8


def encode_picture(vae: nn.Module, picture: Tensor, place: Callable[[Tensor], Tensor]) -> Tensor:
    """Enlarge a picture eightfold and encode it.

    Args:
        vae: diffusers' `AutoencoderKL`.
        picture: `(B, 3, h, w)` unit range, one pixel a latent.
        place: Brings a tensor to the VAE's device and dtype.

    Returns:
        Unscaled latent `(B, 4, h, w)` float32, the encoder's mean.
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
        own = large[
            ..., rows : rows + LATENT_PIXELS * tile.height,
            columns : columns + LATENT_PIXELS * tile.width,
        ]  # fmt: skip
        found: Tensor = vae.encode(place(own * 2.0 - 1.0)).latent_dist.mode()  # type: ignore[operator]
        return found

    return merge_tiles(layout, compute)
