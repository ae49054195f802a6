"""Sensor noise of the P-TL-r-q model: shot, read, row and quantisation noise and colour bias.

The form is that of Wei et al., *A physics-based noise formation model for extreme low-light raw
denoising* (ELD, CVPR 2020). Calibrations: per ISO in `noise_tables.py`, per camera in
`noise_laws.py`, of one's own camera in `noise_profile.py`. Counts are on each camera's own scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from .cfa import CfaPattern, packed_places
from .noise_tables import (
    A7S2_COUNTS_PER_ELECTRON_PER_ISO,
    A7S2_GAIN_STEPS,
    A7S2_TABLE,
    PHONE_ISO,
    PHONE_READ_VARIANCE,
    PHONE_SHOT_GAIN,
    read_between,
)

A7S2_BLACK_LEVEL = 512
A7S2_WHITE_LEVEL = 16383
ReadKind = Literal["tukey-lambda", "gaussian"]
READ_KINDS: tuple[ReadKind, ...] = ("tukey-lambda", "gaussian")
PlaneValues = tuple[float, float, float, float]
_LOGISTIC_BELOW = 1e-3


@dataclass(frozen=True)
class SensorLevels:
    """The range of a sensor's counts.

    Attributes:
        black: Counts without light, planes R, G1, B, G2.
        white: Saturation count.
    """

    black: tuple[int, int, int, int] = (A7S2_BLACK_LEVEL,) * 4
    white: int = A7S2_WHITE_LEVEL

    def __post_init__(self) -> None:
        """Refuse levels that leave no range."""
        whole = all(type(level) is int for level in (*self.black, self.white))
        if not whole or len(self.black) != 4 or not 0 <= min(self.black) <= max(self.black):
            raise ConfigError(
                f"Expected four black levels and a white level, whole numbers, found {self}."
            )
        if max(self.black) >= self.white or self.white > 65535:
            raise ConfigError(
                f"Expected black levels below the white level and that within 65535, found {self}."
            )


# The 10-bit sensor that the phone's law was measured on: 959 counts above black.
PHONE_LEVELS = SensorLevels(black=(64, 64, 64, 64), white=1023)


@dataclass(frozen=True)
class SensorNoise:
    """Noise parameters of one sensor at one ISO, in counts.

    Attributes:
        shot_gain: K, counts per electron.
        read_scale: Scale of the read noise: that of the Tukey-lambda distribution, or the
            standard deviation of the Gaussian one.
        read_shape: Shape of the Tukey-lambda read noise; 0 is the logistic distribution. Always
            0 where the read noise is Gaussian.
        row_noise: Standard deviation of the one value that each sensor row shares.
        read_kind: Distribution of the read noise.
        colour_bias: Offset of each packed plane R, G1, B, G2.
    """

    shot_gain: float
    read_scale: float
    read_shape: float
    row_noise: float
    read_kind: ReadKind = "tukey-lambda"
    colour_bias: PlaneValues = (0.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        """Refuse values that no sensor has."""
        if not self.shot_gain > 0 or self.read_scale < 0 or self.row_noise < 0:
            raise ConfigError(
                f"Expected shot_gain > 0 and read_scale, row_noise >= 0, found {self}."
            )
        check_read_kind(self.read_kind)
        if self.read_kind == "gaussian" and self.read_shape != 0.0:
            raise ConfigError(f"Expected read_shape 0 with Gaussian read noise, found {self}.")
        if len(self.colour_bias) != 4:
            raise ConfigError(f"Expected one colour_bias per packed plane, found {self}.")
        values = (self.shot_gain, self.read_scale, self.read_shape, self.row_noise)
        if not all(map(math.isfinite, (*values, *self.colour_bias))):
            raise ConfigError(f"Expected finite noise parameters, found {self}.")

    @property
    def read_deviation(self) -> float:
        """Standard deviation of the read noise: `scale` times that of the unit distribution."""
        if self.read_kind == "gaussian":
            return self.read_scale
        return self.read_scale * tukey_lambda_deviation(self.read_shape)


def check_read_kind(kind: str) -> None:
    """Refuse unknown distributions of read noise.

    Raises:
        ConfigError: If `kind` is none of `READ_KINDS`.
    """
    if kind not in READ_KINDS:
        raise ConfigError(f"Expected read noise {' or '.join(READ_KINDS)}, found {kind!r}.")


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


def a7s2_noise(iso: float, *, read_kind: ReadKind = "tukey-lambda") -> SensorNoise:
    """Noise of the Sony A7S II at an ISO, interpolated within each of its two gain stages.

    Args:
        iso: 100 to 25600; the second gain stage serves everything above 1600.
        read_kind: Distribution of the read noise; the table has both.

    Raises:
        ConfigError: If `iso` lies outside the calibration.
    """
    check_read_kind(read_kind)
    if not 100 <= iso <= 25600:
        raise ConfigError(f"Expected an ISO from 100 to 25600, found {iso}.")
    scale, shape, row, deviation = read_between(A7S2_TABLE, A7S2_GAIN_STEPS, iso)
    gain = A7S2_COUNTS_PER_ELECTRON_PER_ISO * iso
    if read_kind == "gaussian":
        return SensorNoise(gain, deviation, 0.0, row, read_kind)
    return SensorNoise(gain, scale, shape, row)


def phone_noise(iso: float) -> SensorNoise:
    """Noise of PMRID's phone sensor: Gaussian read noise, variance K * D + sigma**2, no rows.

    Args:
        iso: 100 to 6400.

    Raises:
        ConfigError: If `iso` lies outside.
    """
    low, high = PHONE_ISO
    if not low <= iso <= high:
        raise ConfigError(f"Expected an ISO from {low:g} to {high:g}, found {iso}.")
    slope, start = PHONE_SHOT_GAIN
    square, linear, constant = PHONE_READ_VARIANCE
    deviation = math.sqrt(square * iso**2 + linear * iso + constant)
    return SensorNoise(slope * iso + start, deviation, 0.0, 0.0, "gaussian")


def _unit_read_noise(kinds: list[ReadKind], shape: Tensor, p: Tensor) -> Tensor:
    """Samples with scale 1 by each image's quantile function at the probabilities `p`.

    Tukey-lambda: Q(p) = (p**s - (1 - p)**s) / s. All kinds use the same draws, so that an
    image's noise does not depend on the kinds of the others.
    """
    odds, complement = torch.log(p), torch.log1p(-p)
    safe = torch.where(shape.abs() < _LOGISTIC_BELOW, torch.ones_like(shape), shape)
    general = (torch.exp(safe * odds) - torch.exp(safe * complement)) / safe
    samples = torch.where(shape.abs() < _LOGISTIC_BELOW, odds - complement, general)
    for number, kind in enumerate(kinds):
        if kind == "gaussian":
            samples[number] = torch.special.ndtri(p[number])
    return samples


def _add_colour_bias(mosaic: Tensor, noises: list[SensorNoise], cfa: CfaPattern) -> Tensor:
    for plane, (row, column) in enumerate(packed_places(cfa)):
        offsets = torch.tensor([n.colour_bias[plane] for n in noises], dtype=mosaic.dtype)
        mosaic[:, row::2, column::2] += offsets[:, None, None]
    return mosaic


def add_sensor_noise(
    signal: Tensor,
    noises: list[SensorNoise],
    *,
    generator: torch.Generator,
    cfa: CfaPattern = "RGGB",
) -> Tensor:
    """Noisy counts above black of clean ones, before a converter rounds them.

    Args:
        signal: `(B, H, W)` mosaic, counts above black, not negative.
        noises: One per image of the batch.
        generator: CPU generator; nothing global is drawn from.
        cfa: Layout of the top-left 2x2 tile; says where a colour bias belongs.

    Returns:
        `(B, H, W)` counts above black, unclipped: shot noise K * Poisson(D / K), read noise,
        one offset per sensor row, and colour bias.
    """

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=signal.dtype)[:, None, None]

    gain = column([n.shot_gain for n in noises])
    shot = gain * torch.poisson(signal / gain, generator=generator)
    p = torch.rand(signal.shape, generator=generator).clamp_(1e-7, 1.0 - 1e-7)
    read = column([n.read_scale for n in noises]) * _unit_read_noise(
        [n.read_kind for n in noises], column([n.read_shape for n in noises]), p
    )
    rows = torch.randn(signal.shape[:-1], generator=generator)[..., None]
    noisy = shot + read + rows * column([n.row_noise for n in noises])
    if any(any(n.colour_bias) for n in noises):
        noisy = _add_colour_bias(noisy, noises, cfa)
    return noisy
