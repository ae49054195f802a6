"""Result writers: PNG with 8 or 16 bits and TIFF with 16, sRGB profile and metadata inside.

Pillow writes 8-bit PNG, pypng the 16-bit one that Pillow cannot, tifffile the TIFF.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import png
import tifffile
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from torch import Tensor

from ..errors import ConfigError, ShapeError
from .atomic import written_atomically
from .settings import SOFTWARE, OutputInfo, exif_of, srgb_profile
from .tiff import write_tiff16

OutputFormat = Literal["png", "png16", "tiff16"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
ROUNDINGS = ("nearest", "released")
Pixels = NDArray[np.uint8] | NDArray[np.uint16]
_SUFFIXES = {"png": ".png", "png16": ".png", "tiff16": ".tif"}
_SETTINGS_KEY = "ldmsid"


def suffix_of(output_format: str) -> str:
    """File name ending of a format.

    Raises:
        ConfigError: If the format is unknown.
    """
    if output_format not in _SUFFIXES:
        raise ConfigError(
            f"Expected an output format among {', '.join(OUTPUT_FORMATS)}, found {output_format!r}."
        )
    return _SUFFIXES[output_format]


def quantise(
    image: Tensor, *, bits: Literal[8, 16], rounding: str = "nearest"
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Integers of a unit-range image.

    Args:
        image: `(1, 3, H, W)` sRGB, unit range.
        bits: Of the result.
        rounding: `nearest`, or `released`, which cuts the fraction off as the released
            implementation does; its published numbers were made so.

    Returns:
        `(H, W, 3)`.

    Raises:
        ShapeError: If it is not one image with three channels.
        ConfigError: If the rounding is unknown.
    """
    if rounding not in ROUNDINGS:
        raise ConfigError(f"Expected rounding among {', '.join(ROUNDINGS)}, found {rounding!r}.")
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise ShapeError(f"Expected one image (1, 3, H, W), found {tuple(image.shape)}.")
    scaled = image[0].permute(1, 2, 0).double().clamp(0.0, 1.0).mul(2**bits - 1)
    values = (scaled.round() if rounding == "nearest" else scaled.floor()).numpy()
    return values.astype(np.uint8) if bits == 8 else values.astype(np.uint16)


def write_image(
    path: Path,
    image: Tensor,
    info: OutputInfo,
    *,
    output_format: str = "png",
    rounding: str = "nearest",
    overwrite: bool = False,
) -> None:
    """Write a result; the file appears whole or not at all.

    Args:
        path: The file.
        image: `(1, 3, H, W)` sRGB, unit range.
        info: Camera metadata and settings to keep inside.
        output_format: One of `OUTPUT_FORMATS`.
        rounding: One of `ROUNDINGS`.
        overwrite: Replace an existing file.

    Raises:
        OutputError: If the file exists or cannot be written.
        ConfigError: If the format is unknown.
    """
    suffix_of(output_format)
    values = quantise(image, bits=8 if output_format == "png" else 16, rounding=rounding)
    with written_atomically(path, overwrite=overwrite) as partial:
        if output_format == "png":
            _write_png8(partial, values, info)
        elif output_format == "png16":
            _write_png16(partial, values, info)
        else:
            write_tiff16(partial, values, info)


def _texts(info: OutputInfo) -> dict[str, str]:
    return {"Software": SOFTWARE, _SETTINGS_KEY: info.settings_json(), **(info.texts or {})}


def _write_png8(path: Path, values: Pixels, info: OutputInfo) -> None:
    texts = PngImagePlugin.PngInfo()
    for key, value in _texts(info).items():
        (texts.add_text if value.isascii() else texts.add_itxt)(key, value)
    picture = Image.fromarray(values)
    picture.save(path, exif=exif_of(info), icc_profile=srgb_profile(), pnginfo=texts)


def _text_chunk(key: str, value: str) -> tuple[bytes, bytes]:
    """Kind and body of a text chunk (PNG specification, 11.3.4.3 and 11.3.4.5).

    Programs that read a workflow back know tEXt best; iTXt is for what is no ASCII.
    """
    if value.isascii():
        return b"tEXt", key.encode("latin-1") + b"\0" + value.encode()
    return b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + value.encode()


def _write_png16(path: Path, values: Pixels, info: OutputInfo) -> None:
    height, width, _ = values.shape
    stream = io.BytesIO()
    writer = png.Writer(width, height, bitdepth=16, greyscale=False, compression=6)
    writer.write_packed(stream, (row.astype(">u2").tobytes() for row in values))
    stream.seek(0)
    chunks = list(png.Reader(stream).chunks())
    exif = exif_of(info).tobytes()
    extra = [
        (b"iCCP", b"sRGB\0\0" + zlib.compress(srgb_profile())),
        (b"eXIf", exif.removeprefix(b"Exif\0\0")),
        *(_text_chunk(key, value) for key, value in _texts(info).items()),
    ]
    with path.open("wb") as out:
        png.write_chunks(out, [chunks[0], *extra, *chunks[1:]])


def read_settings(path: Path) -> str | None:
    """The settings that `write_image` kept in a file, as JSON text; None if there are none."""
    if path.suffix.lower() in (".tif", ".tiff"):
        with tifffile.TiffFile(path) as stored:
            tag = stored.pages.first.tags.get(270)
            return None if tag is None else str(tag.value)
    with Image.open(path) as picture:
        picture.load()
        found = getattr(picture, "text", {}).get(_SETTINGS_KEY)
        return None if found is None else str(found)
