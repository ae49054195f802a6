"""Sensor noise of one RAW from its own pixels: variance as a straight line of the mean.

In each 16x16 block of a plane the diagonal Haar coefficients hold almost only noise: scene detail
is weak there, and offsets of whole rows cancel. Their mean square against the block's mean, in
bins of brightness, gives gain (slope) and read variance (intercept), by weighted least squares
with neither below zero (the signal model of Foi et al., 2008).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import ShapeError
from ..raw.noise import SensorNoise

_BLOCK = 16
_BINS = 24
_SMALLEST_GAIN = 1e-3
_QUANTISATION = 1.0 / 12.0


def _blocks(plane: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and noise variance of every block."""
    rows, columns = (side // _BLOCK for side in plane.shape)
    cut = plane[: rows * _BLOCK, : columns * _BLOCK]
    diagonal = 0.5 * (cut[::2, ::2] - cut[1::2, ::2] - cut[::2, 1::2] + cut[1::2, 1::2])
    half = _BLOCK // 2
    means = cut.reshape(rows, _BLOCK, columns, _BLOCK).mean(axis=(1, 3))
    variances = (diagonal**2).reshape(rows, half, columns, half).mean(axis=(1, 3))
    return means.ravel(), variances.ravel()


def estimate_noise(signal: NDArray[np.float64]) -> SensorNoise:
    """Gain and Gaussian read noise of counts; row noise is not estimated and counts as none.

    Args:
        signal: `(4, h, w)` counts above black, not clipped.

    Raises:
        ShapeError: If a plane is smaller than one block.
    """
    from scipy.optimize import nnls

    if min(signal.shape[-2:]) < _BLOCK:
        raise ShapeError(
            f"Expected planes of at least {_BLOCK}x{_BLOCK} to estimate noise from, found "
            f"{signal.shape[-2:]}; use a larger RAW."
        )
    measured = [_blocks(plane) for plane in signal]
    means = np.concatenate([m for m, _ in measured])
    variances = np.concatenate([v for _, v in measured])
    parts = np.array_split(np.argsort(means), min(_BINS, len(means)))
    x = np.array([max(0.0, float(np.median(means[part]))) for part in parts])
    y = np.array([float(np.median(variances[part])) for part in parts])
    weight = 1.0 / np.maximum(y, _QUANTISATION)
    (gain, variance), _ = nnls(np.stack([x * weight, weight], axis=1), y * weight)
    read = max(0.0, float(variance) - _QUANTISATION) ** 0.5
    return SensorNoise(max(float(gain), _SMALLEST_GAIN), read, 0.0, 0.0, "gaussian")
