"""From a camera's own frames to its noise profile: K, read, row noise and colour bias per ISO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..errors import ConfigError
from .noise import ReadKind
from .noise_fit import DarkNoise, Floats, Pair, measure_dark, measure_gain
from .noise_frames import FrameReader, IsoFrames, group_by_iso
from .noise_laws import LogLine, NoiseLaw
from .noise_profile import GainSource, IsoEntry, NoiseProfile
from .noise_tables import gain_stage

_FEWEST_FOR_A_LAW = 3
_ONE_GAIN = 0.1  # K of the levels of one ISO differs by less where the sensor is linear


@dataclass(frozen=True)
class Calibration:
    """What a run of `calibrate` found.

    Attributes:
        profile: To be saved.
        entries: What was measured per ISO, also where the profile holds a law.
        notes: What the user should know, in words.
    """

    profile: NoiseProfile
    entries: tuple[IsoEntry, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CalibrationSettings:
    """How frames become a profile.

    Attributes:
        masked: The frames without light are masked borders of any pictures.
        iso: Of all frames; None takes each file's own.
        shot_gain: K where flat frames are missing; one ISO only.
        gain_steps: The last ISO of each gain stage but the highest.
        read_kind: Distribution of read noise that the profile uses.
        fit_law: Put a law fitted to all ISOs into the profile instead of its entries.
    """

    masked: bool = False
    iso: float | None = None
    shot_gain: float | None = None
    gain_steps: tuple[float, ...] = field(default_factory=tuple)
    read_kind: ReadKind = "tukey-lambda"
    fit_law: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        given = [v for v in (self.iso, self.shot_gain, *self.gain_steps) if v is not None]
        if not all(0 < value < math.inf for value in given):
            raise ConfigError(
                f"Expected --iso, --gain and --gain-step above 0, found {self.iso}, "
                f"{self.shot_gain} and {self.gain_steps}."
            )

    @property
    def method(self) -> str:
        """How black, read and row noise are measured, in words."""
        return "masked border" if self.masked else "dark frames"


def calibrate_camera(
    dark: Sequence[Path], flat: Sequence[Path], settings: CalibrationSettings
) -> Calibration:
    """Measure a camera.

    Args:
        dark: Frames without light, or any pictures with a masked border.
        flat: Evenly lit frames, two and two of the same light; K is missing without.
        settings: How.

    Raises:
        ConfigError: If the frames do not belong together or are not what they should be.
        UnsupportedRawError: If a file cannot be read, or holds no masked border.
    """
    groups = group_by_iso(dark, flat, iso=settings.iso)
    if settings.shot_gain is not None and (flat or len(groups) != 1):
        raise ConfigError(
            f"Expected --gain for frames of one ISO without flat frames, found {len(flat)} flat "
            f"frames and {len(groups)} ISOs; leave --gain out, or calibrate each ISO by itself."
        )
    reader = FrameReader()
    entries, notes = [], []
    for iso, files in groups.items():
        entry, found = _measure_iso(iso, files, reader, settings)
        entries.append(entry)
        notes += [f"ISO {iso:g}: {note}" for note in found]
    for low, high in pairwise(entries):
        stated = any(low.iso <= step < high.iso for step in settings.gain_steps)
        if high.read_deviation < low.read_deviation and not stated:
            notes.append(
                f"Read noise falls after ISO {low.iso:g}: if the sensor switches its gain there, "
                f"give --gain-step {low.iso:g}, so that nothing is interpolated across."
            )
    law = fit_law(entries, settings.gain_steps) if settings.fit_law else None
    metadata = reader.first.metadata
    profile = NoiseProfile(
        make=metadata.make,
        model=metadata.model,
        levels=reader.levels(),
        read_kind=settings.read_kind,
        entries=() if law else tuple(entries),
        gain_steps=settings.gain_steps,
        law=law,
        method=f"{settings.method} and flat frames" if flat else settings.method,
    )
    return Calibration(profile, tuple(entries), tuple(notes))


def _measure_iso(
    iso: float, files: IsoFrames, reader: FrameReader, settings: CalibrationSettings
) -> tuple[IsoEntry, list[str]]:
    notes = []
    dark = measure_dark(reader.dark(files.dark, masked=settings.masked))
    if len(files.dark) == 1:
        notes.append("one frame without light only, so hot pixels count as noise; take two or more")
    pairs: list[Pair] = []
    gain = settings.shot_gain
    source: GainSource = "missing" if gain is None else "given"
    if files.flat:
        pairs, alone = reader.flat_pairs(files.flat)
        notes += [f"{path} was left out: no other flat frame has its light" for path in alone]
        gain, uneven = _gain_of(iso, pairs, dark)
        source = "measured"
        notes += uneven
    elif gain is None:
        notes.append(
            "K is missing, since frames without light do not tell it: give flat frames, or --gain"
        )
    else:
        notes.append(f"K = {gain:g} was given, not measured")
    red, green1, blue, green2 = (
        found - stated for found, stated in zip(dark.black, reader.levels().black, strict=True)
    )
    entry = IsoEntry(
        iso=iso,
        shot_gain=gain,
        gain_source=source,
        read_scale=dark.read_scale,
        read_shape=dark.read_shape,
        read_deviation=dark.read_deviation,
        row_noise=dark.row_noise,
        colour_bias=(red, green1, blue, green2),
        dark_frames=len(files.dark),
        flat_pairs=len(pairs),
    )
    return entry, notes


def _gain_of(iso: float, pairs: Sequence[Pair], dark: DarkNoise) -> tuple[float, list[str]]:
    """Median K of the pairs, and a note where it changes with the level."""
    found = measure_gain(pairs, dark)
    if not found:
        raise ConfigError(
            f"Expected flat frames of ISO {iso:g} whose shot noise exceeds the noise without light "
            f"({math.sqrt(dark.variance):.1f} counts), found none; expose them more."
        )
    gains = [gain for _, gain in found]
    if max(gains) / min(gains) - 1.0 <= _ONE_GAIN:
        return float(np.median(gains)), []
    listed = ", ".join(f"{gain:.4g} at {level:.0f}" for level, gain in found)
    return float(np.median(gains)), [
        f"K differs between levels ({listed} counts): something moved or flickered between the "
        "frames of a pair, or the sensor is not linear; the median was taken"
    ]


def fit_law(entries: Sequence[IsoEntry], gain_steps: Sequence[float] = ()) -> NoiseLaw:
    """The joint law of measured ISOs: lines of log deviation over log K, by least squares.

    Args:
        entries: At least three, all with K, in one gain stage.
        gain_steps: The last ISO of each gain stage but the highest.

    Raises:
        ConfigError: If there are too few, or a straight line cannot hold them.
    """
    isos = [entry.iso for entry in entries]
    gains = [entry.shot_gain for entry in entries if entry.shot_gain is not None]
    if len(entries) < _FEWEST_FOR_A_LAW or len(gains) < len(entries):
        raise ConfigError(
            f"Expected at least {_FEWEST_FOR_A_LAW} ISOs with K for a law, found {len(gains)}; "
            "leave --law out."
        )
    if len(gain_stage(isos, gain_steps, isos[0])) < len(isos):
        raise ConfigError(
            f"Expected a law of one gain stage, found a step among the ISOs {isos[0]:g} to "
            f"{isos[-1]:g}, which no straight line follows; leave --law out."
        )
    if min(entry.row_noise for entry in entries) <= 0:
        raise ConfigError(
            "Expected row noise at every ISO for a law of its logarithm, found none at one; leave "
            "--law out."
        )
    log_gains = np.log(gains)
    per_iso = math.exp(float(np.mean(log_gains - np.log(isos))))
    shapes = [entry.read_shape for entry in entries]
    return NoiseLaw(
        shot_gain=(per_iso * isos[0], per_iso * isos[-1]),
        read=_line(log_gains, [entry.read_scale for entry in entries]),
        read_gaussian=_line(log_gains, [entry.read_deviation for entry in entries]),
        row=_line(log_gains, [entry.row_noise for entry in entries]),
        read_shape=(min(shapes), max(shapes)),
        gain_per_iso=per_iso,
    )


def _line(log_gains: Floats, deviations: Sequence[float]) -> LogLine:
    logs = np.log(deviations)
    slope, intercept = (float(v) for v in np.polyfit(log_gains, logs, 1))
    rest = logs - (slope * log_gains + intercept)
    # Two degrees of freedom went into the line.
    return LogLine(slope, intercept, float(np.sqrt(np.square(rest).sum() / (len(logs) - 2))))
