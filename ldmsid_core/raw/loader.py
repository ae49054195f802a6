"""Camera file -> `PackedRaw`, through LibRaw."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import rawpy
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import UnsupportedRawError
from .cfa import CfaPattern, cfa_from_pattern, packed_places, to_packed_order
from .damage import check_bytes, check_content
from .metadata import build_metadata, read_exif, read_gps
from .packed_raw import PackedRaw, RawMetadata, Triple, WhiteBalanceSource
from .packing import normalise
from .sensor_frame import SensorFrame
from .simulate import SRGB_TO_XYZ

log = logging.getLogger(__name__)

RAW_EXTENSIONS = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq",
    ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2",
    ".rwl", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip
_PICTURE_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"RIFF": "WebP",
    b"GIF8": "GIF",
}
_SMALLEST_SIDE = 2
# LibRaw's flip: half a turn, a quarter to the left, a quarter to the right.
_TURNS = {
    3: Image.Transpose.ROTATE_180,
    5: Image.Transpose.ROTATE_90,
    6: Image.Transpose.ROTATE_270,
}
_SINGULAR = 1e-6


def _check_file(path: Path) -> None:
    """Refuse what is no camera file before LibRaw sees it."""
    if path.is_dir():
        raise UnsupportedRawError(f"Expected a RAW file, but {path} is a folder; name a file.")
    if not path.is_file():
        raise UnsupportedRawError(f"Expected a RAW file, but {path} does not exist; check it.")
    try:
        with path.open("rb") as stream:
            start = stream.read(12)
    except OSError as error:
        raise UnsupportedRawError(
            f"Cannot read {path}: {error.strerror}; check its permissions."
        ) from error
    if not start:
        raise UnsupportedRawError(
            f"Expected a RAW file, but {path} is empty; copy it from the card again."
        )
    for signature, kind in _PICTURE_SIGNATURES.items():
        if start.startswith(signature):
            raise UnsupportedRawError(
                f"Expected a camera RAW, but {path} is a {kind} picture: it holds 8-bit developed "
                "values, not sensor counts. Use the camera's RAW file."
            )


@contextmanager
def opened_raw(path: Path) -> Iterator[rawpy.RawPy]:
    """A camera file opened by LibRaw; its errors are ours as long as it is open.

    LibRaw unpacks when the pixels are first asked for, so both kinds of error come from here.

    Raises:
        UnsupportedRawError: If the file is missing, or LibRaw cannot read or unpack it.
    """
    _check_file(path)
    try:
        with rawpy.imread(str(path)) as raw:
            yield raw
    except rawpy.LibRawError as error:
        reason = error.args[0] if error.args else type(error).__name__
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        version = ".".join(str(part) for part in rawpy.libraw_version)
        raise UnsupportedRawError(
            f"Expected a RAW file that LibRaw {version} can unpack, but {path} is not: {text}. It "
            "may be damaged, truncated, or compressed in a way that LibRaw does not know."
        ) from error


def _tile_pattern(raw: rawpy.RawPy) -> NDArray[np.uint8]:
    """Colour indices of the 2x2 tile at the top left of the visible area."""
    top, left = raw.sizes.top_margin, raw.sizes.left_margin
    return np.array(
        [[raw.raw_color(top + y, left + x) for x in range(2)] for y in range(2)], np.uint8
    )


def _white_balance(raw: rawpy.RawPy) -> tuple[Triple, WhiteBalanceSource]:
    """As-shot multipliers with green 1; daylight, then none, where the file has no usable ones."""
    sources: tuple[tuple[WhiteBalanceSource, Any], ...] = (
        ("as shot", raw.camera_whitebalance),
        ("daylight", raw.daylight_whitebalance),
    )
    for source, values in sources:
        red, green, blue = (float(v) for v in list(values)[:3])
        if red > 0 and green > 0 and blue > 0 and np.isfinite([red, green, blue]).all():
            return (red / green, 1.0, blue / green), source
    return (1.0, 1.0, 1.0), "none"


def _camera_matrix(raw: rawpy.RawPy) -> tuple[Triple, Triple, Triple] | None:
    """XYZ to camera, from LibRaw's table or from the file.

    For DNGs of cameras that LibRaw does not know, it gives only what it made of the file's matrix:
    camera to sRGB, which leaves the scale of each row of the inverse free.
    """
    matrix = np.asarray(raw.rgb_xyz_matrix, dtype=np.float64)[:3]
    if not matrix.any():
        to_srgb = np.asarray(raw.color_matrix, dtype=np.float64)[:, :3]
        if not np.isfinite(to_srgb).all() or abs(np.linalg.det(to_srgb)) < _SINGULAR:
            return None
        inverse = np.linalg.inv(np.asarray(SRGB_TO_XYZ) @ to_srgb)
        matrix = np.asarray(inverse, dtype=np.float64)
    if not np.isfinite(matrix).all():
        return None
    first, second, third = (cast(Triple, tuple(float(v) for v in row)) for row in matrix)
    return first, second, third


def _exif_of(raw: rawpy.RawPy, path: Path) -> dict[str, Any]:
    """EXIF tags of the file, else of the JPEG embedded in it."""
    tags = read_exif(path)
    if tags:
        return tags
    try:
        thumbnail = raw.extract_thumb()
    except rawpy.LibRawError:
        return {}
    is_jpeg = thumbnail.format == rawpy.ThumbFormat.JPEG
    return read_exif(path, bytes(thumbnail.data)) if is_jpeg else {}


def _mosaic_of(raw: rawpy.RawPy, path: Path) -> NDArray[np.uint16]:
    if raw.raw_type != rawpy.RawType.Flat:
        cfa_from_pattern(None, "", file_name=path.name)
    if raw.raw_pattern is None or raw.raw_pattern.shape != (2, 2):
        cfa_from_pattern(raw.raw_pattern, "", file_name=path.name)
    check_bytes(path, raw.sizes.raw_height * raw.sizes.raw_width, float(raw.white_level))
    counts = raw.raw_image_visible
    if min(counts.shape) < _SMALLEST_SIDE:
        raise UnsupportedRawError(
            f"Expected a mosaic of at least 2x2 pixels, found {counts.shape} in {path}."
        )
    return cast(
        "NDArray[np.uint16]", counts[: counts.shape[0] // 2 * 2, : counts.shape[1] // 2 * 2]
    )


def _packed_counts(counts: NDArray[np.uint16], cfa: CfaPattern) -> torch.Tensor:
    """`pack_bayer` of whole counts, `(1, 4, h, w)` float32, in a single pass over the file's."""
    packed = np.empty((1, 4, counts.shape[0] // 2, counts.shape[1] // 2), np.float32)
    for plane, (row, column) in enumerate(packed_places(cfa)):
        packed[0, plane] = counts[row::2, column::2]
    return torch.from_numpy(packed)


def load_raw(path: str | Path) -> PackedRaw:
    """Read a Bayer RAW file.

    The visible area is taken (an odd last row or column is left out), black is subtracted per
    plane, nothing is clipped and nothing is turned. Where LibRaw knows several white levels, its
    `white_level` is used.

    Args:
        path: The file.

    Returns:
        Planes on the CPU and everything the file says about them.

    Raises:
        UnsupportedRawError: If the file is missing, damaged, empty or no Bayer RAW.
    """
    path = Path(path)
    with opened_raw(path) as raw:
        counts = _mosaic_of(raw, path)
        pattern = _tile_pattern(raw)
        cfa = cfa_from_pattern(pattern, raw.color_desc.decode(), file_name=path.name)
        black = to_packed_order(raw.black_level_per_channel, pattern, cfa)
        white = float(raw.white_level)
        check_content(counts, black, white, path)
        packed = _packed_counts(counts, cfa)
        white_balance, source = _white_balance(raw)
        matrix = _camera_matrix(raw)
        orientation = int(raw.sizes.flip)
        metadata = build_metadata(_exif_of(raw, path), raw.other, raw.lens)
    planes = normalise(packed, black_level=black, white_level=white)
    log.info("loaded %s: %s %dx%d", path.name, cfa, *planes.shape[-2:])
    return PackedRaw(
        planes=planes,
        cfa=cfa,
        black_level=black,
        white_level=white,
        white_balance=white_balance,
        white_balance_source=source,
        xyz_to_camera=matrix,
        orientation=orientation,
        metadata=metadata,
        file_name=path.name,
    )


def load_frame(path: str | Path) -> SensorFrame:
    """Read all counts of a Bayer RAW file, masked border included; it may hold no light.

    Raises:
        UnsupportedRawError: If the file is missing, damaged, constant or no Bayer RAW.
    """
    path = Path(path)
    with opened_raw(path) as raw:
        visible = _mosaic_of(raw, path)
        pattern = _tile_pattern(raw)
        cfa = cfa_from_pattern(pattern, raw.color_desc.decode(), file_name=path.name)
        black = to_packed_order(raw.black_level_per_channel, pattern, cfa)
        white = float(raw.white_level)
        check_content(visible, black, white, path, needs_light=False)
        return SensorFrame(
            counts=raw.raw_image.copy(),
            top=raw.sizes.top_margin,
            left=raw.sizes.left_margin,
            height=visible.shape[0],
            width=visible.shape[1],
            cfa=cfa,
            black_level=black,
            white_level=white,
            metadata=build_metadata(_exif_of(raw, path), raw.other, raw.lens),
            file_name=path.name,
        )


def load_metadata(path: str | Path) -> RawMetadata:
    """What the camera wrote into a file, without unpacking its pixels.

    Raises:
        UnsupportedRawError: If the file is missing or LibRaw does not know it.
    """
    path = Path(path)
    with opened_raw(path) as raw:
        return build_metadata(_exif_of(raw, path), raw.other, raw.lens)


def load_gps(path: str | Path) -> dict[int, Any] | None:
    """The place where a file was taken, by EXIF GPS number; None where the file does not say.

    Raises:
        UnsupportedRawError: If the file is missing or LibRaw does not know it.
    """
    path = Path(path)
    with opened_raw(path) as raw:
        return read_gps(_exif_of(raw, path))


def load_embedded_preview(path: str | Path, *, max_side: int) -> Image.Image | None:
    """The small picture that the camera put into a file, upright; None where there is none.

    Args:
        path: The file.
        max_side: The longer side is scaled down to this many pixels.

    Raises:
        UnsupportedRawError: If the file is missing or LibRaw does not know it.
    """
    path = Path(path)
    with opened_raw(path) as raw:
        try:
            stored = raw.extract_thumb()
        except rawpy.LibRawError:
            return None
        try:
            if stored.format == rawpy.ThumbFormat.JPEG:
                picture = ImageOps.exif_transpose(Image.open(io.BytesIO(bytes(stored.data))))
            else:
                picture = Image.fromarray(np.asarray(stored.data))
                turn = _TURNS.get(int(raw.sizes.flip))
                picture = picture if turn is None else picture.transpose(turn)
            picture.thumbnail((max_side, max_side))
        except (OSError, ValueError, TypeError, Image.DecompressionBombError):
            return None
        return picture.convert("RGB")
