"""Estimators of sensor noise from frames without light and from pairs of evenly lit ones.

Read noise by the probability plot: the Tukey-lambda shape maximises its correlation coefficient
(Filliben, 1975; used for sensors by ELD, CVPR 2020), the scale is its slope. Shot gain by photon
transfer (Janesick, 2007): the variance of the difference of two equal frames over their mean.
Counts are whole numbers; the 1/12 that rounding adds to a variance is taken out of read noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .noise import PlaneValues
from .sensor_frame import Counts

Floats = NDArray[np.float64]
ROUNDING_VARIANCE = 1.0 / 12.0
SHAPES = (-0.4, 0.5)
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_SHAPE_ERROR = 1e-4
_LOGISTIC_BELOW = 1e-3
_MOST_SAMPLES = 1 << 20
_HOT = 6.0
_SMALLEST_DEVIATION = 0.5
_BLOCK = 32
Pair = tuple[Counts, Counts]


@dataclass(frozen=True)
class DarkNoise:
    """What frames without light tell, in counts.

    Attributes:
        black: Mean per plane R, G1, B, G2.
        read_scale: Tukey-lambda scale.
        read_shape: Tukey-lambda shape.
        read_deviation: Standard deviation of the read noise.
        row_noise: Standard deviation of what a sensor row shares.
        hot_share: Share of pixels left out since every frame has them far off.
    """

    black: PlaneValues
    read_scale: float
    read_shape: float
    read_deviation: float
    row_noise: float
    hot_share: float

    @property
    def variance(self) -> float:
        """Of a pixel without light: read, row and rounding noise."""
        return self.read_deviation**2 + self.row_noise**2 + ROUNDING_VARIANCE


def _plotting_positions(count: int) -> Floats:
    """Filliben's medians of the order statistics of a uniform sample."""
    p = (np.arange(1, count + 1) - 0.3175) / (count + 0.365)
    p[-1] = 0.5 ** (1.0 / count)
    p[0] = 1.0 - p[-1]
    return np.asarray(p)


def _unit_quantiles(shape: float, p: Floats) -> Floats:
    """Quantiles of the Tukey-lambda distribution with scale 1."""
    if abs(shape) < _LOGISTIC_BELOW:
        return np.asarray(np.log(p) - np.log1p(-p))
    return np.asarray((p**shape - (1.0 - p) ** shape) / shape)


def fit_tukey_lambda(samples: Floats) -> tuple[float, float]:
    """Scale and shape of centred samples by the probability plot.

    Args:
        samples: `(n,)`; evenly thinned where there are more than about two million.

    Returns:
        Slope of the plot, and the shape from -0.4 to 0.5 with the highest correlation.
    """
    # Samples that `measure_dark` has thinned stay as they are: twice would miss whole columns.
    step = max(1, samples.size // _MOST_SAMPLES)
    ordered = np.sort(samples[::step])
    p = _plotting_positions(ordered.size)

    def correlation(shape: float) -> float:
        return float(np.corrcoef(ordered, _unit_quantiles(shape, p))[0, 1])

    shape = _maximum(correlation, *SHAPES)
    quantiles = _unit_quantiles(shape, p)
    return float(ordered @ quantiles / (quantiles @ quantiles)), shape


def _maximum(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one peak is highest, by golden sections."""
    inner, outer = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_inner, at_outer = function(inner), function(outer)
    while high - low > _SHAPE_ERROR:
        if at_inner > at_outer:
            high, outer, at_outer = outer, inner, at_inner
            inner = high - _GOLDEN * (high - low)
            at_inner = function(inner)
        else:
            low, inner, at_inner = inner, outer, at_outer
            outer = low + _GOLDEN * (high - low)
            at_outer = function(outer)
    return (low + high) / 2.0


def _hot_pixels(frames: Sequence[Counts]) -> NDArray[np.bool_]:
    """`(4, h, w)`: pixels that every frame has far off on the same side; none for one frame."""
    if len(frames) < 2:
        return np.zeros(frames[0].shape, dtype=np.bool_)
    above = np.ones(frames[0].shape, dtype=np.bool_)
    below = above.copy()
    for frame in frames:
        low, middle, high = np.percentile(frame, (16, 50, 84), axis=(1, 2), keepdims=True)
        far = _HOT * np.maximum((high - low) / 2.0, _SMALLEST_DEVIATION)
        above &= frame > middle + far
        below &= frame < middle - far
    return np.asarray(above | below)


def measure_dark(frames: Sequence[Counts]) -> DarkNoise:
    """Black level, read and row noise of frames without light.

    Each frame is taken above its own mean per plane. A sensor row runs through two packed planes
    (R and G1, or G2 and B); what its pixels share is row noise, after the read noise that is left
    in a mean has been taken out.

    Args:
        frames: `(4, h, w)` packed counts, planes R, G1, B, G2, black included; at least one.

    Raises:
        ConfigError: If the frames hold no noise.
    """
    hot = _hot_pixels(frames)
    kept = ~hot
    means = np.array([[f[p][kept[p]].mean() for p in range(4)] for f in frames])
    _, height, width = frames[0].shape
    in_row, step = 2 * width, max(1, len(frames) * hot.size // _MOST_SAMPLES)
    while math.gcd(step, in_row) > 1:  # thinned samples come from every column
        step += 1
    row_square, rest_square, samples = 0.0, 0.0, []
    for frame, mean in zip(frames, means, strict=True):
        centred = np.where(hot, 0.0, frame - mean[:, None, None])
        red, green1, blue, green2 = centred
        for pair in ((red, green1), (green2, blue)):
            rows = np.concatenate(pair, axis=1)
            shared = rows.mean(axis=1, keepdims=True)
            rest = rows - shared
            row_square += float(np.square(shared).sum())
            rest_square += float(np.square(rest).sum())
            left_out = np.concatenate([hot[0], hot[1]] if pair[0] is red else [hot[3], hot[2]], 1)
            samples.append(rest[~left_out][::step])
    used = len(frames) * (2 * height * (in_row - 1) - int(hot.sum()))
    variance = rest_square / used
    read_variance = variance - ROUNDING_VARIANCE
    if read_variance <= 0:
        raise ConfigError(
            f"Expected read noise in frames without light, found a variance of {variance:.3g} "
            "counts, no more than rounding; the camera clips or smooths its black."
        )
    row_variance = row_square / (len(frames) * (2 * height - 2)) - variance / in_row
    slope, shape = fit_tukey_lambda(np.concatenate(samples))
    # A row's mean takes 1 / in_row of the variance along; rounding adds 1/12.
    slope *= math.sqrt(in_row / (in_row - 1) * read_variance / variance)
    red, green1, blue, green2 = (float(v) for v in means.mean(axis=0))
    return DarkNoise(
        black=(red, green1, blue, green2),
        read_scale=slope,
        read_shape=shape,
        read_deviation=math.sqrt(read_variance),
        row_noise=math.sqrt(max(0.0, row_variance)),
        hot_share=float(hot.mean()),
    )


def _blocks(plane: Floats, side: int) -> Floats:
    """`(n, side * side)` whole blocks of a plane."""
    height, width = (size // side for size in plane.shape)
    cut = plane[: height * side, : width * side].reshape(height, side, width, side)
    return np.asarray(cut.transpose(0, 2, 1, 3).reshape(-1, side * side))


def photon_transfer(pair: Pair, black: Sequence[float]) -> tuple[Floats, Floats]:
    """Level and variance of the blocks of two frames of the same light.

    The second frame is scaled to the first, plane by plane, so that a lamp that changed a little
    between them does no harm; the scene itself cancels.

    Args:
        pair: `(4, h, w)` packed counts each.
        black: Measured black per plane.

    Returns:
        `(n,)` level above black that the shot noise belongs to, and variance of one frame.
    """
    levels, variances = [], []
    side = min(_BLOCK, *pair[0].shape[1:])
    for plane in range(4):
        first, second = (_blocks(frame[plane] - black[plane], side) for frame in pair)
        scale = float(first.mean() / second.mean())
        difference = (first - scale * second).var(axis=1, ddof=1) / (1.0 + scale**2)
        level = (first.mean(axis=1) + scale**2 * second.mean(axis=1)) / (1.0 + scale**2)
        levels.append(level)
        variances.append(difference)
    return np.concatenate(levels), np.concatenate(variances)


def measure_gain(pairs: Sequence[Pair], dark: DarkNoise) -> list[tuple[float, float]]:
    """K at the level of each pair: the median over blocks of (variance - dark variance) / level.

    Only blocks whose shot noise exceeds the noise without light count, so that an error of the
    latter weighs little; medians let dust, hot pixels and moving edges go.

    Args:
        pairs: Two frames of the same light each.
        dark: From `measure_dark` at the same ISO.

    Returns:
        Median level and K of each pair that is bright enough; may be empty.
    """
    found = []
    for pair in pairs:
        level, variance = photon_transfer(pair, dark.black)
        lit = level > 0
        if lit.mean() < 0.5:
            continue
        gains = (variance[lit] - dark.variance) / level[lit]
        # Chosen by level, not by measured variance, which would favour the noisiest blocks.
        bright = float(np.median(gains)) * level[lit] > dark.variance
        if bright.mean() >= 0.5:
            found.append((float(np.median(level[lit][bright])), float(np.median(gains[bright]))))
    return found
