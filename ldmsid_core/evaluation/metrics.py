"""Fidelity metrics on sRGB images in unit range, through scikit-image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]


def psnr_rgb(found: FloatImage, truth: FloatImage) -> float:
    """Peak signal-to-noise ratio over all three channels, dB.

    Args:
        found: `(H, W, 3)` unit range.
        truth: The same shape.
    """
    from skimage.metrics import peak_signal_noise_ratio

    return float(peak_signal_noise_ratio(truth, found, data_range=1.0))


def ssim_rgb(found: FloatImage, truth: FloatImage) -> float:
    """Mean structural similarity of the three channels (Wang et al., 2004: Gaussian, 1.5)."""
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            truth, found, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
    )  # fmt: skip
