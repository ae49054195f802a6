"""Result and truth pictures as files: PNG and TIFF, 8 or 16 bits a channel, nothing lost.

Pillow reads 8-bit PNG; it would cut 16-bit colour to 8 bits, so pypng reads that, tifffile TIFF.
Values are taken as sRGB whatever profile lies inside.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import png
import tifffile
from numpy.typing import NDArray
from PIL import Image

from ..errors import ConfigError, ShapeError
from .metrics import SSIM_WINDOW, FloatImage

PNG_ENDINGS = (".png",)
TIFF_ENDINGS = (".tif", ".tiff")
PICTURE_ENDINGS = (*PNG_ENDINGS, *TIFF_ENDINGS)
_DAMAGE = (
    OSError, ValueError, TypeError, LookupError, SyntaxError, Image.DecompressionBombError,
    png.Error, zlib.error,
)  # fmt: skip
Integers = NDArray[Any]


def _unreadable(path: Path, error: Exception) -> ConfigError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ConfigError(
        f"Expected a PNG or TIFF picture, but {path} cannot be read ({reason}); check the file."
    )


def _is_deep_png(path: Path) -> bool:
    """Whether the header says 16 bits a channel."""
    with path.open("rb") as stream:
        start = stream.read(26)
    return start[:8] == b"\x89PNG\r\n\x1a\n" and start[12:16] == b"IHDR" and start[24] == 16


def _read_png16(path: Path) -> Integers:
    width, height, rows, info = png.Reader(filename=str(path)).asDirect()
    values = np.empty((height, width * info["planes"]), np.uint16)
    for number, row in enumerate(rows):
        values[number] = row
    return values.reshape(height, width, info["planes"])


def _read_png8(path: Path) -> Integers:
    with Image.open(path) as picture:
        plain = picture.convert("RGBA") if "transparency" in picture.info else picture
        if plain.mode in ("P", "1"):
            plain = plain.convert("RGB")
        values = np.asarray(plain)
    return values if values.ndim == 3 else values[..., None]


def _read_tiff(path: Path) -> Integers:
    with tifffile.TiffFile(path) as stored:
        series = stored.series[0]
        values, axes = series.asarray(), series.axes
    if axes in ("SYX", "CYX"):
        return np.moveaxis(values, 0, -1)
    if axes in ("YX", "YXS"):
        return values if values.ndim == 3 else values[..., None]
    raise ValueError(f"its axes are {axes}, not one picture")


def _opaque_rgb(values: Integers, path: Path) -> Integers:
    """The three colours; an alpha channel must say nothing.

    Raises:
        ConfigError: If there are other channels, transparency or another type of number.
    """
    if values.dtype not in (np.uint8, np.uint16):
        raise ConfigError(
            f"Expected 8 or 16 bits a channel in {path}, found {values.dtype}; save it as such."
        )
    channels = values.shape[-1]
    is_opaque = channels == 4 and bool((values[..., 3] == np.iinfo(values.dtype).max).all())
    if channels != 3 and not is_opaque:
        what = "transparent pixels" if channels == 4 else f"{channels} channels"
        raise ConfigError(f"Expected three colours in {path}, found {what}; save it as RGB.")
    return values[..., :3]


def read_picture(path: Path) -> FloatImage:
    """A picture with all its bits.

    Args:
        path: `.png`, `.tif` or `.tiff`.

    Returns:
        `(H, W, 3)` unit range.

    Raises:
        ConfigError: If it cannot be read or is no RGB picture of 8 or 16 bits.
        ShapeError: If a side is shorter than SSIM's window.
    """
    try:
        if path.suffix.lower() in TIFF_ENDINGS:
            stored = _read_tiff(path)
        else:
            stored = _read_png16(path) if _is_deep_png(path) else _read_png8(path)
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    values = _opaque_rgb(stored, path)
    height, width = values.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        raise ShapeError(
            f"Expected a picture of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, found "
            f"{width}x{height} in {path}; SSIM needs a whole window."
        )
    return np.asarray(values / np.float64(np.iinfo(values.dtype).max), dtype=np.float32)


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height from a picture's header.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        if path.suffix.lower() in TIFF_ENDINGS:
            with tifffile.TiffFile(path) as stored:
                page = stored.pages.first
                return int(page.imagewidth), int(page.imagelength)
        with Image.open(path) as picture:
            return picture.size
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def check_same_size(found: tuple[int, int], truth: tuple[int, int], name: str, other: str) -> None:
    """Refuse two sizes.

    Args:
        found: Width and height.
        truth: Of the truth.
        name: Whose size the first is.
        other: Whose the second is.

    Raises:
        ShapeError: Which names both.
    """
    if found != truth:
        raise ShapeError(
            f"Expected one size, found {found[0]}x{found[1]} in {name} and {truth[0]}x{truth[1]} "
            f"in {other}; results are never resized or cropped to fit."
        )
