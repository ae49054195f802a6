"""Tile plans, blending weights, overlap-add: one plan for sampling and for decoding.

Tiles of a frame overlap; each is weighted by a window that is the product of two one-dimensional
ones, and weights are divided by their sum, so that tiles cut from an image merge to that image.
The windows of a product grid can be normalised per axis, which needs no buffer of weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from .errors import ConfigError, ShapeError

WindowName = Literal["smooth", "released"]
_RELEASED_VARIANCE = 0.01
LATENT_PIXELS = 8
# A Stable Diffusion halves its latent three times.
_NETWORK_PIXELS = 64
DEFAULT_OVERLAP = 128


def default_overlap(tile: int) -> int:
    """A good overlap for tiles of this side, both in pixels: a quarter, at most 128."""
    return min(DEFAULT_OVERLAP, tile // 4 // LATENT_PIXELS * LATENT_PIXELS)


def check_tile(tile: int, overlap: int) -> None:
    """Refuse tiles that no network takes.

    Args:
        tile: Side in pixels of the result.
        overlap: Of neighbours, in pixels of the result.

    Raises:
        ConfigError: If the tile is no multiple of 64, the overlap none of 8, or not below it.
    """
    if tile < _NETWORK_PIXELS or tile % _NETWORK_PIXELS:
        lower = max(_NETWORK_PIXELS, tile // _NETWORK_PIXELS * _NETWORK_PIXELS)
        raise ConfigError(
            f"Expected a tile that is a multiple of {_NETWORK_PIXELS} pixels, found {tile}; use "
            f"{lower} or {lower + _NETWORK_PIXELS}."
        )
    if not 0 <= overlap < tile or overlap % LATENT_PIXELS:
        raise ConfigError(
            f"Expected an overlap that is a multiple of {LATENT_PIXELS} pixels and below the tile "
            f"of {tile}, found {overlap}; a quarter of the tile is a good one."
        )


@dataclass(frozen=True)
class Tile:
    """One rectangle of a frame.

    Attributes:
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
        row: Number of its row of tiles.
        column: Number of its column of tiles.
    """

    top: int
    left: int
    height: int
    width: int
    row: int
    column: int

    def cut(self, x: Tensor, *, scale: int = 1) -> Tensor:
        """This rectangle of `(B, C, scale * H, scale * W)`, a view."""
        rows = slice(scale * self.top, scale * (self.top + self.height))
        columns = slice(scale * self.left, scale * (self.left + self.width))
        return x[..., rows, columns]


@dataclass(frozen=True)
class TileLayout:
    """How a frame is covered by equal tiles.

    Attributes:
        height: Of the frame, in latents.
        width: Of the frame.
        tile: Side of a tile; smaller frames have smaller tiles.
        overlap: Over which two tiles are blended; neighbours may share more.
        rows: First row of each row of tiles.
        columns: First column of each column of tiles.
        window: `smooth` is symmetric; `released` is the released implementation's, lopsided in y.
        batch: Tiles computed in one call.
    """

    height: int
    width: int
    tile: int
    overlap: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    window: WindowName = "smooth"
    batch: int = 1

    @property
    def shares_norms(self) -> bool:
        """Whether norms see the frame instead of a tile; the released code's see tiles."""
        return self.window == "smooth" and len(self.rows) * len(self.columns) > 1

    @property
    def tile_height(self) -> int:
        """Rows of every tile."""
        return min(self.tile, self.height)

    @property
    def tile_width(self) -> int:
        """Columns of every tile."""
        return min(self.tile, self.width)

    def tiles(self) -> tuple[Tile, ...]:
        """All tiles, row by row."""
        return tuple(
            Tile(top, left, self.tile_height, self.tile_width, row, column)
            for row, top in enumerate(self.rows)
            for column, left in enumerate(self.columns)
        )

    def row_weights(self, *, scale: int = 1) -> list[Tensor]:
        """Normalised weights of each row of tiles, `(scale * tile_height,)` float32."""
        return self._weights(self.rows, self.tile_height, self.height, scale, middle=0.5)

    def column_weights(self, *, scale: int = 1) -> list[Tensor]:
        """Normalised weights of each column of tiles, `(scale * tile_width,)` float32."""
        return self._weights(self.columns, self.tile_width, self.width, scale, middle=0.0)

    def _weights(
        self, starts: Sequence[int], size: int, length: int, scale: int, *, middle: float
    ) -> list[Tensor]:
        if self.window == "released":
            raw = [released_window(size * scale, middle=middle).double()] * len(starts)
        else:
            ramp = self.overlap * scale
            raw = [
                _smooth_window(size * scale, ramp, first=i == 0, last=i == len(starts) - 1)
                for i in range(len(starts))
            ]
        total = torch.zeros(length * scale, dtype=torch.float64)
        for start, window in zip(starts, raw, strict=True):
            total[start * scale : start * scale + len(window)] += window
        return [
            (window / total[start * scale : start * scale + len(window)]).float()
            for start, window in zip(starts, raw, strict=True)
        ]


def _smooth_window(size: int, ramp: int, *, first: bool, last: bool) -> Tensor:
    """1 in the middle, a squared sine down to the inner borders, 1 up to the frame's."""
    window = torch.ones(size, dtype=torch.float64)
    ramp = min(ramp, size)
    if ramp == 0:
        return window
    rise = torch.sin((torch.arange(ramp, dtype=torch.float64) + 0.5) / ramp * (math.pi / 2)) ** 2
    if not first:
        window[:ramp] *= rise
    if not last:
        window[size - ramp :] *= rise.flip(0)
    return window


def released_window(size: int, *, middle: float) -> Tensor:
    """The released implementation's Gaussian window of one axis, `(size,)` float32.

    Args:
        size: Of the tile.
        middle: 0.5 on the y axis and 0 on the x axis, which makes its window lopsided: the centre
            lies at `(size - 1) / 2 + middle`.
    """
    distance = torch.arange(size, dtype=torch.float64) - ((size - 1) / 2 + middle)
    exponent = -(distance**2) / size**2 / (2 * _RELEASED_VARIANCE)
    return (torch.exp(exponent) / math.sqrt(2 * math.pi * _RELEASED_VARIANCE)).float()


def _even_starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """As few tiles as keep the overlap, spread evenly."""
    if length <= tile:
        return (0,)
    count = math.ceil((length - overlap) / (tile - overlap))
    return tuple(round(i * (length - tile) / (count - 1)) for i in range(count))


def _released_starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """Equal strides, the last tile moved back to the frame's border."""
    if length <= tile:
        return (0,)
    stride = tile - overlap
    return (*range(0, length - tile, stride), length - tile)


def plan_tiles(
    height: int,
    width: int,
    *,
    tile: int,
    overlap: int,
    window: WindowName = "smooth",
    batch: int = 1,
) -> TileLayout:
    """Cover a frame with tiles.

    Args:
        height: Of the frame, in latents.
        width: Of the frame.
        tile: Side of a tile; where a side of the frame is shorter, the tile is that short.
        overlap: Of neighbours, at least.
        window: How tiles are weighted; `released` also places them as the released code does.
        batch: Tiles computed in one call.

    Raises:
        ConfigError: If the overlap does not leave a stride, or a number is out of range.
    """
    if min(height, width) < 1:
        raise ShapeError(f"Expected a frame of at least 1x1, found {width}x{height}.")
    if tile < 1 or not 0 <= overlap < tile:
        raise ConfigError(
            f"Expected a tile above its overlap and both not negative, found tile {tile} and "
            f"overlap {overlap}; a quarter of the tile is a good overlap."
        )
    if window not in get_args(WindowName):
        raise ConfigError(f"Expected a window among {get_args(WindowName)}, found {window!r}.")
    if batch < 1:
        raise ConfigError(f"Expected at least 1 tile a call, found {batch}.")
    starts = _released_starts if window == "released" else _even_starts
    return TileLayout(
        height, width, tile, overlap,
        starts(height, tile, overlap), starts(width, tile, overlap), window, batch,
    )  # fmt: skip


def _groups(tiles: Sequence[Tile], size: int) -> Iterator[tuple[Tile, ...]]:
    for first in range(0, len(tiles), size):
        yield tuple(tiles[first : first + size])


def stack_tiles(tiles: Sequence[Tile], x: Tensor, *, scale: int = 1) -> Tensor:
    """Tiles of `(B, C, H, W)` one after the other in the batch, `(len(tiles) * B, C, h, w)`."""
    return torch.cat([tile.cut(x, scale=scale) for tile in tiles])


@lru_cache(maxsize=8)
def _placed_weights(
    layout: TileLayout, scale: int, device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of rows and columns of tiles, ready to be multiplied: made once, not every step."""
    rows = [w.to(device)[:, None] for w in layout.row_weights(scale=scale)]
    columns = [w.to(device)[None, :] for w in layout.column_weights(scale=scale)]
    return rows, columns


def merge_tiles(
    layout: TileLayout, compute: Callable[[tuple[Tile, ...]], Tensor], *, scale: int = 1
) -> Tensor:
    """Compute a frame tile by tile and add the results up, weighted.

    Args:
        layout: Of the frame.
        compute: Some tiles -> `(len(tiles) * B, C, scale * h, scale * w)`, tile after tile.
        scale: Output pixels per latent.

    Returns:
        `(B, C, scale * H, scale * W)` float32, on the device of the results.

    Raises:
        ShapeError: If `compute` returns another size.
    """
    wanted = (scale * layout.tile_height, scale * layout.tile_width)
    merged: Tensor | None = None
    for group in _groups(layout.tiles(), layout.batch):
        results = compute(group)
        if tuple(results.shape[-2:]) != wanted or len(results) % len(group):
            raise ShapeError(
                f"Expected {len(group)} tiles of {wanted}, found {tuple(results.shape)}."
            )
        count, channels = len(results) // len(group), results.shape[1]
        if merged is None:
            size = (count, channels, scale * layout.height, scale * layout.width)
            merged = torch.zeros(size, device=results.device)
        rows, columns = _placed_weights(layout, scale, results.device)
        for tile, result in zip(group, results.chunk(len(group)), strict=True):
            weighted = result.float() * rows[tile.row] * columns[tile.column]
            tile.cut(merged, scale=scale).add_(weighted)
    assert merged is not None
    return merged
