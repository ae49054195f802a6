"""A small picture that stands for a frame: patches spread evenly over it, sewn together.

Patches keep their size, since scaling would take away the noise that norms see in latent and bands.
The seams between them matter little: in measurements 64 patches of 8 x 8 latents stood for a frame
as well as tiles of 24 or 32 did.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .tiling import TileLayout, plan_tiles

# A Stable Diffusion halves its latent three times.
PATCH = 8
# 64 x 64 latents, what Stable Diffusion was trained at; less where tiles are smaller.
_MOST, _LEAST = 64, 16
# Side of the smallest tile that takes as much memory, in latents.
SMALLEST_SAMPLED = 32


@dataclass(frozen=True)
class Patchwork:
    """Which patches of a frame stand for it.

    Attributes:
        rows: First row of each row of patches, in latents.
        columns: First column of each column of patches.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def height(self) -> int:
        """Of the picture that they make, in latents."""
        return PATCH * len(self.rows)

    @property
    def width(self) -> int:
        """Of the picture that they make."""
        return PATCH * len(self.columns)

    def layout(self) -> TileLayout:
        """The picture in one piece."""
        side = max(self.height, self.width)
        return plan_tiles(self.height, self.width, tile=side, overlap=0)

    def cut(self, x: Tensor) -> Tensor:
        """The patches of `(B, C, H, W)`, sewn together."""
        tall = torch.cat([x[..., top : top + PATCH, :] for top in self.rows], dim=-2)
        return torch.cat([tall[..., left : left + PATCH] for left in self.columns], dim=-1)


def spread(room: int, count: int) -> tuple[int, ...]:
    """Even places from 0 to `room`; a single one lies in the middle."""
    if count == 1:
        return (room // 2,)
    return tuple(round(i * room / (count - 1)) for i in range(count))


def patchwork_of(layout: TileLayout) -> Patchwork:
    """The patches that stand for a frame cut into tiles; together they are about one tile.

    Args:
        layout: Of the frame, at least 8 latents a side.
    """
    tile = layout.tile_height * layout.tile_width
    count = min(max(tile // PATCH**2, _LEAST), _MOST)
    most_rows, most_columns = layout.height // PATCH, layout.width // PATCH
    rows = min(math.isqrt(count), most_rows)
    columns = min(count // rows, most_columns)
    rows = min(count // columns, most_rows)
    return Patchwork(spread(layout.height - PATCH, rows), spread(layout.width - PATCH, columns))
