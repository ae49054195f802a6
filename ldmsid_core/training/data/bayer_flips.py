"""Flips of packed planes with their truth: by whole cells, or keeping the filter layout.

A mosaic of even width that is mirrored has another filter layout: RGGB becomes GRBG. Packed by
*that* layout, its planes are the old planes mirrored. So mirroring planes and truth alike is exact
at the level of cells, the truth stays aligned to the pixel, and only the place of a colour inside
its cell changes sides: `cells`, what the paper does.

Where that matters, a mosaic is mirrored after one sensor column was cut off on both sides, which
gives the old layout back (Liu et al., *Learning raw image denoising with Bayer pattern unification
and Bayer preserving augmentation*, CVPRW 2019): `bayer`. Its cells straddle two old ones, so its
truth is the mean of two neighbouring pixels: aligned, and softer by that. Rows go likewise.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from ...errors import ConfigError
from ...raw.cfa import CfaPattern, packed_places

Flips = Literal["none", "cells", "bayer"]
_AXES = (-2, -1)


def check_flips(flips: str) -> Flips:
    """The kind of flips itself, if it is one.

    Raises:
        ConfigError: If it is none.
    """
    for known in get_args(Flips):
        if flips == known:
            return known
    raise ConfigError(f"Expected flips among {', '.join(get_args(Flips))}, found {flips!r}.")


def spare_cells(flips: Flips, flipped: tuple[bool, bool]) -> tuple[int, int]:
    """Rows and columns that a crop must have more than it keeps."""
    if flips != "bayer":
        return 0, 0
    return int(flipped[0]), int(flipped[1])


def flip_planes(
    planes: Tensor, flipped: tuple[bool, bool], *, flips: Flips, cfa: CfaPattern
) -> Tensor:
    """Packed planes of the mirrored mosaic.

    Args:
        planes: `(4, h, w)`, R, G1, B, G2.
        flipped: Whether rows, and columns, change their order.
        flips: `cells`, or `bayer` for the layout kept.
        cfa: Layout of the mosaic.

    Returns:
        `(4, h, w)`; with `bayer` one row or column less on each flipped axis.
    """
    for axis, wanted in zip(_AXES, flipped, strict=True):
        if wanted:
            planes = _keep_layout(planes, axis, cfa) if flips == "bayer" else planes.flip(axis)
    return planes


def _keep_layout(planes: Tensor, axis: int, cfa: CfaPattern) -> Tensor:
    """Mirror one axis with a sensor line cut off on both sides.

    Lines that are first in their cell lose the first cell, the others the last: new cells join
    what was second in one old cell with what was first in the next.
    """
    cells = planes.shape[axis]
    mirrored = planes.narrow(axis, 0, cells - 1).flip(axis)
    for plane, place in enumerate(packed_places(cfa)):
        if place[axis] == 0:
            mirrored[plane] = planes[plane].narrow(axis, 1, cells - 1).flip(axis)
    return mirrored


def flip_truth(truth: Tensor, flipped: tuple[bool, bool], *, flips: Flips) -> Tensor:
    """The truth of `flip_planes`.

    Args:
        truth: `(3, h, w)`.
        flipped: Whether rows, and columns, change their order.
        flips: As for the planes.

    Returns:
        `(3, h, w)`; with `bayer` one row or column less on each flipped axis.
    """
    for axis, wanted in zip(_AXES, flipped, strict=True):
        if wanted and flips == "bayer":
            cells = truth.shape[axis]
            truth = 0.5 * (truth.narrow(axis, 0, cells - 1) + truth.narrow(axis, 1, cells - 1))
        if wanted:
            truth = truth.flip(axis)
    return truth
