"""Damage that shows in a file's bytes, or in the counts it decodes to.

For data that are missing, LibRaw hands out memory it never wrote, which may hold anything, also the
picture loaded before. So what a file lacks must be seen in the file itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UnsupportedRawError

_FEWEST_BITS = 0.25
_BLOCK = 4096
_SMALLEST_HOLE = 1 << 16
_HOLE_SHARE = 0.05
_DEAD_ROWS = 16
_FAR_ABOVE_WHITE = 2.0
_NOISY_WIDTH = 1024
# Bytes a pixel below which the counts must be compressed: 12 bits packed take 1.5, 8 bits 1.
_COMPRESSED = {True: 0.95, False: 1.45}


def check_bytes(path: Path, pixels: int, white_level: float) -> None:
    """Refuse a file that is too small for its pixels, or compressed with a hole of zeros.

    Uncompressed files may well hold long runs of zeros; no compressed data do.

    Args:
        path: The file.
        pixels: Of the whole mosaic.
        white_level: Saturation count; tells 8-bit files from deeper ones.

    Raises:
        UnsupportedRawError: If data are missing.
    """
    size = path.stat().st_size
    fewest = int(_FEWEST_BITS * pixels / 8)
    if size < fewest:
        raise UnsupportedRawError(
            f"Expected at least {fewest} bytes for {pixels} pixels, but {path} has {size}: only "
            "its header is there. Copy it from the card again."
        )
    if size >= _COMPRESSED[white_level <= 255] * pixels:
        return
    hole = longest_run_of_zeros(path)
    if hole >= max(_SMALLEST_HOLE, _HOLE_SHARE * size):
        raise UnsupportedRawError(
            f"Expected compressed data throughout, but {hole} of {size} bytes of {path} are a hole "
            "of zeros: the file was not written to its end. Copy it from the card again."
        )


def longest_run_of_zeros(path: Path) -> int:
    """Bytes of the longest run of whole blocks of zeros, in steps of 4096."""
    data = np.fromfile(path, dtype=np.uint64, count=path.stat().st_size // _BLOCK * (_BLOCK // 8))
    empty = ~data.reshape(-1, _BLOCK // 8).any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], empty.view(np.int8), [0]])))
    lengths = edges[1::2] - edges[0::2]
    return int(lengths.max()) * _BLOCK if lengths.size else 0


def check_content(
    counts: NDArray[np.uint16],
    levels: Sequence[float],
    white: float,
    path: Path,
    *,
    needs_light: bool = True,
) -> None:
    """Refuse mosaics that hold nothing: constant, never above black, or cut off half-way.

    Args:
        counts: `(H, W)`.
        levels: Black levels.
        white: Saturation count.
        path: For the error.
        needs_light: Refuse those never above black; dark frames may be.

    Raises:
        UnsupportedRawError: If it holds nothing.
    """
    black = max(levels)
    lowest, highest = counts.min(axis=1), counts.max(axis=1)
    low, high = int(lowest.min()), int(highest.max())
    if low == high:
        raise UnsupportedRawError(
            f"Expected an exposed mosaic, but every pixel of {path} is {low}: the file is "
            "truncated or was never written. Copy it from the card again."
        )
    if needs_light and high <= black:
        raise UnsupportedRawError(
            f"Expected pixels above the black level {black:g}, but the brightest of {path} is "
            f"{high}: the file holds no light. Was the lens cap on?"
        )
    if not black < white:
        raise UnsupportedRawError(
            f"Expected a white level above the black level, but LibRaw finds {white:g} and "
            f"{black:g} in {path}."
        )
    impossible = (highest < min(levels)) | (lowest > _FAR_ABOVE_WHITE * white)
    if counts.shape[1] >= _NOISY_WIDTH:  # where black is 0, no such row of a real sensor is all 0
        impossible |= highest == 0
    _check_rows((lowest == highest) & impossible, path)


def _check_rows(dead: NDArray[np.bool_], path: Path) -> None:
    """Refuse files with a block of rows that no sensor delivers.

    What a cut-off or zero-filled file decodes to is constant, and below black or far above white;
    a black or a blown-out part of a real frame is neither.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], dead.view(np.int8), [0]])))
    lengths = edges[1::2] - edges[0::2]
    if lengths.size and int(lengths.max()) >= _DEAD_ROWS:
        first = int(edges[0::2][lengths.argmax()])
        raise UnsupportedRawError(
            f"Expected a whole mosaic, but {int(lengths.max())} of {dead.size} rows of "
            f"{path} from row {first} on hold nothing: the file is truncated or damaged. Copy it "
            "from the card again."
        )
