"""What is written into a result beside its pixels: camera metadata and settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageCms

from ..raw.packed_raw import RawMetadata

SOFTWARE = "LDM-SID"
Gps = dict[int, Any]


@dataclass(frozen=True)
class OutputInfo:
    """Everything a result file says about itself.

    Attributes:
        metadata: What the camera wrote.
        settings: Settings used: ratio, seed, steps, model and so on; plain JSON values.
        gps: EXIF GPS tags by number; None leaves the place out.
        texts: Further texts for formats that hold named ones, such as a workflow.
    """

    metadata: RawMetadata
    settings: dict[str, Any]
    gps: Gps | None = None
    texts: dict[str, str] | None = None

    def settings_json(self) -> str:
        """The settings as one line of JSON."""
        return json.dumps(self.settings, sort_keys=True)


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """An sRGB ICC profile (LittleCMS' built-in one)."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_of(info: OutputInfo) -> Image.Exif:
    """The EXIF block of a result; orientation is upright, since the pixels are."""
    exif = Image.Exif()
    metadata = info.metadata
    base: dict[int, Any] = {
        0x010E: info.settings_json(),
        0x010F: metadata.make,
        0x0110: metadata.model,
        0x0112: 1,
        0x0131: SOFTWARE,
        0x0132: _exif_time(metadata.taken_at),
    }
    inner: dict[int, Any] = {
        0x829A: metadata.shutter_s,
        0x829D: metadata.aperture,
        0x8827: None if metadata.iso is None else min(65535, round(metadata.iso)),
        0x9003: _exif_time(metadata.taken_at),
        0x920A: metadata.focal_length_mm,
        0xA434: metadata.lens,
    }
    exif.update({tag: value for tag, value in base.items() if value is not None})
    exif.get_ifd(0x8769).update({tag: v for tag, v in inner.items() if v is not None})
    if info.gps:
        exif.get_ifd(0x8825).update(info.gps)
    return exif


def _exif_time(moment: str | None) -> str | None:
    return None if moment is None else moment.replace("-", ":").replace("T", " ")[:19]
