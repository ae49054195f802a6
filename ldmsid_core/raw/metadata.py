"""What the camera wrote: EXIF of a RAW file, with LibRaw's own reading as second source."""

from __future__ import annotations

import datetime
import io
import logging
import struct
from pathlib import Path
from typing import Any, BinaryIO

import exifread
from exifread.core.exceptions import ExifError

from .packed_raw import RawMetadata

log = logging.getLogger(__name__)

_LARGEST = 1e7  # no shutter, ISO, aperture or focal length is beyond; damaged tags are
_GPS_TEXTS = {1, 3, 29}
_GPS_BYTES = {0, 5}
_GPS_TAGS = _GPS_TEXTS | _GPS_BYTES | {2, 4, 6, 7}
_GPS_PLACE = {1, 2, 3, 4}


def parse_exif(stream: BinaryIO, name: str) -> dict[str, Any]:
    """EXIF tags by exifread's names; empty where the container is not one it reads."""
    noisy = logging.getLogger("exifread")
    before, noisy.disabled = noisy.disabled, True
    try:
        return dict(exifread.process_file(stream, details=False))
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
            struct.error, ExifError) as error:  # fmt: skip
        log.info("no EXIF data in %s: %s", name, error)
        return {}
    finally:
        noisy.disabled = before


def read_exif(path: Path, thumbnail: bytes | None = None) -> dict[str, Any]:
    """EXIF tags of a RAW file, or of the JPEG inside it where the container holds them there.

    Args:
        path: The file.
        thumbnail: The embedded JPEG, which Fujifilm's and other containers keep the tags in.
    """
    with path.open("rb") as stream:
        tags = parse_exif(stream, path.name)
    if not tags and thumbnail is not None:
        tags = parse_exif(io.BytesIO(thumbnail), path.name)
    return tags


def _tag(tags: dict[str, Any], name: str) -> Any | None:
    """A tag from the EXIF block, or from the first image block, where TIFF/EP keeps it."""
    return tags.get(f"EXIF {name}") or tags.get(f"Image {name}")


def _text(tags: dict[str, Any], name: str) -> str | None:
    found = _tag(tags, name)
    return None if found is None else str(found).strip("\0 ") or None


def _number(tags: dict[str, Any], name: str, fallback: float) -> float | None:
    """A positive number from EXIF, else LibRaw's, else None (cameras write 0 for unknown)."""
    tag, found = _tag(tags, name), 0.0
    if tag is not None and tag.values:
        try:
            found = float(tag.values[0])
        except (TypeError, ValueError, ZeroDivisionError):
            found = 0.0
    for value in (found, float(fallback)):
        if 0.0 < value < _LARGEST:
            return value
    return None


def _time(tags: dict[str, Any], fallback: datetime.datetime | None) -> str | None:
    text = _text(tags, "DateTimeOriginal") or _text(tags, "DateTime")
    if text:
        try:
            moment = datetime.datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S")
            return moment.isoformat()
        except ValueError:
            log.debug("unreadable time %r", text)
    if fallback is not None and fallback.year > 1970:
        return fallback.isoformat()
    return None


def build_metadata(tags: dict[str, Any], other: Any, lens: Any) -> RawMetadata:
    """Join EXIF tags with LibRaw's `other` and `lens` blocks.

    Args:
        tags: From `read_exif`.
        other: rawpy's `other`: iso_speed, shutter_speed, aperture, focal_length, timestamp.
        lens: rawpy's `lens`: model.
    """
    return RawMetadata(
        make=_text(tags, "Make"),
        model=_text(tags, "Model"),
        iso=_number(tags, "ISOSpeedRatings", other.iso_speed),
        shutter_s=_number(tags, "ExposureTime", other.shutter_speed),
        aperture=_number(tags, "FNumber", other.aperture),
        focal_length_mm=_number(tags, "FocalLength", other.focal_length),
        lens=_text(tags, "LensModel") or str(lens.model).strip() or None,
        taken_at=_time(tags, other.timestamp),
    )


def read_gps(tags: dict[str, Any]) -> dict[int, Any] | None:
    """Place and time of GPS by EXIF number, as Pillow writes them; None where there is no place.

    Args:
        tags: From `read_exif`.

    Returns:
        Texts for the references, bytes for version and altitude reference, numbers or tuples of
        numbers for the rest; other GPS tags and unreadable values are left out.
    """
    found: dict[int, Any] = {}
    for name, tag in tags.items():
        if not name.startswith("GPS ") or tag.tag not in _GPS_TAGS:
            continue
        values = tag.values
        if tag.tag in _GPS_TEXTS:
            found[tag.tag] = str(values).strip("\0 ")
        elif tag.tag in _GPS_BYTES:
            found[tag.tag] = bytes(int(v) & 0xFF for v in values)
        else:
            try:
                numbers = tuple(float(v) for v in values)
            except (TypeError, ValueError, ZeroDivisionError):
                continue
            found[tag.tag] = numbers[0] if len(numbers) == 1 else numbers
    return found if set(found) >= _GPS_PLACE else None
