"""Classical routes from a dark RAW to a picture, given the true noise, balance and matrix.

Planes are denoised unclipped after the generalised Anscombe transform (Starck et al., 1998) and
brought back by its exact unbiased inverse in closed form (Mäkitalo and Foi, 2013).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..raw.noise import SensorNoise

Planes = NDArray[np.float64]
Denoiser = Callable[[Planes, float], Planes]
STRENGTHS = (0.8, 1.2, 1.8)


def stabilise(signal: Planes, noise: SensorNoise) -> Planes:
    """Generalised Anscombe transform: counts above black -> values with unit noise variance."""
    gain, variance = noise.shot_gain, _gaussian_variance(noise)
    inside = gain * signal + 0.375 * gain**2 + variance
    return np.asarray(2.0 / gain * np.sqrt(np.maximum(inside, 0.0)))


def unstabilise(values: Planes, noise: SensorNoise) -> Planes:
    """Closed-form exact unbiased inverse of `stabilise`."""
    z = np.maximum(values, 2.0 * np.sqrt(0.375) * 0.6)
    root = np.sqrt(1.5)
    poisson = z**2 / 4 + root / (4 * z) - 11 / (8 * z**2) + 5 * root / (8 * z**3) - 0.125
    gain = noise.shot_gain
    return np.asarray(gain * poisson - _gaussian_variance(noise) / gain)


def _gaussian_variance(noise: SensorNoise) -> float:
    return noise.read_deviation**2 + noise.row_noise**2 + 1.0 / 12.0


def bayes_shrink(plane: Planes, strength: float) -> Planes:
    """BayesShrink wavelet denoising of a plane with noise variance 1 (Chang et al., 2000)."""
    from skimage.restoration import denoise_wavelet

    return np.asarray(
        denoise_wavelet(plane, sigma=strength, method="BayesShrink", mode="soft", wavelet="sym4")
    )


def non_local_means(plane: Planes, strength: float) -> Planes:
    """Non-local means of a plane with noise variance 1 (Buades et al., 2005)."""
    from skimage.restoration import denoise_nl_means

    return np.asarray(
        denoise_nl_means(
            plane, h=0.8 * strength, sigma=strength, patch_size=5, patch_distance=7, fast_mode=True
        )
    )


ROUTES: dict[str, Denoiser | None] = {
    "amplification": None,
    "BayesShrink": bayes_shrink,
    "non-local means": non_local_means,
}


def denoise_counts(
    signal: Planes, noise: SensorNoise, denoiser: Denoiser, strength: float
) -> Planes:
    """Denoised counts above black, `(4, h, w)`, each plane by itself."""
    stable = stabilise(signal, noise)
    return unstabilise(np.stack([denoiser(plane, strength) for plane in stable]), noise)
