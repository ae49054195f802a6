"""Dark, noisy RAWs of training images, with random cameras, ISOs and exposure ratios."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from ..raw.noise import SensorLevels, SensorNoise, a7s2_noise
from ..raw.noise_cameras import NoiseCamera, find_camera
from ..raw.packing import network_planes, normalise, pack_bayer
from ..raw.simulate import (
    A7S2_WHITE_BALANCE,
    A7S2_XYZ_TO_CAMERA,
    CameraColour,
    expose_dark,
    scene_mosaic,
)

_A7S2 = "Sony A7S II"
# Determinants of cameras' matrices are 0.1 and more.
_SINGULAR = 1e-3


@dataclass(frozen=True)
class DarknessConfig:
    """What dark RAWs are drawn.

    Attributes:
        iso: Range, drawn log-uniformly.
        exposure_ratio: Range, drawn log-uniformly.
        dark_share: Share of samples drawn from the two ranges below instead, which are the
            conditions that the method is made for.
        dark_iso: Range of these.
        dark_exposure_ratio: Range of these.
        white_balance_spread: Standard deviation of the logarithm of the red and blue gains.
        matrix_spread: Standard deviation of each matrix entry, in units of the largest.
        cameras: Whose noise and levels, one drawn evenly per image: bundled names or paths of
            noise profiles. Of a camera that knows fewer ISOs, those within the range are drawn;
            one whose ISOs are unknown is drawn from its joint law. Empty is the A7S II per ISO.
            Their colour is that of the next three.
        sensor: Name of the camera, for the taming file.
        xyz_to_camera: Its matrix, XYZ (D65) to camera, nine numbers row by row as `ldmsid info`
            tells; empty is the A7S II's.
        white_balance: Its multipliers R, G, B in daylight, green 1; empty is the A7S II's.
    """

    iso: tuple[float, float] = (100.0, 25600.0)
    exposure_ratio: tuple[float, float] = (1.0, 300.0)
    dark_share: float = 0.6
    dark_iso: tuple[float, float] = (400.0, 6400.0)
    dark_exposure_ratio: tuple[float, float] = (60.0, 300.0)
    white_balance_spread: float = 0.15
    matrix_spread: float = 0.015
    cameras: tuple[str, ...] = ()
    sensor: str = _A7S2
    xyz_to_camera: tuple[float, ...] = ()
    white_balance: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check ranges."""
        for low, high in (
            self.iso, self.exposure_ratio, self.dark_iso, self.dark_exposure_ratio,
        ):  # fmt: skip
            if not 1.0 <= low <= high:
                raise ConfigError(f"Expected ranges with 1 <= low <= high, found {self}.")
        if not 0.0 <= self.dark_share <= 1.0:
            raise ConfigError(f"Expected dark_share in 0..1, found {self.dark_share}.")
        if any(not isinstance(name, str) for name in self.cameras):
            raise ConfigError(f"Expected cameras as names or paths, found {self.cameras}.")
        self._check_colour()
        for wanted in (self.iso, self.dark_iso):
            for camera in self.noise_cameras:
                _shared_isos(camera, wanted)
            if not self.cameras:
                for iso in wanted:
                    a7s2_noise(iso)

    def _check_colour(self) -> None:
        given = (bool(self.xyz_to_camera), bool(self.white_balance))
        if any(given) and not (all(given) and self.sensor != _A7S2):
            raise ConfigError(
                "Expected sensor, xyz_to_camera and white_balance together, found "
                f"{self.sensor!r}, {self.xyz_to_camera}, {self.white_balance}."
            )
        if self.sensor != _A7S2 and not all(given):
            raise ConfigError(
                f"Expected xyz_to_camera and white_balance of the sensor {self.sensor!r}; "
                "`ldmsid info` tells them of a RAW."
            )
        if not all(given):
            return
        if len(self.xyz_to_camera) != 9 or abs(np.linalg.det(self.matrix)) < _SINGULAR:
            raise ConfigError(
                f"Expected xyz_to_camera as the nine numbers of a matrix that can be inverted, "
                f"found {self.xyz_to_camera}."
            )
        if len(self.white_balance) != 3 or not all(1.0 <= g < 100.0 for g in self.white_balance):
            raise ConfigError(
                f"Expected white_balance as three multipliers of 1 and more, found "
                f"{self.white_balance}."
            )

    @property
    def matrix(self) -> NDArray[np.float64]:
        """XYZ (D65) to camera, `(3, 3)`."""
        return np.asarray(self.xyz_to_camera or A7S2_XYZ_TO_CAMERA, dtype=np.float64).reshape(3, 3)

    @cached_property
    def noise_cameras(self) -> tuple[NoiseCamera, ...]:
        """The cameras, read once.

        Raises:
            ConfigError: If one is unknown or its profile cannot be used.
        """
        return tuple(find_camera(name) for name in self.cameras)


def _shared_isos(camera: NoiseCamera, wanted: tuple[float, float]) -> tuple[float, float]:
    """The part of a range of ISOs that a camera knows; all of it where ISO plays no part."""
    if camera.iso_range is None:
        return wanted
    low, high = max(wanted[0], camera.iso_range[0]), min(wanted[1], camera.iso_range[1])
    if low > high:
        raise ConfigError(
            f"Expected ISOs of {camera.name} within {wanted[0]:g} to {wanted[1]:g}, found "
            f"{camera.iso_range[0]:g} to {camera.iso_range[1]:g}; change iso and dark_iso."
        )
    return low, high


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]))))


def _random_colour(rng: np.random.Generator, config: DarknessConfig, count: int) -> CameraColour:
    matrix = config.matrix
    spread = config.matrix_spread * np.abs(matrix).max()
    matrices = matrix + rng.normal(0.0, spread, (count, 3, 3))
    gains = np.asarray(config.white_balance or A7S2_WHITE_BALANCE) * np.exp(
        rng.normal(0.0, config.white_balance_spread, (count, 3)) * [1.0, 0.0, 1.0]
    )
    gains = np.maximum(gains, 1.0)
    return CameraColour(
        torch.from_numpy(matrices.astype(np.float32)), torch.from_numpy(gains.astype(np.float32))
    )


def _random_sensor(
    rng: np.random.Generator, config: DarknessConfig, isos: tuple[float, float]
) -> tuple[SensorNoise, SensorLevels]:
    if not config.noise_cameras:
        return a7s2_noise(_log_uniform(rng, isos)), SensorLevels()
    camera = config.noise_cameras[int(rng.integers(len(config.noise_cameras)))]
    return camera.draw(_log_uniform(rng, _shared_isos(camera, isos)), rng), camera.levels


def darken(
    image: Tensor,
    config: DarknessConfig,
    *,
    seed: tuple[int, ...],
    clip: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Network input planes of dark RAWs of clean images.

    Args:
        image: `(B, 3, h, w)` sRGB, unit range.
        config: What to draw.
        seed: Everything drawn follows from it.
        clip: As `network_planes`.

    Returns:
        `(B, 4, h, w)` in model range: white-balanced, amplified, clipped, as the embedded
        model's input recipe says.
    """
    rng = np.random.default_rng(seed)
    count = image.shape[0]
    ratios: list[float] = []
    sensors: list[tuple[SensorNoise, SensorLevels]] = []
    for _ in range(count):
        dark = rng.random() < config.dark_share
        ratios.append(
            _log_uniform(rng, config.dark_exposure_ratio if dark else config.exposure_ratio)
        )
        sensors.append(_random_sensor(rng, config, config.dark_iso if dark else config.iso))
    noises, levels = [noise for noise, _ in sensors], [level for _, level in sensors]
    colour = _random_colour(rng, config, count)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    counts = expose_dark(
        scene_mosaic(image, colour), exposure_ratios=ratios, noises=noises, generator=generator,
        levels=levels,
    )  # fmt: skip
    packed = pack_bayer(counts, cfa="RGGB")
    seen = [
        network_planes(
            normalise(
                packed[i : i + 1], black_level=levels[i].black, white_level=levels[i].white
            ),
            exposure_ratio=ratios[i],
            white_balance=colour.white_balance[i].tolist(),
            clip=clip,
        )
        for i in range(count)
    ]  # fmt: skip
    return torch.cat(seen)
