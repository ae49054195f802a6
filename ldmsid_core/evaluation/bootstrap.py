"""Percentile bootstrap intervals (Efron and Tibshirani, 1993), resampled by scene.

Several dark frames of one scene are not independent, so whole scenes are drawn, each with all its
values; the statistic is the mean over all values drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..errors import ConfigError
from .defaults import RESAMPLES

LEVEL = 0.95
SEED = 0
# Below, even unanimous scenes could come from chance at this level: 2 / 2**5 > 0.05.
_FEWEST_SCENES = 6


@dataclass(frozen=True)
class Interval:
    """A mean and where it may lie.

    Attributes:
        mean: Over all values; None where there are none.
        low: Lower end; None where fewer than two scenes, or an infinite value, allow none.
        high: Upper end.
        count: Values.
        scenes: Scenes they come from.
    """

    mean: float | None
    low: float | None
    high: float | None
    count: int
    scenes: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain JSON values; an infinite mean becomes None."""
        values = asdict(self)
        if self.mean is not None and not math.isfinite(self.mean):
            values["mean"] = None
        return values

    @property
    def excludes_zero(self) -> bool:
        """Whether both ends lie on one side of 0, and scenes are enough to say so."""
        if self.low is None or self.high is None or self.scenes < _FEWEST_SCENES:
            return False
        return self.low * self.high > 0


def bootstrap_mean(
    values: Sequence[float],
    scenes: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """The mean and its percentile interval at level 0.95.

    Args:
        values: Of images, or differences of two routes on the same images.
        scenes: One name a value.
        resamples: Draws.
        seed: Of the draws.

    Raises:
        ConfigError: If `resamples` is below 100.
    """
    if resamples < 100:
        raise ConfigError(f"Expected at least 100 bootstrap resamples, found {resamples}.")
    names, place = np.unique(np.asarray(scenes, dtype=str), return_inverse=True)
    if len(values) == 0:
        return Interval(None, None, None, 0, 0)
    numbers = np.asarray(values, dtype=np.float64)
    mean, count = float(numbers.mean()), len(numbers)
    if len(names) < 2 or not np.isfinite(numbers).all():
        return Interval(mean, None, None, count, len(names))
    sums = np.bincount(place, numbers, minlength=len(names))
    sizes = np.bincount(place, minlength=len(names))
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1.0 - LEVEL) / 2.0
    low, high = (float(end) for end in np.quantile(means, (tail, 1.0 - tail)))
    return Interval(mean, low, high, count, len(names))
