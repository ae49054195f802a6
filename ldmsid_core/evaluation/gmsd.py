"""Gradient magnitude similarity deviation (Xue, Zhang, Mou and Bovik, 2014)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .metrics import FloatImage, luma
from .ms_ssim import halved

Plane = NDArray[np.float64]
# Of values 0..255, as published.
C = 170.0


def _gradient_magnitude(plane: Plane) -> Plane:
    """Of the Prewitt operator divided by 3; outside the picture lies 0."""
    from scipy.ndimage import correlate1d

    def along(axis: int) -> Plane:
        slope = correlate1d(plane, [-1.0, 0.0, 1.0], axis=axis, mode="constant")
        return np.asarray(correlate1d(slope, [1 / 3] * 3, axis=1 - axis, mode="constant"))

    return np.hypot(along(0), along(1))


def gmsd_y(found: FloatImage, truth: FloatImage) -> float | None:
    """Standard deviation of the gradient similarity map of the BT.601 luma; 0 is equal.

    Luma in 0..255 is averaged over 2x2 blocks first (an odd last row or column is left out);
    similarity is `(2ab + c) / (a**2 + b**2 + c)` of the gradient magnitudes with c = 170.

    Returns:
        None where a side is shorter than 2.
    """
    if min(truth.shape[:2]) < 2:
        return None
    a, b = (_gradient_magnitude(halved(255.0 * luma(image))) for image in (found, truth))
    return float(np.std((2.0 * a * b + C) / (a**2 + b**2 + C)))
