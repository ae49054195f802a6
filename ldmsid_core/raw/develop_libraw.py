"""LibRaw's own development: the truth that the paper trains against, and a rival to compare with.

The rival uses LibRaw's FBDD denoiser, which works on the mosaic before demosaicing and is skipped
at half size; so the file is developed at full size into linear light and averaged over 2x2 pixels.
LibRaw's other denoiser, the wavelet threshold (`noise_thr`), crashed the process on every file
tried with rawpy 0.28 (LibRaw 0.22.2), so it is not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import rawpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UnsupportedRawError
from .cfa import cfa_from_pattern
from .loader import opened_raw
from .packed_raw import apply_orientation
from .packing import check_exposure_ratio
from .simulate import linear_to_srgb


def develop_truth(path: str | Path, *, height: int, width: int) -> NDArray[np.uint8]:
    """Develop a well-exposed Bayer RAW at the size of its packed planes (method, input).

    LibRaw's half-size development makes one pixel of each 2x2 cell of the visible area, the cells
    that `load_raw` packs, so pixel (y, x) shows what the planes hold at (y, x). The white balance
    is the camera's; nothing is brightened or turned. Everything else is LibRaw's default: sRGB
    primaries, the BT.709 tone curve, clipped highlights, and its white level lowered to the
    brightest pixel where that lies between 75 and 100 % of it.

    Args:
        path: The file.
        height: Of the packed planes; an odd last row of the mosaic is left out, as there.
        width: Of the packed planes.

    Returns:
        `(height, width, 3)` sRGB, 8 bit.

    Raises:
        UnsupportedRawError: If the file cannot be read, or LibRaw's picture has another size.
    """
    path = Path(path)
    with opened_raw(path) as raw:
        picture = raw.postprocess(
            use_camera_wb=True, half_size=True, no_auto_bright=True, output_bps=8, user_flip=0
        )
    spare = (picture.shape[0] - height, picture.shape[1] - width)
    if not all(0 <= rest <= 1 for rest in spare):
        raise UnsupportedRawError(
            f"Expected a half-size picture of {width}x{height} from {path}, but LibRaw made "
            f"{picture.shape[1]}x{picture.shape[0]}: its pixels are not square or it is no Bayer "
            "RAW. Leave the file out."
        )
    return cast("NDArray[np.uint8]", np.ascontiguousarray(picture[:height, :width]))


def _amplify(raw: rawpy.RawPy, ratio: float) -> None:
    """Multiply counts above black in place; the file's own black and white levels stay valid."""
    counts = raw.raw_image_visible
    black = np.asarray(raw.black_level_per_channel, np.float32)[raw.raw_colors_visible]
    amplified = (counts - black) * np.float32(ratio) + black
    counts[:] = amplified.round().clip(0, raw.white_level)


def _linear(raw: rawpy.RawPy) -> NDArray[np.uint16]:
    """Demosaiced, balanced as shot, linear sRGB, not turned; nothing is stretched."""
    return np.asarray(
        raw.postprocess(
            fbdd_noise_reduction=rawpy.FBDDNoiseReductionMode.Full,
            use_camera_wb=True,
            no_auto_bright=True,
            adjust_maximum_thr=0.0,
            gamma=(1, 1),
            output_color=rawpy.ColorSpace.sRGB,
            output_bps=16,
            user_flip=0,
        )
    )


def develop_fbdd(path: str | Path, *, exposure_ratio: float) -> Tensor:
    """A RAW amplified, denoised by FBDD and developed by LibRaw with the camera's white balance.

    Counts are amplified before denoising. LibRaw cuts negative noise off at black.

    Args:
        path: A Bayer file.
        exposure_ratio: >= 1.

    Returns:
        `(1, 3, H/2, W/2)` sRGB, unit range, upright.

    Raises:
        UnsupportedRawError: If the file is missing, damaged or no Bayer RAW.
        ConfigError: If the ratio is out of range.
    """
    path = Path(path)
    ratio = check_exposure_ratio(exposure_ratio)
    with opened_raw(path) as raw:
        if raw.raw_pattern is None or raw.raw_pattern.shape != (2, 2):
            cfa_from_pattern(raw.raw_pattern, "", file_name=path.name)
        # Development overwrites it with the flip that it was told to use.
        orientation = int(raw.sizes.flip)
        _amplify(raw, ratio)
        linear = _linear(raw)
    height, width = (side // 2 for side in linear.shape[:2])
    blocks = linear[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
    small = torch.from_numpy(blocks.mean(axis=(1, 3), dtype=np.float32) / np.float32(65535.0))
    picture = linear_to_srgb(small.permute(2, 0, 1)[None])
    return apply_orientation(picture, orientation).contiguous()
