"""LibRaw's own development with its FBDD denoiser, as a rival to compare with.

FBDD works on the mosaic before demosaicing and is skipped at half size, so the file is developed
at full size into linear light and averaged over 2x2 pixels. LibRaw's other denoiser, the wavelet
threshold (`noise_thr`), crashed the process on every file tried with rawpy 0.28 (LibRaw 0.22.2),
so it is not used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rawpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from .cfa import cfa_from_pattern
from .loader import opened_raw
from .packed_raw import apply_orientation
from .packing import check_exposure_ratio
from .simulate import linear_to_srgb


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
