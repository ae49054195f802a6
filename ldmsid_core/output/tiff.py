"""16-bit TIFF through tifffile, with a GPS directory that tifffile itself does not write."""

from __future__ import annotations

import json
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import tifffile
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from .settings import SOFTWARE, OutputInfo, srgb_profile

_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED = 1, 2, 3, 4, 5, 7
_GPS_POINTER = 34853
# tifffile leaves that tag out; the next number keeps its place in the sorted directory.
_GPS_PLACEHOLDER = 34854


def _ascii(text: str) -> str:
    """TIFF texts are 7-bit."""
    return text.encode("ascii", "replace").decode()


def write_tiff16(path: Path, values: NDArray[Any], info: OutputInfo) -> None:
    """Write a 16-bit TIFF with profile, settings and camera metadata.

    Args:
        path: The file.
        values: `(H, W, 3)`, 16 bit.
        info: What to keep inside; named texts have no place in a TIFF and go into the
            description with the settings.
    """
    metadata = info.metadata
    ascii_tags = {271: metadata.make, 272: metadata.model, 42036: metadata.lens}
    rationals = {
        33434: metadata.shutter_s,
        33437: metadata.aperture,
        37386: metadata.focal_length_mm,
    }
    profile = srgb_profile()
    tags: list[tuple[int, int, int, object, bool]] = [
        (34675, _UNDEFINED, len(profile), profile, True),
    ]
    tags += [(code, _ASCII, 0, _ascii(text), True) for code, text in ascii_tags.items() if text]
    for code, value in rationals.items():
        if value is not None:
            exact = Fraction(value).limit_denominator(1_000_000)
            tags.append((code, _RATIONAL, 1, (exact.numerator, exact.denominator), True))
    if metadata.iso is not None:
        tags.append((34855, _SHORT, 1, min(65535, round(metadata.iso)), True))
    if info.gps:
        tags.append((_GPS_PLACEHOLDER, _LONG, 1, 0, True))
    moment = None if metadata.taken_at is None else metadata.taken_at.replace("-", ":")
    tifffile.imwrite(
        path,
        values,
        photometric="rgb",
        compression="zlib",
        metadata=None,
        software=SOFTWARE,
        byteorder="<",
        description=_description(info),
        datetime=None if moment is None else moment.replace("T", " "),
        extratags=sorted(tags, key=lambda tag: tag[0]),
    )
    if info.gps:
        append_gps(path, info.gps)


def _description(info: OutputInfo) -> str:
    """Settings, and further texts beside them, as ASCII JSON."""
    return json.dumps({**info.settings, **({"texts": info.texts} if info.texts else {})})


def append_gps(path: Path, gps: dict[int, Any]) -> None:
    """Put a GPS directory behind a little-endian TIFF and point its placeholder tag there.

    Args:
        path: A TIFF whose first page has the placeholder tag.
        gps: Tags by number: texts, bytes, numbers or tuples of numbers.
    """
    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
    for number, value in gps.items():
        kind = (
            _ASCII if isinstance(value, str) else _BYTE if isinstance(value, bytes) else _RATIONAL
        )
        directory.tagtype[number] = kind
        directory[number] = value
    with tifffile.TiffFile(path, mode="r+") as stored:
        handle = stored.filehandle
        end = handle.seek(0, 2)
        offset = end + end % 2
        handle.write(b"\0" * (offset - end) + directory.tobytes(offset))
        tag = stored.pages.first.tags[_GPS_PLACEHOLDER]
        tag.overwrite(offset)
        handle.seek(tag.offset)
        handle.write(struct.pack("<H", _GPS_POINTER))
