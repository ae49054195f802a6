"""Decoding in bounded memory: norm statistics from a sample of the frame, then tile by tile.

Scaling a frame down would take away the noise that the norms see in the bands; so the sample is
made of small tiles at full size, spread evenly. They go through the decoder side by side, with
statistics over all of them; their cut edges repeat their border pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..tiling import LATENT_PIXELS, Tile, TileLayout, merge_tiles, plan_tiles
from ..wavelet import SubBands
from .layers import Layers, Sides
from .network import TamedDecoder
from .norms import FixedNorms, Moments, PooledNorms

# 27 tiles of 192 pixels: in measurements better than fewer larger or more smaller ones.
SAMPLE_TILE = 24
SAMPLE_POSITIONS = 1_000_000 // LATENT_PIXELS**2
# Self-attention at the decoder's start looks at least this far.
SMALLEST_TILE = 64
DEFAULT_TILE, OVERLAP = 96, 16

Place = Callable[[Tensor], Tensor]


def sample_tiles(height: int, width: int, *, positions: int = SAMPLE_POSITIONS) -> list[Tile]:
    """Tiles that stand for a frame, in even rows and columns.

    Args:
        height: Of the frame, in latents.
        width: Of the frame.
        positions: Of all tiles together, at most; at least one tile.
    """
    tall, wide = min(SAMPLE_TILE, height), min(SAMPLE_TILE, width)
    count = max(1, positions // (tall * wide))
    most_rows, most_columns = -(-height // tall), -(-width // wide)
    rows = round(math.sqrt(count * height / width))
    rows = min(max(rows, -(-count // most_columns), 1), most_rows, count)
    columns = min(count // rows, most_columns)
    return [
        Tile(top, left, tall, wide, row, column)
        for row, top in enumerate(_spread(height - tall, rows))
        for column, left in enumerate(_spread(width - wide, columns))
    ]


def _spread(room: int, count: int) -> list[int]:
    """Even places; a single one lies in the middle."""
    if count == 1:
        return [room // 2]
    return [round(i * room / (count - 1)) for i in range(count)]


def place_bands(bands: SubBands, place: Place, tile: Tile | None = None) -> SubBands:
    """The bands of a tile, or of the whole frame, brought to where they are used."""

    def placed(levels: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        first, second, third = (
            place(x if tile is None else tile.cut(x, scale=LATENT_PIXELS >> level))
            for level, x in enumerate(levels, start=1)
        )
        return first, second, third

    return SubBands(placed(bands.ll), placed(bands.detail), bands.content_size)


def sides_of(tile: Tile, height: int, width: int) -> Sides:
    """Which sides of a tile are the frame's."""
    return Sides(
        tile.top == 0,
        tile.top + tile.height == height,
        tile.left == 0,
        tile.left + tile.width == width,
    )


def sample_statistics(
    network: TamedDecoder,
    latent: Tensor,
    bands: SubBands,
    tiles: list[Tile],
    layers: Layers,
    place: Place,
) -> list[Moments]:
    """Statistics of every norm, from one pass over the tiles that stand for the frame.

    Args:
        network: The decoder.
        latent: Unscaled, `(1, 4, h, w)`, of the whole frame.
        bands: Of the frame.
        tiles: From `sample_tiles`.
        layers: How; its norms and sides are not used.
        place: Brings a tensor to the device, dtype and memory format of decoding.
    """
    height, width = latent.shape[-2:]
    norms = PooledNorms()
    sides = [sides_of(tile, height, width) for tile in tiles]
    network.run(
        [place(tile.cut(latent)) for tile in tiles],
        [place_bands(bands, place, tile) for tile in tiles],
        replace(layers, norms=norms, sides=sides),
    )
    return norms.seen


def decode_bounded(
    network: TamedDecoder,
    latent: Tensor,
    bands: SubBands,
    layout: TileLayout,
    layers: Layers,
    place: Place,
    box: Tile | None = None,
) -> Tensor:
    """Decode a frame, or a part of it, in overlapping tiles with one set of statistics.

    Args:
        network: The decoder.
        latent: Unscaled, `(1, 4, h, w)`.
        bands: Of the frame.
        layout: Of the tiles of the box, at least 64 a side where the frame is.
        layers: How; its norms and sides are not used, `report` gets parts of the whole work.
        place: Brings a tensor to the device, dtype and memory format of decoding.
        box: The part, in latents; the whole frame by default.

    Returns:
        `(1, 3, 8h, 8w)` of the box, model range, float32, on the CPU.
    """
    height, width = latent.shape[-2:]
    above, before = (0, 0) if box is None else (box.top, box.left)
    area = layout.tile_height * layout.tile_width
    chosen = sample_tiles(height, width, positions=min(SAMPLE_POSITIONS, 2 * area))
    tiles = layout.tiles()
    sampled = sum(tile.height * tile.width for tile in chosen)
    total = network.layer_count() * (sampled + area * len(tiles))

    def reporting(part: int) -> Layers:
        return replace(layers, report=lambda done: layers.report(done * part / total))

    each = sampled // len(chosen)
    known = sample_statistics(network, latent, bands, chosen, reporting(each), place)
    own = reporting(area)

    def compute(group: tuple[Tile, ...]) -> Tensor:
        pictures = []
        for one in group:
            tile = replace(one, top=one.top + above, left=one.left + before)
            sides = (sides_of(tile, height, width),)
            run = replace(own, norms=FixedNorms(known), sides=sides)
            (picture,) = network.run(
                [place(tile.cut(latent))], [place_bands(bands, place, tile)], run
            )
            pictures.append(picture.cpu())
        return torch.cat(pictures)

    return merge_tiles(layout, compute, scale=LATENT_PIXELS)


def bounded_layout(height: int, width: int, tile: int) -> TileLayout:
    """Tiles of a frame for decoding; where it is smaller than a tile, one piece."""
    return plan_tiles(height, width, tile=tile, overlap=min(OVERLAP, tile - 1))
