"""Small datasets in the layouts as distributed: synthetic DNGs under the camera's file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ldmsid_core.raw.dng import DngHeader, write_dng
from ldmsid_core.raw.noise import A7S2_BLACK_LEVEL, A7S2_WHITE_LEVEL, a7s2_noise
from ldmsid_core.raw.simulate import CameraColour, expose_dark, scene_mosaic

LONG_S = 10.0


def scene_picture(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Coloured blocks of random size on a gradient: `(h, w, 3)`, edges in all directions."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 90.0) + np.linspace(0, 60, width)[None, :, None]
    for _ in range(20):
        y, x = rng.integers(0, height - 4), rng.integers(0, width - 4)
        tall, wide = rng.integers(3, 12, 2)
        picture[y : y + tall, x : x + wide] = rng.uniform(30, 230, 3)
    return picture.clip(0, 255).astype(np.uint8)


def write_exposure(
    path: Path, picture: NDArray[np.uint8], *, ratio: float = 1.0, seed: int = 0, **header: Any
) -> NDArray[np.uint16]:
    """A RAW of a picture with `1 / ratio` of the light; returns its mosaic."""
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255.0
    clean = scene_mosaic(image, CameraColour.a7s2())
    if ratio == 1.0:
        span = A7S2_WHITE_LEVEL - A7S2_BLACK_LEVEL
        counts = (clean * span + A7S2_BLACK_LEVEL).round()
    else:
        counts = expose_dark(
            clean,
            exposure_ratios=[ratio],
            noises=[a7s2_noise(400)],
            generator=torch.Generator().manual_seed(seed),
        )
    mosaic = np.asarray(counts[0].numpy().astype(np.uint16))
    values = {"iso": 400, "shutter_s": LONG_S / ratio, "make": "SONY", "model": "ILCE-7SM2"}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dng(path, mosaic, DngHeader(**{**values, **header}), overwrite=True)
    return mosaic


def write_sid(
    folder: Path, *, scenes: int = 2, shorts: int = 2, size: tuple[int, int] = (24, 32),
    split: str = "train", first: int = 1, **header: Any,
) -> list[tuple[str, str]]:  # fmt: skip
    """See-in-the-Dark's layout with ratios 250 and 100 by turns; returns its lines' pairs."""
    pairs = []
    for scene in range(first, first + scenes):
        picture = scene_picture(*size, seed=scene)
        long = f"Sony/long/{scene:05d}_00_10s.ARW"
        write_exposure(folder / long, picture, **header)
        for shot in range(shorts):
            seconds, ratio = (("0.04", 250.0), ("0.1", 100.0))[shot % 2]
            short = f"Sony/short/{scene:05d}_{shot:02d}_{seconds}s.ARW"
            write_exposure(folder / short, picture, ratio=ratio, seed=shot, **header)
            pairs.append((short, long))
    lines = [f"./{short} ./{long} ISO400 F8\n" for short, long in pairs]
    (folder / f"Sony_{split}_list.txt").write_text("".join(lines))
    return pairs


def write_pictures(folder: Path, *, count: int = 5, size: tuple[int, int] = (40, 48)) -> list[Path]:
    """Photographs as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"photo{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(scene_picture(*size, seed=number)).save(path)
    return paths


def truncate(path: Path, share: float = 0.5) -> None:
    """Cut a file off, as an interrupted copy does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
