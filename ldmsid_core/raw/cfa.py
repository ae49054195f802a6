"""Colour filter layouts: the four Bayer arrangements and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..errors import UnsupportedRawError

CfaPattern = Literal["RGGB", "BGGR", "GRBG", "GBRG"]
CFA_PATTERNS: tuple[CfaPattern, ...] = ("RGGB", "BGGR", "GRBG", "GBRG")
Place = tuple[int, int]


def packed_places(cfa: CfaPattern) -> tuple[Place, Place, Place, Place]:
    """Row and column in the 2x2 tile of R, G1 (green on red's row), B and G2."""
    red, blue = divmod(cfa.index("R"), 2), divmod(cfa.index("B"), 2)
    return red, (red[0], 1 - red[1]), blue, (blue[0], 1 - blue[1])


def cfa_from_pattern(pattern: Any, colour_names: str, *, file_name: str) -> CfaPattern:
    """The Bayer layout of LibRaw's colour-index pattern.

    Args:
        pattern: 2x2 colour indices at the top left of the visible area, or what LibRaw gives
            for other sensors: 6x6, 1x1, None.
        colour_names: Name of each colour index, LibRaw's `color_desc`, such as `RGBG`.
        file_name: For the error.

    Raises:
        UnsupportedRawError: If it is no 2x2 Bayer layout.
    """
    if pattern is None:
        raise UnsupportedRawError(
            f"Expected a Bayer mosaic, but {file_name} holds one without a colour filter "
            "layout (linear DNG, sRAW or Foveon); use the camera's original full-size RAW."
        )
    shape = np.asarray(pattern).shape
    if shape != (2, 2):
        kind = {(6, 6): "X-Trans", (1, 1): "monochrome"}.get(shape, "other")
        raise UnsupportedRawError(
            f"Expected a 2x2 Bayer CFA, but {file_name} has a {'x'.join(map(str, shape))} one "
            f"({kind} sensor); {kind} files are not supported."
        )
    letters = "".join(colour_names[int(index)] for index in np.asarray(pattern).flat)
    if letters not in CFA_PATTERNS:
        raise UnsupportedRawError(
            f"Expected one of {', '.join(CFA_PATTERNS)}, but {file_name} has the filter layout "
            f"{letters}; such sensors are not supported."
        )
    return letters


def to_packed_order(
    per_colour_index: Sequence[float], pattern: Any, cfa: CfaPattern
) -> tuple[float, float, float, float]:
    """Values that LibRaw gives per colour index, in the order of the packed planes."""
    tile = np.asarray(pattern)
    first, second, third, fourth = (
        float(per_colour_index[int(tile[place])]) for place in packed_places(cfa)
    )
    return first, second, third, fourth
