"""A part of a picture to enhance first: where it lies on the sensor and which tiles it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .errors import ConfigError
from .tiling import LATENT_PIXELS, Tile, TileLayout

# Bits of LibRaw's orientation, as in `raw.packed_raw.apply_orientation`.
_MIRROR_COLUMNS, _MIRROR_ROWS, _SWAP = 1, 2, 4
# How far the decoder's layers look, in latents; what attention adds beyond is faint.
DECODER_MARGIN = 16


class Crop(NamedTuple):
    """A rectangle in pixels."""

    left: int
    top: int
    width: int
    height: int


def parse_crop(text: str) -> Crop:
    """`x,y,w,h` as a rectangle.

    Raises:
        ConfigError: If it is not four whole numbers, the last two positive.
    """
    try:
        found = Crop(*(int(part) for part in text.split(",")))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"Expected a crop as x,y,width,height in whole pixels, found {text!r}; such as "
            "1000,600,512,512."
        ) from error
    if min(found.left, found.top) < 0 or min(found.width, found.height) < 1:
        raise ConfigError(
            f"Expected a crop with x and y not negative and a width and height of at least 1, "
            f"found {text!r}."
        )
    return found


def crop_on_sensor(crop: Crop, *, height: int, width: int, orientation: int) -> Crop:
    """Where a part of the upright picture lies on the sensor, which is not turned.

    Args:
        crop: In pixels of the upright picture.
        height: Of the packed planes, not turned.
        width: Of the packed planes.
        orientation: LibRaw's flip bits.

    Raises:
        ConfigError: If it reaches beyond the picture.
    """
    swapped = bool(orientation & _SWAP)
    shown_width, shown_height = (height, width) if swapped else (width, height)
    if crop.left + crop.width > shown_width or crop.top + crop.height > shown_height:
        raise ConfigError(
            f"Expected a crop inside the picture of {shown_width}x{shown_height} pixels, found "
            f"{crop.width}x{crop.height} at {crop.left},{crop.top}."
        )
    left, top, wide, tall = crop
    if swapped:
        left, top, wide, tall = top, left, tall, wide
    if orientation & _MIRROR_COLUMNS:
        left = width - left - wide
    if orientation & _MIRROR_ROWS:
        top = height - top - tall
    return Crop(left, top, wide, tall)


def latents_of(crop: Crop, *, margin: int, height: int, width: int) -> Tile:
    """The latents that a part of a picture is decoded from.

    Args:
        crop: In pixels, not turned.
        margin: Latents beside it that the decoder looks at.
        height: Of the frame, in latents.
        width: Of the frame.
    """
    top = max(0, crop.top // LATENT_PIXELS - margin)
    left = max(0, crop.left // LATENT_PIXELS - margin)
    bottom = min(height, -(-(crop.top + crop.height) // LATENT_PIXELS) + margin)
    right = min(width, -(-(crop.left + crop.width) // LATENT_PIXELS) + margin)
    return Tile(top, left, bottom - top, right - left, 0, 0)


def _touching(starts: tuple[int, ...], size: int, first: int, count: int) -> tuple[int, ...]:
    return tuple(start for start in starts if start < first + count and start + size > first)


def part_of_layout(layout: TileLayout, part: Tile) -> tuple[TileLayout, Tile]:
    """The tiles of a frame that touch a part of it, as a layout of their own.

    Args:
        layout: Of the frame.
        part: In latents.

    Returns:
        The layout of those tiles, and the rectangle of the frame that they cover.
    """
    rows = _touching(layout.rows, layout.tile_height, part.top, part.height)
    columns = _touching(layout.columns, layout.tile_width, part.left, part.width)
    top, left = rows[0], columns[0]
    height = rows[-1] + layout.tile_height - top
    width = columns[-1] + layout.tile_width - left
    own = TileLayout(
        height, width, layout.tile, layout.overlap, tuple(row - top for row in rows),
        tuple(column - left for column in columns), layout.window, layout.batch,
    )  # fmt: skip
    return own, Tile(top, left, height, width, 0, 0)


def tiles_outside(tiles: Sequence[Tile], box: Tile) -> list[Tile]:
    """Tiles that do not lie in a box as a whole."""
    return [
        tile
        for tile in tiles
        if tile.top < box.top
        or tile.left < box.left
        or tile.top + tile.height > box.top + box.height
        or tile.left + tile.width > box.left + box.width
    ]


def cut_to_crop(image: Tensor, crop: Crop, place: Tile) -> Tensor:
    """The crop of a decoded picture, a view.

    Args:
        image: `(B, 3, 8h, 8w)` of a part of the frame.
        crop: In pixels, not turned; inside that part.
        place: That part, in latents.
    """
    top, left = crop.top - LATENT_PIXELS * place.top, crop.left - LATENT_PIXELS * place.left
    return image[..., top : top + crop.height, left : left + crop.width]
