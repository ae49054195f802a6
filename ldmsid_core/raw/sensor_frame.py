"""All counts of a camera file, masked border included: what noise is measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UnsupportedRawError
from .cfa import CfaPattern, packed_places
from .packed_raw import RawMetadata

Counts = NDArray[np.uint16]
_FEWEST_LINES = 8
_GUARD = 2  # lines next to the visible area, which light may creep under
_FAR = 3.0  # deviations of a pixel by which a line of the border is no masked one


@dataclass(frozen=True)
class SensorFrame:
    """One camera file as the sensor delivered it.

    Attributes:
        counts: `(H, W)` of the whole sensor.
        top: Rows above the visible area.
        left: Columns left of it.
        height: Rows of the visible area, even.
        width: Columns of the visible area, even.
        cfa: Layout at the top left of the visible area.
        black_level: Counts per plane in packed order, as the file states them.
        white_level: Saturation count.
        metadata: What the camera wrote.
        file_name: Without its folder.
    """

    counts: Counts
    top: int
    left: int
    height: int
    width: int
    cfa: CfaPattern
    black_level: tuple[float, float, float, float]
    white_level: float
    metadata: RawMetadata
    file_name: str

    @property
    def planes(self) -> Counts:
        """`(4, H/2, W/2)` packed planes R, G1, B, G2 of the visible area."""
        return self._packed(slice(self.top, self.top + self.height),
                            slice(self.left, self.left + self.width))  # fmt: skip

    def _packed(self, rows: slice, columns: slice) -> Counts:
        part = self.counts[rows, columns]
        return np.stack([part[row::2, column::2] for row, column in packed_places(self.cfa)])

    def masked_planes(self) -> Counts:
        """`(4, h, w)` packed planes of the largest masked strip beside the visible area.

        Lines that stand out are left out: unexposed dummies, and those that light reaches.

        Raises:
            UnsupportedRawError: If the file holds no masked border, or an empty one.
        """
        strips = [
            (rows, columns)
            for rows, columns in self._strips()
            if min(rows.stop - rows.start, columns.stop - columns.start) >= _FEWEST_LINES
        ]
        if not strips:
            raise UnsupportedRawError(
                f"Expected a masked border of at least {_FEWEST_LINES} lines in {self.file_name}, "
                f"found {self.counts.shape} counts around {(self.height, self.width)} visible "
                "ones; take dark frames with the lens cap on instead."
            )
        largest = max(
            strips, key=lambda s: (s[0].stop - s[0].start) * (s[1].stop - s[1].start)
        )  # fmt: skip
        packed = self._packed(*largest)
        if packed.min() == packed.max():
            raise UnsupportedRawError(
                f"Expected noise in the masked border of {self.file_name}, but every count is "
                f"{packed.min()}: what wrote the file left it out. Use the camera's own file."
            )
        return _without_odd_lines(packed)

    def _strips(self) -> list[tuple[slice, slice]]:
        """Rows and columns beside the visible area, whole 2x2 tiles in step with it."""
        rows, columns = self.counts.shape
        bottom, right = self.top + self.height, self.left + self.width
        beside, across = slice(self.top, bottom), slice(self.left, right)
        return [
            (beside, _whole_tiles(self.left % 2, self.left - _GUARD)),
            (beside, _whole_tiles(right + _GUARD, columns)),
            (_whole_tiles(self.top % 2, self.top - _GUARD), across),
            (_whole_tiles(bottom + _GUARD, rows), across),
        ]


def _whole_tiles(start: int, stop: int) -> slice:
    return slice(start, max(start, stop - (stop - start) % 2))


def _without_odd_lines(packed: Counts) -> Counts:
    """The planes without rows and columns whose median in any plane is far from the others'."""
    middle = np.median(packed, axis=(1, 2), keepdims=True)
    low, high = np.percentile(packed, (16, 84), axis=(1, 2), keepdims=True)
    distance = (packed - middle) / np.maximum((high - low) / 2.0, 0.5)
    rows = (np.abs(np.median(distance, axis=2)) < _FAR).all(axis=0)
    columns = (np.abs(np.median(distance, axis=1)) < _FAR).all(axis=0)
    return packed[:, rows][:, :, columns]
