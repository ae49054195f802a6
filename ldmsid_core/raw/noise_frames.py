"""The frames that a camera is calibrated from: grouped by ISO, and checked for what they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import ConfigError
from .loader import load_frame, load_metadata
from .noise import SensorLevels
from .noise_fit import Pair
from .sensor_frame import Counts, SensorFrame

# Of the range above black: how far from black a dark frame's mean may lie, and how far up to
# saturation a flat may reach.
_DARK_SHARE, _FEWEST_DARK_COUNTS = 0.005, 2.0
_CLIPPED_SHARE = 0.01  # of pixels at count 0, beyond which half of the noise may be cut off
_BLOCK = 32
_SATURATED, _SATURATED_SHARE = 0.98, 0.001
# Two flats of the same light: their means above black differ by no more.
_SAME_LIGHT = 0.03


@dataclass
class IsoFrames:
    """The files of one ISO.

    Attributes:
        dark: Those without light.
        flat: Those evenly lit.
    """

    dark: list[Path] = field(default_factory=list)
    flat: list[Path] = field(default_factory=list)


def group_by_iso(
    dark: Sequence[Path], flat: Sequence[Path], *, iso: float | None
) -> dict[float, IsoFrames]:
    """The files of each ISO, rising.

    Args:
        dark: Without light.
        flat: Evenly lit.
        iso: Of all files; None takes each file's own.

    Raises:
        ConfigError: If a file does not say its ISO, is named twice, or has no dark frame beside.
        UnsupportedRawError: If a file is none.
    """
    groups: dict[float, IsoFrames] = {}
    seen: set[Path] = set()
    for path, kind in [*((p, "dark") for p in dark), *((p, "flat") for p in flat)]:
        if path.resolve() in seen:
            raise ConfigError(f"Expected each frame once, found {path} again; leave it out.")
        seen.add(path.resolve())
        known = iso if iso is not None else load_metadata(path).iso
        if known is None:
            raise ConfigError(
                f"Expected an ISO in the EXIF data of {path}, found none; give it with --iso."
            )
        getattr(groups.setdefault(known, IsoFrames()), kind).append(path)
    for known, files in groups.items():
        if not files.dark:
            raise ConfigError(
                f"Expected frames without light of ISO {known:g} beside {files.flat[0]}, found "
                "none; take some with the lens cap on."
            )
    return dict(sorted(groups.items()))


class FrameReader:
    """Reads frames and holds them to one camera, size and range."""

    def __init__(self) -> None:
        self._first: SensorFrame | None = None

    @property
    def first(self) -> SensorFrame:
        """The frame that all others are compared with."""
        if self._first is None:
            raise ConfigError("Expected frames without light, found none; name some with --dark.")
        return self._first

    def read(self, path: Path) -> SensorFrame:
        """A frame of the same camera as the ones before.

        Raises:
            ConfigError: If camera, size, filter layout or levels differ.
            UnsupportedRawError: If the file is none.
        """
        frame = load_frame(path)
        if self._first is None:
            self._first = frame
        for label, mine, first in zip(
            ("camera", "size", "filter layout", "levels"),
            _identity(frame), _identity(self._first), strict=True,
        ):  # fmt: skip
            if mine != first:
                raise ConfigError(
                    f"Expected frames of one {label}, but {path} has {mine} and "
                    f"{self._first.file_name} has {first}; calibrate each camera by itself."
                )
        return frame

    def levels(self) -> SensorLevels:
        """Black and white levels that the files state, as whole numbers."""
        red, green1, blue, green2 = (round(level) for level in self.first.black_level)
        return SensorLevels((red, green1, blue, green2), round(self.first.white_level))

    def dark(self, paths: Iterable[Path], *, masked: bool) -> list[Counts]:
        """Packed counts of frames without light, or of their masked borders.

        Raises:
            ConfigError: If one holds light.
        """
        found = []
        for path in paths:
            frame = self.read(path)
            planes = frame.masked_planes() if masked else frame.planes
            _check_dark(planes, frame, path, masked=masked)
            found.append(planes)
        smallest = np.min([planes.shape for planes in found], axis=0)
        return [planes[:, : smallest[1], : smallest[2]] for planes in found]

    def flat_pairs(self, paths: Sequence[Path]) -> tuple[list[Pair], list[Path]]:
        """Pairs of flats of the same light, darkest first, and the files that found no partner.

        Raises:
            ConfigError: If there is one flat only, one is saturated, or no two share their light.
        """
        if len(paths) == 1:
            raise ConfigError(
                f"Expected flat frames in pairs of the same light, found only {paths[0]}; take a "
                "second one without changing anything."
            )
        frames = sorted(
            ((_flat_light(self.read(path), path), path) for path in paths), key=lambda f: f[0]
        )
        pairs, alone = [], []
        while frames:
            light, path = frames.pop(0)
            if frames and frames[0][0] <= light * (1.0 + _SAME_LIGHT):
                partner = frames.pop(0)[1]
                pairs.append((self.read(path).planes, self.read(partner).planes))
            else:
                alone.append(path)
        if paths and not pairs:
            raise ConfigError(
                f"Expected two flat frames of the same light, found {len(paths)} that all differ "
                f"by more than {_SAME_LIGHT:.0%}, such as {alone[0]}; take each level twice."
            )
        return pairs, alone


def _identity(frame: SensorFrame) -> tuple[object, ...]:
    levels = (*frame.black_level, frame.white_level)
    size = (frame.height, frame.width, *frame.counts.shape)
    return frame.metadata.camera or "no name", size, frame.cfa, levels


def _check_dark(planes: Counts, frame: SensorFrame, path: Path, *, masked: bool) -> None:
    """Refuse frames that hold light, by mean and unevenness, and those whose noise is cut off."""
    what = f"the masked border of {path}" if masked else f"{path}"
    clipped = float((planes == 0).mean())
    if clipped > _CLIPPED_SHARE:
        raise ConfigError(
            f"Expected noise on both sides of black, but {clipped:.0%} of {what} is cut off at 0: "
            "the camera subtracts its black level; its noise cannot be measured from such files."
        )
    black = np.array(frame.black_level)
    limit = max(_FEWEST_DARK_COUNTS, _DARK_SHARE * (frame.white_level - black.max()))
    above = planes.mean(axis=(1, 2)) - black
    if np.abs(above).max() > limit:
        raise ConfigError(
            f"Expected a frame without light within {limit:.1f} counts of its black level, but "
            f"{what} lies {above[np.abs(above).argmax()]:.1f} counts from it; was the lens cap on? "
            "If so, its stated black level is wrong, and noise cannot be added to it either."
        )
    spread, noise = _unevenness(planes)
    if spread > noise:
        raise ConfigError(
            f"Expected a frame without light, but in {what} blocks of pixels differ by "
            f"{spread:.1f} counts where single pixels have {noise:.1f} of noise: something shows. "
            "Was the lens cap on?"
        )


def _unevenness(planes: Counts) -> tuple[float, float]:
    """Deviation of the medians of blocks, and of a pixel from its neighbour, worst plane."""
    side = min(_BLOCK, *planes.shape[1:])
    height, width = (size // side for size in planes.shape[1:])
    cut = planes[:, : height * side, : width * side].astype(np.float32)
    blocks = cut.reshape(4, height, side, width, side).transpose(0, 1, 3, 2, 4)
    spread = np.median(blocks.reshape(4, height * width, -1), axis=2).std(axis=1)
    noise = np.diff(cut, axis=2).std(axis=(1, 2)) / np.sqrt(2.0)
    worst = int((spread - noise).argmax())
    return float(spread[worst]), float(noise[worst])


def _flat_light(frame: SensorFrame, path: Path) -> float:
    """Mean above black of a flat frame.

    Raises:
        ConfigError: If it is saturated, or as dark as a frame without light.
    """
    planes, black = frame.planes, np.array(frame.black_level)[:, None, None]
    near = black + _SATURATED * (frame.white_level - black)
    saturated = float((planes >= near).mean(axis=(1, 2)).max())
    if saturated > _SATURATED_SHARE:
        raise ConfigError(
            f"Expected flat frames below saturation, but {saturated:.1%} of a plane of {path} is "
            "at the white level; expose it less."
        )
    light = float((planes - black).mean())
    if light <= 0:
        raise ConfigError(
            f"Expected light in the flat frame {path}, but its mean lies {-light:.1f} counts below "
            "the black level; light an even surface."
        )
    return light
