"""Writes mosaics as DNG files: what `ldmsid synth` and the tests need (Adobe DNG 1.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from ..output.atomic import written_atomically
from .cfa import CfaPattern
from .simulate import A7S2_WHITE_BALANCE, A7S2_XYZ_TO_CAMERA

_COLOUR_CODE = {"R": 0, "G": 1, "B": 2}
_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _SRATIONAL = 1, 2, 3, 4, 5, 10
_D65 = 21
_MATRIX_DENOMINATOR = 10000


@dataclass(frozen=True)
class DngHeader:
    """What stands beside the counts in a DNG.

    Attributes:
        cfa: Layout of the top-left 2x2 tile of the active area.
        black_level: Counts of the four places of that tile, row by row.
        white_level: Saturation count.
        white_balance: Multipliers R, G, B with green 1; None leaves the tag out.
        xyz_to_camera: Rows of the matrix for D65.
        orientation: TIFF orientation, 1 to 8.
        active_area: Top, left, bottom, right in the mosaic; None is all of it.
        make: Camera maker.
        model: Camera model.
        iso: Sensitivity; None leaves the tag out.
        shutter_s: Exposure time in seconds; None leaves the tag out.
        aperture: f-number; None leaves the tag out.
        description: Free text.
    """

    cfa: CfaPattern = "RGGB"
    black_level: tuple[int, int, int, int] = (512, 512, 512, 512)
    white_level: int = 16383
    white_balance: tuple[float, float, float] | None = A7S2_WHITE_BALANCE
    xyz_to_camera: Sequence[Sequence[float]] = field(default=A7S2_XYZ_TO_CAMERA)
    orientation: int = 1
    active_area: tuple[int, int, int, int] | None = None
    make: str = "LDM-SID"
    model: str = "LDM-SID simulated sensor"
    iso: float | None = None
    shutter_s: float | None = None
    aperture: float | None = None
    description: str = ""


def _rational(value: float, limit: int = 100000) -> tuple[int, int]:
    exact = Fraction(value).limit_denominator(limit)
    return exact.numerator, exact.denominator


def _tags(header: DngHeader) -> list[tuple[int, int, int, Any, bool]]:
    """TIFF tags as tifffile takes them: code, type, count, value, in the first page only."""
    model = f"{header.make} {header.model}"
    matrix = [
        part
        for row in header.xyz_to_camera
        for value in row
        for part in (round(value * _MATRIX_DENOMINATOR), _MATRIX_DENOMINATOR)
    ]
    tags: list[tuple[int, int, int, Any, bool]] = [
        (271, _ASCII, 0, header.make, True),
        (272, _ASCII, 0, header.model, True),
        (274, _SHORT, 1, header.orientation, True),
        (33421, _SHORT, 2, (2, 2), True),
        (33422, _BYTE, 4, bytes(_COLOUR_CODE[letter] for letter in header.cfa), True),
        (50706, _BYTE, 4, bytes((1, 4, 0, 0)), True),
        (50707, _BYTE, 4, bytes((1, 1, 0, 0)), True),
        (50708, _ASCII, 0, model, True),
        (50713, _SHORT, 2, (2, 2), True),
        (50714, _LONG, 4, header.black_level, True),
        (50717, _LONG, 1, header.white_level, True),
        (50721, _SRATIONAL, 9, matrix, True),
        (50778, _SHORT, 1, _D65, True),
    ]
    if header.active_area is not None:
        tags.append((50829, _LONG, 4, header.active_area, True))
    if header.white_balance is not None:
        neutral = [part for gain in header.white_balance for part in _rational(1.0 / gain)]
        tags.append((50728, _RATIONAL, 3, neutral, True))
    if header.iso is not None:
        tags.append((34855, _SHORT, 1, min(65535, round(header.iso)), True))
    for code, value in ((33434, header.shutter_s), (33437, header.aperture)):
        if value is not None:
            tags.append((code, _RATIONAL, 1, _rational(value), True))
    return sorted(tags)


def write_dng(
    path: Path, mosaic: NDArray[np.uint16], header: DngHeader, *, overwrite: bool = False
) -> None:
    """Write a mosaic as an uncompressed 16-bit DNG.

    Args:
        path: The file.
        mosaic: `(H, W)` counts, black level included.
        header: What stands beside them.
        overwrite: Replace an existing file.

    Raises:
        OutputError: If the file exists or cannot be written.
    """
    with written_atomically(path, overwrite=overwrite) as partial:
        tifffile.imwrite(
            partial,
            np.ascontiguousarray(mosaic, dtype=np.uint16),
            photometric="cfa",
            byteorder="<",
            metadata=None,
            software="LDM-SID",
            description=header.description or None,
            extratags=_tags(header),
        )
