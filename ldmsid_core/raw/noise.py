"""Sensor noise of the P-TL-r-q model: shot, Tukey-lambda read, row and quantisation noise.

The form is that of Wei et al., *A physics-based noise formation model for extreme low-light raw
denoising* (ELD, CVPR 2020); the Sony A7S II calibration per ISO is the one published with PMN
(megvii-research, Apache-2.0). Counts are on the camera's 14-bit scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError

A7S2_BLACK_LEVEL = 512
A7S2_WHITE_LEVEL = 16383

# ISO: (Tukey-lambda scale, Tukey-lambda shape, row standard deviation), counts.
_A7S2_LOW_GAIN = {
    100: (0.7018, 0.1488, 0.1391),
    200: (0.8117, 0.0790, 0.2282),
    400: (1.1817, 0.0223, 0.3621),
    800: (1.9347, -0.0082, 0.5724),
    1250: (2.7084, -0.0324, 0.8177),
    1600: (3.2284, -0.0441, 0.9888),
}
_A7S2_HIGH_GAIN = {
    2000: (1.4357, -0.0130, 0.3312),
    3200: (2.0418, -0.0349, 0.4454),
    4000: (2.4629, -0.0437, 0.5235),
    6400: (3.4503, -0.0752, 0.7219),
    10000: (5.4953, -0.0733, 1.0522),
    12800: (7.0383, -0.0650, 1.2750),
    20000: (11.0024, -0.0602, 1.8811),
    25600: (12.1757, -0.0909, 2.2760),
}
_A7S2_COUNTS_PER_ELECTRON_PER_ISO = 0.000956
_LOGISTIC_BELOW = 1e-3


@dataclass(frozen=True)
class SensorNoise:
    """Noise parameters of one sensor at one ISO, in counts.

    Attributes:
        shot_gain: K, counts per electron.
        read_scale: Scale of the Tukey-lambda read noise.
        read_shape: Shape of the Tukey-lambda read noise; 0 is the logistic distribution.
        row_noise: Standard deviation of the one value that each sensor row shares.
    """

    shot_gain: float
    read_scale: float
    read_shape: float
    row_noise: float

    def __post_init__(self) -> None:
        """Refuse values that no sensor has."""
        if not self.shot_gain > 0 or self.read_scale < 0 or self.row_noise < 0:
            raise ConfigError(
                f"Expected shot_gain > 0 and read_scale, row_noise >= 0, found {self}."
            )

    @property
    def read_deviation(self) -> float:
        """Standard deviation of the read noise: `scale` times that of the unit distribution."""
        return self.read_scale * tukey_lambda_deviation(self.read_shape)


def tukey_lambda_deviation(shape: float) -> float:
    """Standard deviation of the Tukey-lambda distribution with scale 1 (closed form).

    Raises:
        ConfigError: If `shape` <= -0.5, where the variance is infinite.
    """
    if shape <= -0.5:
        raise ConfigError(f"Expected a Tukey-lambda shape above -0.5, found {shape}.")
    if abs(shape) < _LOGISTIC_BELOW:
        return math.pi / math.sqrt(3.0)
    ratio = math.exp(2.0 * math.lgamma(shape + 1.0) - math.lgamma(2.0 * shape + 2.0))
    return math.sqrt(2.0 / shape**2 * (1.0 / (1.0 + 2.0 * shape) - ratio))


def a7s2_noise(iso: float) -> SensorNoise:
    """Noise of the Sony A7S II at an ISO, interpolated within each of its two gain stages.

    Args:
        iso: 100 to 25600; the second gain stage serves everything above 1600.

    Raises:
        ConfigError: If `iso` lies outside the calibration.
    """
    if not 100 <= iso <= 25600:
        raise ConfigError(f"Expected an ISO from 100 to 25600, found {iso}.")
    table = _A7S2_LOW_GAIN if iso <= 1600 else _A7S2_HIGH_GAIN
    isos = sorted(table)
    iso_known = max(iso, isos[0])
    upper = next(i for i in isos if i >= iso_known)
    lower = max((i for i in isos if i <= iso_known), default=upper)
    part = 0.0 if upper == lower else math.log(iso_known / lower) / math.log(upper / lower)

    def between(column: int) -> float:
        return table[lower][column] * (1.0 - part) + table[upper][column] * part

    return SensorNoise(
        shot_gain=_A7S2_COUNTS_PER_ELECTRON_PER_ISO * iso,
        read_scale=between(0),
        read_shape=between(1),
        row_noise=between(2),
    )


def _tukey_lambda(shape: Tensor, like: Tensor, generator: torch.Generator) -> Tensor:
    """Samples with scale 1, by the quantile function Q(p) = (p**s - (1 - p)**s) / s."""
    p = torch.rand(like.shape, generator=generator).clamp_(1e-7, 1.0 - 1e-7)
    odds, complement = torch.log(p), torch.log1p(-p)
    safe = torch.where(shape.abs() < _LOGISTIC_BELOW, torch.ones_like(shape), shape)
    general = (torch.exp(safe * odds) - torch.exp(safe * complement)) / safe
    return torch.where(shape.abs() < _LOGISTIC_BELOW, odds - complement, general)


def add_sensor_noise(
    signal: Tensor, noises: list[SensorNoise], *, generator: torch.Generator
) -> Tensor:
    """Noisy counts above black of clean ones, unquantised (steps 1 to 3 of the model).

    Args:
        signal: `(B, H, W)` mosaic, counts above black, not negative.
        noises: One per image of the batch.
        generator: CPU generator; nothing global is drawn from.

    Returns:
        `(B, H, W)` counts above black, unclipped: shot noise K * Poisson(D / K), read noise,
        and one offset per sensor row.
    """

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=signal.dtype)[:, None, None]

    gain = column([n.shot_gain for n in noises])
    shot = gain * torch.poisson(signal / gain, generator=generator)
    read = column([n.read_scale for n in noises]) * _tukey_lambda(
        column([n.read_shape for n in noises]), signal, generator
    )
    rows = torch.randn(signal.shape[:-1], generator=generator)[..., None]
    return shot + read + rows * column([n.row_noise for n in noises])
