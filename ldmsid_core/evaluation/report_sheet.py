"""Pictures of all routes and the truth in one small sheet, for looking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .metrics import FloatImage

TRUTH = "truth"
_TILE = 320
_HEAD = 24


@dataclass(frozen=True)
class Sheet:
    """One sheet.

    Attributes:
        image: Name of the dark picture.
        exposure_ratio: None where unknown.
        columns: From left to right.
        pixels: `(H, W, 3)`.
    """

    image: str
    exposure_ratio: float | None
    columns: tuple[str, ...]
    pixels: NDArray[np.uint8]


def build_sheet(
    image: str, exposure_ratio: float | None, pictures: Mapping[str, FloatImage], truth: FloatImage
) -> Sheet:
    """Each picture whole, scaled to a tile, and below it its middle at full size.

    Args:
        image: Name of the dark picture.
        exposure_ratio: None where unknown.
        pictures: By route, `(H, W, 3)` unit range.
        truth: The last column.
    """
    columns = {**pictures, TRUTH: truth}
    tiles = [_column(name, picture) for name, picture in columns.items()]
    return Sheet(image, exposure_ratio, tuple(columns), np.concatenate(tiles, axis=1))


def _column(name: str, picture: FloatImage) -> NDArray[np.uint8]:
    values = (picture.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
    height, width = values.shape[:2]
    whole = Image.fromarray(values)
    whole.thumbnail((_TILE, _TILE))
    top, left = (max(0, (side - _TILE) // 2) for side in (height, width))
    middle = Image.fromarray(values[top : top + _TILE, left : left + _TILE])
    canvas = Image.new("RGB", (_TILE, _HEAD + whole.height + 4 + middle.height), "white")
    ImageDraw.Draw(canvas).text(
        (4, 5), name.encode("latin-1", "replace").decode("latin-1"), "black"
    )
    canvas.paste(whole, (0, _HEAD))
    canvas.paste(middle, (0, _HEAD + whole.height + 4))
    return np.asarray(canvas)


def chosen_sheets(count: int, limit: int) -> set[int]:
    """Which of `count` pictures get a sheet: at most `limit`, spread evenly."""
    if count <= limit:
        return set(range(count))
    return {round(place) for place in np.linspace(0, count - 1, limit)} if limit else set()
