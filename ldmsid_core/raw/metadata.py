"""What the camera wrote: EXIF of a RAW file, with LibRaw's own reading as second source."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path
from typing import Any

import exifread
from exifread.core.exceptions import ExifError

from .packed_raw import RawMetadata

log = logging.getLogger(__name__)


def read_exif(path: Path) -> dict[str, Any]:
    """EXIF tags by exifread's names; empty where the container is not one it reads."""
    noisy = logging.getLogger("exifread")
    before, noisy.disabled = noisy.disabled, True
    try:
        with path.open("rb") as stream:
            return dict(exifread.process_file(stream, details=False))
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        OverflowError,
        ExifError,
    ) as error:
        log.info("no EXIF data in %s: %s", path.name, error)
        return {}
    finally:
        noisy.disabled = before


def _text(tags: dict[str, Any], name: str) -> str | None:
    value = str(tags[name]).strip("\0 ") if name in tags else ""
    return value or None


def _number(tags: dict[str, Any], name: str, fallback: float) -> float | None:
    """A positive number from EXIF, else LibRaw's, else None (cameras write 0 for unknown)."""
    found = 0.0
    if name in tags and tags[name].values:
        try:
            found = float(tags[name].values[0])
        except (TypeError, ValueError, ZeroDivisionError):
            found = 0.0
    for value in (found, float(fallback)):
        if 0.0 < value < float("inf"):
            return value
    return None


def _time(tags: dict[str, Any], fallback: datetime.datetime | None) -> str | None:
    text = _text(tags, "EXIF DateTimeOriginal") or _text(tags, "Image DateTime")
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
        make=_text(tags, "Image Make"),
        model=_text(tags, "Image Model"),
        iso=_number(tags, "EXIF ISOSpeedRatings", other.iso_speed),
        shutter_s=_number(tags, "EXIF ExposureTime", other.shutter_speed),
        aperture=_number(tags, "EXIF FNumber", other.aperture),
        focal_length_mm=_number(tags, "EXIF FocalLength", other.focal_length),
        lens=_text(tags, "EXIF LensModel") or str(lens.model).strip() or None,
        taken_at=_time(tags, other.timestamp),
    )


def read_gps(path: Path) -> dict[int, Any] | None:
    """EXIF GPS tags of a file by number, as Pillow writes them; None where there are none."""
    tags: dict[int, Any] = {}
    for name, tag in read_exif(path).items():
        if not name.startswith("GPS "):
            continue
        values = tag.values
        if isinstance(values, str):
            tags[tag.tag] = values.strip("\0")
        elif tag.tag in (0, 5):  # version and altitude reference are bytes
            tags[tag.tag] = bytes(int(v) for v in values)
        else:
            numbers = tuple(float(v) for v in values)
            tags[tag.tag] = numbers[0] if len(numbers) == 1 else numbers
    has_place = any(number in tags for number in (2, 4))
    return tags if has_place else None
