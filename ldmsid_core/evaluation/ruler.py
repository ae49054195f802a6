"""The metrics of an evaluation: what each measures, and which could not be computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from .gmsd import gmsd_y
from .metrics import FloatImage, delta_e_2000, psnr_rgb, ssim_rgb, ssim_y
from .ms_ssim import SMALLEST_SIDE, ms_ssim_y

Values = dict[str, float | None]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        key: In files and options.
        label: In tables.
        higher_is_better: Direction.
        digits: Decimals shown.
        definition: One sentence or two, with the source.
        measure: `(found, truth)`, both `(H, W, 3)` unit range -> value; None where the picture
            does not allow it.
    """

    key: str
    label: str
    higher_is_better: bool
    digits: int
    definition: str
    measure: Callable[[FloatImage, FloatImage], float | None]

    def better(self, values: Iterable[float | None]) -> float | None:
        """The best of several values, NaN the worst; None where none could be computed."""
        known = [value for value in values if value is not None]
        numbers = [value for value in known if not math.isnan(value)]
        if not numbers:
            return math.nan if known else None
        return max(numbers) if self.higher_is_better else min(numbers)


_SSIM = (
    "Structural similarity (Wang et al., 2004) with an 11x11 Gaussian window of deviation 1.5, "
    "population variances and K1 = 0.01, K2 = 0.03"
)
_Y = "of the BT.601 luma 0.299 R + 0.587 G + 0.114 B of sRGB values, full range"
WEIGHT_FREE = (
    Metric(
        "psnr_rgb", "PSNR (RGB), dB", True, 2,
        "Peak signal-to-noise ratio, 10 log10(1 / MSE), the mean taken over all pixels and the "
        "three sRGB channels together.", psnr_rgb,
    ),
    Metric("ssim_y", "SSIM (Y)", True, 4, f"{_SSIM}, {_Y}.", ssim_y),
    Metric("ssim_rgb", "SSIM (RGB)", True, 4, f"{_SSIM}; mean of the three sRGB channels.",
           ssim_rgb),
    Metric(
        "ms_ssim_y", "MS-SSIM (Y)", True, 4,
        f"Multi-scale SSIM (Wang et al., 2003), {_Y}; five scales with the published exponents, "
        "halved by 2x2 means, windows wholly inside; negative means count as 0. Needs sides of "
        f"{SMALLEST_SIDE} pixels.", ms_ssim_y,
    ),
    Metric(
        "gmsd_y", "GMSD (Y)", False, 4,
        f"Gradient magnitude similarity deviation (Xue et al., 2014), {_Y}, scaled to 0..255, "
        "averaged over 2x2 blocks; Prewitt gradients, c = 170, population deviation.", gmsd_y,
    ),
    Metric(
        "delta_e_2000", "ΔE2000", False, 2,
        "Mean CIEDE2000 colour difference in CIELAB (D65, 2 degrees).", delta_e_2000,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Ruler:
    """Everything that pictures are measured by.

    Attributes:
        metrics: In the order of tables.
        absent: One sentence for each metric that was not computed.
    """

    metrics: tuple[Metric, ...]
    absent: tuple[str, ...] = ()

    def measure(self, found: list[FloatImage], truth: FloatImage) -> Values:
        """Every metric of a picture; of several pictures the best of each metric.

        Args:
            found: `(H, W, 3)` unit range each.
            truth: The same shape.
        """
        clipped = [np.clip(picture, 0.0, 1.0) for picture in found]
        return {
            metric.key: metric.better(metric.measure(picture, truth) for picture in clipped)
            for metric in self.metrics
        }


def choose_metrics(
    names: str | None, known: tuple[Metric, ...] = WEIGHT_FREE
) -> tuple[Metric, ...]:
    """The metrics of a comma-separated list, in the order of tables; None is all of them.

    Raises:
        ConfigError: If a name is unknown.
    """
    if names is None:
        return known
    wanted = {name.strip() for name in names.split(",")}
    unknown = sorted(wanted - {metric.key for metric in known})
    if unknown:
        raise ConfigError(
            f"Expected metrics among {', '.join(m.key for m in known)}, found {unknown[0]!r}; "
            "those that need weights come with their weight files."
        )
    return tuple(metric for metric in known if metric.key in wanted)
