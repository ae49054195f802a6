"""The noise of one's own camera: what `ldmsid calibrate` measured, per ISO or as a fitted law."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from ..errors import ConfigError
from .noise import PlaneValues, ReadKind, SensorLevels, SensorNoise, check_read_kind
from .noise_laws import NoiseLaw, Range
from .noise_tables import gain_stage, read_between
from .packed_raw import camera_name

GainSource = Literal["measured", "given", "missing"]


@dataclass(frozen=True)
class IsoEntry:
    """What was measured at one ISO, in counts.

    Attributes:
        iso: Sensitivity.
        shot_gain: K, counts per electron; None where it is missing.
        gain_source: Where K comes from.
        read_scale: Scale of the Tukey-lambda read noise.
        read_shape: Its shape.
        read_deviation: Standard deviation of the read noise, for the Gaussian kind.
        row_noise: Standard deviation of the value that a sensor row shares.
        colour_bias: Mean of each packed plane R, G1, B, G2 above the file's black level.
        dark_frames: How many frames without light, or masked borders, were measured.
        flat_pairs: How many pairs of flat frames.
    """

    iso: float
    shot_gain: float | None
    gain_source: GainSource
    read_scale: float
    read_shape: float
    read_deviation: float
    row_noise: float
    colour_bias: PlaneValues = (0.0, 0.0, 0.0, 0.0)
    dark_frames: int = 0
    flat_pairs: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no sensor has."""
        if not 0 < self.iso < math.inf:
            raise ConfigError(f"Expected iso > 0, found {self.iso}.")
        if self.gain_source not in get_args(GainSource):
            raise ConfigError(
                f"ISO {self.iso:g}: expected gain_source {' or '.join(get_args(GainSource))}, "
                f"found {self.gain_source!r}."
            )
        if (self.shot_gain is None) != (self.gain_source == "missing"):
            raise ConfigError(
                f"ISO {self.iso:g}: expected shot_gain null exactly where gain_source is missing, "
                f"found {self.shot_gain} and {self.gain_source}."
            )
        if self.read_shape <= -0.5 or min(self.dark_frames, self.flat_pairs) < 0:
            raise ConfigError(
                f"ISO {self.iso:g}: expected read_shape > -0.5 and counts of frames >= 0, found "
                f"{self}."
            )
        gain = 1.0 if self.shot_gain is None else self.shot_gain
        SensorNoise(gain, self.read_scale, self.read_shape, self.row_noise)
        SensorNoise(gain, self.read_deviation, 0.0, self.row_noise, "gaussian", self.colour_bias)


@dataclass(frozen=True)
class NoiseProfile:
    """The noise of one camera.

    Attributes:
        make: Camera maker; None where the files do not say.
        model: Camera model.
        levels: Black and white levels as the camera's files state them.
        read_kind: Distribution of the read noise unless another is asked for.
        entries: One per ISO, rising; empty where there is a law.
        gain_steps: The last ISO of each gain stage but the highest; nothing is interpolated
            across.
        law: A joint law fitted to the entries; None where there are entries.
        method: How it was measured, in words.
    """

    make: str | None
    model: str | None
    levels: SensorLevels
    read_kind: ReadKind = "tukey-lambda"
    entries: tuple[IsoEntry, ...] = ()
    gain_steps: tuple[float, ...] = ()
    law: NoiseLaw | None = None
    method: str = ""

    def __post_init__(self) -> None:
        """Check that there is one calibration, in order."""
        check_read_kind(self.read_kind)
        if bool(self.entries) == (self.law is not None):
            raise ConfigError("Expected either entries or a law in a noise profile, not both.")
        isos = [entry.iso for entry in self.entries]
        if any(second <= first for first, second in pairwise(isos)):
            raise ConfigError(f"Expected entries of rising ISO, found {isos}.")
        if not all(0 < step < math.inf for step in self.gain_steps):
            raise ConfigError(f"Expected gain_steps as ISOs, found {self.gain_steps}.")

    @property
    def iso_range(self) -> Range | None:
        """The ISOs that noise is known for; None where the law knows no ISOs.

        Raises:
            ConfigError: If K is missing everywhere.
        """
        if self.law is not None:
            return self.law.iso_range
        usable = [entry.iso for entry in self.entries if entry.shot_gain is not None]
        if not usable:
            raise ConfigError(
                f"Expected K in the noise profile of {self.name}, found none at any ISO; calibrate "
                "with flat frames or with --gain."
            )
        return usable[0], usable[-1]

    def noise(self, iso: float, *, read_kind: ReadKind | None = None) -> SensorNoise:
        """The noise at an ISO, interpolated in log ISO within a gain stage; the centre of a law.

        K is interpolated as K / ISO, so that it stays proportional in the gap at a gain step.

        Args:
            iso: Within the calibration.
            read_kind: None is the profile's own.

        Raises:
            ConfigError: If the ISO lies outside the calibration, or its K is missing.
        """
        kind = self.read_kind if read_kind is None else read_kind
        check_read_kind(kind)
        if self.law is not None:
            return self.law.centre(iso, read_kind=kind)
        log_gain, scale, shape, deviation, row, *bias = self._between(iso)
        gaussian = kind == "gaussian"
        red, green1, blue, green2 = bias
        return SensorNoise(
            shot_gain=iso * math.exp(log_gain),
            read_scale=deviation if gaussian else scale,
            read_shape=0.0 if gaussian else shape,
            row_noise=row,
            read_kind=kind,
            colour_bias=(red, green1, blue, green2),
        )

    def draw(self, iso: float, rng: np.random.Generator) -> SensorNoise:
        """The noise at an ISO; around its centre where the profile holds a law.

        Args:
            iso: Within the calibration; without meaning where `iso_range` is None.
            rng: Only a law draws from it.

        Raises:
            ConfigError: As for `noise`.
        """
        if self.law is None:
            return self.noise(iso)
        known = iso if self.iso_range is not None else None
        return self.law.sample(rng, iso=known, read_kind=self.read_kind)

    def _between(self, iso: float) -> tuple[float, ...]:
        """log(K / ISO), the three numbers of read noise, row noise and colour bias at an ISO."""
        low, high = self.iso_range or (0.0, math.inf)
        if not low <= iso <= high:
            raise ConfigError(
                f"Expected an ISO from {low:g} to {high:g}, which {self.name} was calibrated for, "
                f"found {iso}; calibrate with frames of that ISO."
            )
        table = {
            entry.iso: (
                math.log(entry.shot_gain / entry.iso), entry.read_scale, entry.read_shape,
                entry.read_deviation, entry.row_noise, *entry.colour_bias,
            )
            for entry in self.entries
            if entry.shot_gain is not None
        }  # fmt: skip
        if not gain_stage(list(table), self.gain_steps, iso):
            raise ConfigError(
                f"Expected a calibrated ISO in the gain stage of ISO {iso:g} of {self.name}, found "
                "none; calibrate with frames of that stage."
            )
        return read_between(table, self.gain_steps, iso)

    @property
    def name(self) -> str:
        """Maker and model; the model alone where it holds the maker's name."""
        return camera_name(self.make, self.model) or "an unnamed camera"
