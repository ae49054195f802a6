"""Joint laws of noise parameters: whole cameras to draw sensors from, without naming an ISO.

`log K ~ U`, `log sigma | log K ~ N(slope * log K + intercept, spread)` for read and row noise, and
a uniform Tukey-lambda shape (ELD, CVPR 2020, section 4; natural logarithms). The parameters are
those released with ELD (Vandermode/ELD, MIT licence). Counts are on a 14-bit scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from .noise import ReadKind, SensorNoise, check_read_kind

Range = tuple[float, float]


@dataclass(frozen=True)
class LogLine:
    """A deviation whose logarithm follows that of the shot gain.

    Attributes:
        slope: Of log deviation over log K.
        intercept: Log deviation at K = 1.
        spread: Standard deviation of the log deviation around the line.
    """

    slope: float
    intercept: float
    spread: float

    def __post_init__(self) -> None:
        """Refuse what is no line."""
        if not all(map(math.isfinite, (self.slope, self.intercept, self.spread))):
            raise ConfigError(f"Expected finite numbers, found {self}.")
        if self.spread < 0:
            raise ConfigError(f"Expected spread >= 0, found {self}.")

    def centre(self, shot_gain: float) -> float:
        """The deviation on the line, counts."""
        return math.exp(self.slope * math.log(shot_gain) + self.intercept)

    def draw(self, shot_gain: float, rng: np.random.Generator) -> float:
        """A deviation around the line, counts."""
        return self.centre(shot_gain) * math.exp(rng.normal(0.0, self.spread))


@dataclass(frozen=True)
class NoiseLaw:
    """The joint law of one camera.

    Attributes:
        shot_gain: Range of K, drawn log-uniformly.
        read: Of the Tukey-lambda scale.
        read_gaussian: Of the Gaussian read deviation.
        row: Of the row deviation.
        read_shape: Range of the Tukey-lambda shape, drawn uniformly.
        gain_per_iso: K of ISO 1; None where no ISO is known for a K.
    """

    shot_gain: Range
    read: LogLine
    read_gaussian: LogLine
    row: LogLine
    read_shape: Range
    gain_per_iso: float | None = None

    def __post_init__(self) -> None:
        """Refuse ranges that hold no sensor."""
        low, high = self.shot_gain
        if not 0 < low <= high < math.inf:
            raise ConfigError(f"Expected shot_gain with 0 < low <= high, found {self.shot_gain}.")
        low, high = self.read_shape
        if not -0.5 < low <= high < math.inf:
            raise ConfigError(
                f"Expected read_shape with -0.5 < low <= high, found {self.read_shape}."
            )
        if self.gain_per_iso is not None and not 0 < self.gain_per_iso < math.inf:
            raise ConfigError(f"Expected gain_per_iso > 0, found {self.gain_per_iso}.")

    @property
    def iso_range(self) -> Range | None:
        """The ISOs whose K lies in the range; None where no ISO is known for a K."""
        if self.gain_per_iso is None:
            return None
        return self.shot_gain[0] / self.gain_per_iso, self.shot_gain[1] / self.gain_per_iso

    def sample(
        self,
        rng: np.random.Generator,
        *,
        iso: float | None = None,
        read_kind: ReadKind = "tukey-lambda",
    ) -> SensorNoise:
        """A sensor drawn from the law.

        Args:
            rng: Everything drawn comes from it; both kinds draw alike.
            iso: Fixes K, where the law knows ISOs; None draws it.
            read_kind: Distribution of the read noise.

        Raises:
            ConfigError: If an ISO is given that the law does not know.
        """
        check_read_kind(read_kind)
        if iso is None:
            gain = math.exp(rng.uniform(math.log(self.shot_gain[0]), math.log(self.shot_gain[1])))
        else:
            gain = self.gain_of(iso)
        shape = float(rng.uniform(*self.read_shape))
        gaussian = read_kind == "gaussian"
        scale = (self.read_gaussian if gaussian else self.read).draw(gain, rng)
        row = self.row.draw(gain, rng)
        return SensorNoise(gain, scale, 0.0 if gaussian else shape, row, read_kind)

    def centre(self, iso: float, *, read_kind: ReadKind = "tukey-lambda") -> SensorNoise:
        """The sensor on the law's lines at an ISO, with the middle of the shapes.

        Raises:
            ConfigError: If the law does not know the ISO.
        """
        check_read_kind(read_kind)
        gain = self.gain_of(iso)
        if read_kind == "gaussian":
            return SensorNoise(
                gain, self.read_gaussian.centre(gain), 0.0, self.row.centre(gain), read_kind
            )
        shape = sum(self.read_shape) / 2.0
        return SensorNoise(gain, self.read.centre(gain), shape, self.row.centre(gain))

    def gain_of(self, iso: float) -> float:
        """K of an ISO.

        Raises:
            ConfigError: If the law knows no ISOs, or not this one.
        """
        if self.iso_range is None or self.gain_per_iso is None:
            raise ConfigError(
                f"Expected no ISO, found {iso:g}: this camera's law does not say which K an ISO "
                "has; draw a sensor from the law instead."
            )
        low, high = self.iso_range
        # The ends come from a division, so they may miss their own ISO by a rounding.
        if not low * (1 - 1e-9) <= iso <= high * (1 + 1e-9):
            raise ConfigError(f"Expected an ISO from {low:g} to {high:g}, found {iso}.")
        return self.gain_per_iso * iso


CAMERA_LAWS = {
    "a7s2-law": NoiseLaw(
        shot_gain=(0.09392, 6.01063),
        read=LogLine(0.46210, 0.56571, 0.26337),
        read_gaussian=LogLine(0.54075, 1.21824, 0.26751),
        row=LogLine(0.52754, -0.59170, 0.29429),
        read_shape=(-0.143, 0.129),
    ),
    "d850": NoiseLaw(
        shot_gain=(0.41504, 26.56252),
        read=LogLine(0.47739, -0.09044, 0.23920),
        read_gaussian=LogLine(0.56346, 0.79941, 0.21408),
        row=LogLine(0.44829, -1.79771, 0.23218),
        read_shape=(-0.243, -0.100),
    ),
    "5d4": NoiseLaw(
        shot_gain=(0.21819, 13.96413),
        read=LogLine(0.65588, 1.09269, 0.28605),
        read_gaussian=LogLine(0.67713, 1.51219, 0.24641),
        row=LogLine(0.47128, -0.80790, 0.24362),
        read_shape=(0.014, 0.200),
    ),
    "70d": NoiseLaw(
        shot_gain=(0.40750, 26.07981),
        read=LogLine(0.48681, 1.46427, 0.38201),
        read_gaussian=LogLine(0.56812, 1.99827, 0.24870),
        row=LogLine(0.72922, -0.93706, 0.25022),
        read_shape=(-0.171, 0.143),
    ),
    "700d": NoiseLaw(
        shot_gain=(0.44763, 28.64825),
        read=LogLine(0.59824, 1.53704, 0.38882),
        read_gaussian=LogLine(0.65246, 2.07986, 0.25782),
        row=LogLine(0.62206, -0.77565, 0.24848),
        read_shape=(-0.157, 0.129),
    ),
}
