"""Fidelity metrics on sRGB images in unit range, through scikit-image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]
# ITU-R BT.601, full range: Y of 0..1 values, not the studio range 16..235.
LUMA = (0.299, 0.587, 0.114)
# Of the Gaussian window of SSIM: no smaller picture can be scored.
SSIM_WINDOW = 11


def luma(image: FloatImage) -> NDArray[np.float64]:
    """BT.601 luma of sRGB values.

    Args:
        image: `(H, W, 3)` unit range.

    Returns:
        `(H, W)` unit range.
    """
    return np.asarray(image.astype(np.float64) @ np.asarray(LUMA))


def psnr_rgb(found: FloatImage, truth: FloatImage) -> float:
    """Peak signal-to-noise ratio over all three channels, dB; infinite where both are equal.

    Args:
        found: `(H, W, 3)` unit range.
        truth: The same shape.
    """
    from skimage.metrics import peak_signal_noise_ratio

    if np.array_equal(found, truth):
        return float("inf")
    return float(peak_signal_noise_ratio(truth, found, data_range=1.0))


def ssim_rgb(found: FloatImage, truth: FloatImage) -> float:
    """Mean structural similarity of the three channels (Wang et al., 2004: Gaussian, 1.5).

    Raises:
        ValueError: If a side is shorter than the window, 11 pixels.
    """
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            truth, found, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
    )  # fmt: skip


def ssim_y(found: FloatImage, truth: FloatImage) -> float:
    """Structural similarity of the BT.601 luma, as most of the field reports it.

    Raises:
        ValueError: If a side is shorter than the window, 11 pixels.
    """
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            luma(truth), luma(found), data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
    )  # fmt: skip


def delta_e_2000(found: FloatImage, truth: FloatImage) -> float:
    """Mean CIEDE2000 colour difference (Sharma et al., 2005); CIELAB with D65, 2 degrees."""
    from skimage.color import deltaE_ciede2000, rgb2lab

    lab = (rgb2lab(image.astype(np.float64)) for image in (truth, found))
    return float(np.mean(deltaE_ciede2000(*lab)))
