"""Dark and flat frames of a sensor with known noise, as DNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldmsid_core.raw.cfa import CfaPattern, packed_places
from ldmsid_core.raw.dng import DngHeader, write_dng
from ldmsid_core.raw.noise import SensorNoise, add_sensor_noise

SIZE = (256, 384)
BLACK = 512
WHITE = 16383
# Relative light of the planes R, G1, B, G2 of a flat frame.
TINT = (0.5, 1.0, 0.6, 1.0)


def counts_of(
    noise: SensorNoise,
    light: float = 0.0,
    *,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    cfa: CfaPattern = "RGGB",
) -> NDArray[np.uint16]:
    """`(H, W)` whole counts, black included, of an evenly lit sensor; `light` is that of green."""
    signal = torch.empty(1, *size)
    for tint, (row, column) in zip(TINT, packed_places(cfa), strict=True):
        signal[:, row::2, column::2] = light * tint
    generator = torch.Generator().manual_seed(seed)
    noisy = add_sensor_noise(signal, [noise], generator=generator, cfa=cfa)
    return (noisy + BLACK).round().clamp(0, WHITE)[0].numpy().astype(np.uint16)


def write_frame(
    path: Path, noise: SensorNoise, light: float = 0.0, *, seed: int, iso: float | None = 800,
    cfa: CfaPattern = "RGGB", size: tuple[int, int] = SIZE, **header: Any,
) -> Path:  # fmt: skip
    """Write one frame; returns its path."""
    names = {"make": "Maker", "model": "Model", **header}
    values = DngHeader(iso=iso, cfa=cfa, **names)
    write_dng(path, counts_of(noise, light, seed=seed, size=size, cfa=cfa), values)
    return path


def write_set(
    folder: Path, noise: SensorNoise, *, iso: float = 800, darks: int = 2,
    levels: tuple[float, ...] = (600.0, 4000.0), cfa: CfaPattern = "RGGB",
) -> None:  # fmt: skip
    """Dark frames into `folder/dark`, pairs of flats into `folder/flat`."""
    for number in range(darks):
        path = folder / "dark" / f"{iso:g}_{number}.dng"
        write_frame(path, noise, seed=number, iso=iso, cfa=cfa)
    for level in levels:
        for number in range(2):
            path = folder / "flat" / f"{iso:g}_{level:g}_{number}.dng"
            # The lamp changes by 1 % within each pair.
            seed = 100 + int(level) + number
            write_frame(path, noise, level * (1 + 0.01 * number), seed=seed, iso=iso, cfa=cfa)
