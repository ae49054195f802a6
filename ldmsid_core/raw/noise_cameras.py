"""Cameras to draw noise from: the bundled ones by name, one's own by its profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import ConfigError, NoiseProfileError
from .noise import PHONE_LEVELS, SensorLevels, SensorNoise, a7s2_noise, phone_noise
from .noise_laws import CAMERA_LAWS, NoiseLaw, Range
from .noise_profile_file import load_noise_profile
from .noise_tables import A7S2_TABLE, PHONE_ISO

BUNDLED_CAMERAS = ("a7s2", *CAMERA_LAWS, "phone")


@dataclass(frozen=True)
class NoiseCamera:
    """A camera whose noise can be drawn.

    Attributes:
        name: Bundled name, or that of the profile.
        levels: Black and white; those of the A7S II, 14 bits, where a law gives none.
        iso_range: The ISOs it is known for; None where ISO plays no part, since which K an ISO
            has is not known: then every draw is a sensor of the joint law.
        draw: From an ISO (ignored where `iso_range` is None) and a generator to noise.
    """

    name: str
    levels: SensorLevels
    iso_range: Range | None
    draw: Callable[[float, np.random.Generator], SensorNoise]


def _by_iso(
    noise: Callable[[float], SensorNoise], iso: float, _rng: np.random.Generator
) -> SensorNoise:
    return noise(iso)


def _by_law(law: NoiseLaw, _iso: float, rng: np.random.Generator) -> SensorNoise:
    return law.sample(rng)


def find_camera(name: str) -> NoiseCamera:
    """A camera by its bundled name, or by the path of a noise profile.

    A bundled name that is a file here as well is refused: neither may stand in for the other
    unasked, least of all in a run that is resumed from another folder. `./NAME` means the file.

    Raises:
        ConfigError: If it is both.
        NoiseProfileError: If it is neither, or the profile cannot be used: damaged, or without K.
    """
    if name in BUNDLED_CAMERAS and Path(name).is_file():
        raise ConfigError(
            f"Expected one camera {name}, found the bundled one and a file of that name in "
            f"{Path.cwd()}; write ./{name} for the file, or rename it for the bundled one."
        )
    if name == "a7s2":
        isos = (float(min(A7S2_TABLE)), float(max(A7S2_TABLE)))
        return NoiseCamera(name, SensorLevels(), isos, partial(_by_iso, a7s2_noise))
    if name == "phone":
        return NoiseCamera(name, PHONE_LEVELS, PHONE_ISO, partial(_by_iso, phone_noise))
    if name in CAMERA_LAWS:
        return NoiseCamera(name, SensorLevels(), None, partial(_by_law, CAMERA_LAWS[name]))
    if not Path(name).exists():
        raise NoiseProfileError(
            f"Expected a noise profile or one of {', '.join(BUNDLED_CAMERAS)}, found {name}; check "
            "the name, or make a profile with `ldmsid calibrate`."
        )
    try:
        profile = load_noise_profile(name)
        return NoiseCamera(Path(name).name, profile.levels, profile.iso_range, profile.draw)
    except ConfigError as error:
        raise NoiseProfileError(str(error)) from error
