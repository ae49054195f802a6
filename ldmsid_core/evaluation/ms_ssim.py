"""Multi-scale structural similarity (Wang, Simoncelli and Bovik, Asilomar 2003)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .metrics import FloatImage, luma

Plane = NDArray[np.float64]
# The published exponents of the five scales, finest first.
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
# After four halvings one window must still fit.
SMALLEST_SIDE = _WINDOW * 2 ** (len(WEIGHTS) - 1)


def _window() -> Plane:
    place = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-0.5 * (place / _SIGMA) ** 2)
    return np.asarray(weights / weights.sum())


def _smooth(plane: Plane) -> Plane:
    """Gaussian means where the whole window lies inside."""
    from scipy.ndimage import correlate1d

    weights, edge = _window(), _WINDOW // 2
    smoothed = correlate1d(correlate1d(plane, weights, axis=0), weights, axis=1)
    return np.asarray(smoothed[edge : smoothed.shape[0] - edge, edge : smoothed.shape[1] - edge])


def similarity_terms(found: Plane, truth: Plane) -> tuple[float, float]:
    """Means of SSIM and of its contrast-structure part on one scale.

    Args:
        found: `(H, W)` unit range, both sides at least 11.
        truth: The same shape.
    """
    mean_f, mean_t = _smooth(found), _smooth(truth)
    variance_f = _smooth(found**2) - mean_f**2
    variance_t = _smooth(truth**2) - mean_t**2
    covariance = _smooth(found * truth) - mean_f * mean_t
    structure = (2.0 * covariance + _C2) / (variance_f + variance_t + _C2)
    brightness = (2.0 * mean_f * mean_t + _C1) / (mean_f**2 + mean_t**2 + _C1)
    return float(np.mean(brightness * structure)), float(np.mean(structure))


def halved(plane: Plane) -> Plane:
    """Means of 2x2 blocks; an odd last row or column is left out."""
    height, width = (side // 2 * 2 for side in plane.shape)
    blocks = plane[:height, :width].reshape(height // 2, 2, width // 2, 2)
    return np.asarray(blocks.mean(axis=(1, 3)))


def ms_ssim_y(found: FloatImage, truth: FloatImage) -> float | None:
    """Multi-scale SSIM of the BT.601 luma.

    Contrast and structure enter at each of five scales, brightness at the coarsest; a negative
    mean counts as 0, since the published exponents leave its power undefined.

    Returns:
        At most 1, or None where a side is shorter than `SMALLEST_SIDE`.
    """
    if min(truth.shape[:2]) < SMALLEST_SIDE:
        return None
    first, second = luma(found), luma(truth)
    product = 1.0
    for scale, weight in enumerate(WEIGHTS):
        whole, structure = similarity_terms(first, second)
        is_coarsest = scale == len(WEIGHTS) - 1
        product *= max(0.0, whole if is_coarsest else structure) ** weight
        if not is_coarsest:
            first, second = halved(first), halved(second)
    return product
