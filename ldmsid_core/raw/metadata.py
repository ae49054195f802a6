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
        if 0.0 < value < float("inf"):
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
