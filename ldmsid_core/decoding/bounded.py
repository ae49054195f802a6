"""Decoding in bounded memory: norm statistics from a sample of the frame, then tile by tile.

Scaling a frame down would take away the noise that the norms see in the bands; so the sample is
made of small tiles at full size, spread evenly and weighted so that they resemble the frame. They
go through the decoder side by side, with statistics over all of them; their cut edges repeat their
border pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..patchwork import spread
from ..tiling import LATENT_PIXELS, Tile, TileLayout, merge_tiles, plan_tiles
from ..wavelet import SubBands
from .layers import Layers, Sides
from .network import TamedDecoder
from .norms import FixedNorms, FrameNorms, Norms, PooledNorms
from .sample_weights import Known, sample_weights

# 27 tiles of 192 pixels: in measurements better than fewer larger or more smaller ones.
SAMPLE_TILE = 24
SAMPLE_POSITIONS = 1_000_000 // LATENT_PIXELS**2
# Self-attention at the decoder's start looks at least this far.
SMALLEST_TILE = 64
DEFAULT_TILE, OVERLAP = 96, 16
# Latents of a frame above which its attention looks at windows, and the head's part of the work.
WINDOWS_ABOVE, _HEAD_PART = 1 << 15, 0.1

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
        for row, top in enumerate(spread(height - tall, rows))
        for column, left in enumerate(spread(width - wide, columns))
    ]


def statistics_tiles(height: int, width: int, layout: TileLayout) -> list[Tile]:
    """The tiles that stand for a frame where it is decoded in those of a layout.

    Args:
        height: Of the frame, in latents.
        width: Of the frame.
        layout: Of decoding; together they need no more than two of its tiles.
    """
    area = layout.tile_height * layout.tile_width
    return sample_tiles(height, width, positions=min(SAMPLE_POSITIONS, 2 * area))


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


@dataclass(frozen=True)
class _Way:
    """How a tile is decoded: from the latent, or from features of the whole frame.

    Attributes:
        run: `TamedDecoder.run` or `TamedDecoder.tail`.
        enter: What it begins with in a tile.
        layers: That each tile goes through.
        known: What is known of the whole frame and enters after that.
        part: Of the whole work that the tiles are.
    """

    run: Callable[[list[Tensor], list[SubBands], Layers], list[Tensor]]
    enter: Callable[[Tile], Tensor]
    layers: int
    known: list[Known]
    part: float = 1.0


def _after_head(
    network: TamedDecoder, latent: Tensor, bands: SubBands, layers: Layers, place: Place
) -> _Way:
    """Compute the layers at the latent's own size for the whole frame.

    It is 1/64 of the picture, and some features there are rare and strong: no sample of the frame
    would get their statistics right.
    """
    whole = replace(
        layers,
        norms=FrameNorms(),
        sides=(Sides(),),
        attention_positions=WINDOWS_ABOVE,
        report=lambda done: layers.report(done * _HEAD_PART / network.head_count()),
    )
    ll, detail = ((levels[0], levels[1], place(levels[2])) for levels in (bands.ll, bands.detail))
    coarse = SubBands(ll, detail, bands.content_size)
    (features,) = network.head([place(latent)], [coarse], whole)
    left = network.layer_count() - network.head_count()
    known = [Known(features, 1), *_known_bands(bands, (1, 2))]
    return _Way(network.tail, lambda tile: tile.cut(features), left, known, 1.0 - _HEAD_PART)


def _known_bands(bands: SubBands, levels: Sequence[int]) -> list[Known]:
    """The bands of some levels, as what is known of a frame."""
    return [
        Known(values[level - 1], LATENT_PIXELS >> level)
        for level in levels
        for values in (bands.ll, bands.detail)
    ]


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
        latent: Unscaled, `(1, 4, h, w)`; where a box is given, right in the box and in the tiles
            that stand for the frame.
        bands: Of the frame.
        layout: Of the tiles of the box, at least 64 a side where the frame is.
        layers: How; its norms and sides are not used, `report` gets parts of the whole work.
        place: Brings a tensor to the device, dtype and memory format of decoding.
        box: The part, in latents; the whole frame by default.

    Returns:
        `(1, 3, 8h, 8w)` of the box, model range, float32, on the CPU.
    """
    height, width = latent.shape[-2:]
    if box is None:
        way = _after_head(network, latent, bands, layers, place)
    else:
        way = _Way(
            network.run, lambda tile: place(tile.cut(latent)), network.layer_count(),
            _known_bands(bands, (1, 2, 3)),
        )  # fmt: skip
    chosen = statistics_tiles(height, width, layout)
    tiles = layout.tiles()
    positions = sum(tile.height * tile.width for tile in (*chosen, *tiles))
    unit = way.part / (way.layers * positions)

    def decode(group: Sequence[Tile], norms: Norms) -> list[Tensor]:
        part = unit * group[0].height * group[0].width
        own = replace(
            layers,
            norms=norms,
            sides=[sides_of(tile, height, width) for tile in group],
            report=lambda done: layers.report(done * part),
        )
        entered = [way.enter(tile) for tile in group]
        return way.run(entered, [place_bands(bands, place, tile) for tile in group], own)

    sampled = PooledNorms(sample_weights(way.known, chosen))
    decode(chosen, sampled)
    top, left = (0, 0) if box is None else (box.top, box.left)

    def compute(group: tuple[Tile, ...]) -> Tensor:
        placed = [replace(tile, top=tile.top + top, left=tile.left + left) for tile in group]
        pictures = (decode([tile], FixedNorms(sampled.seen))[0].cpu() for tile in placed)
        return torch.cat(list(pictures))

    return merge_tiles(layout, compute, scale=LATENT_PIXELS)


def bounded_layout(height: int, width: int, tile: int) -> TileLayout:
    """Tiles of a frame for decoding; where it is smaller than a tile, one piece."""
    return plan_tiles(height, width, tile=tile, overlap=min(OVERLAP, tile - 1))
