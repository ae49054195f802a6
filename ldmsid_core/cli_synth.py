"""`ldmsid synth`: a dark RAW from a photograph, with the truth beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .errors import ConfigError
from .output.atomic import refuse_existing, written_atomically
from .raw.dng import DngHeader, write_dng
from .raw.noise import SensorLevels, SensorNoise, a7s2_noise
from .raw.noise_cameras import find_camera
from .raw.packing import check_exposure_ratio
from .raw.simulate import CameraColour, expose_dark, scene_mosaic
from .training.photographs import EVALUATION_PHOTOGRAPHS, load_photograph

_REFERENCE_SHUTTER_S = 10.0
_USUAL_ISO = 1600.0
_USUAL_CAMERA = "a7s2"


def dark_counts(
    truth: NDArray[np.uint8],
    *,
    ratio: float,
    iso: float,
    seed: int,
    sensor: tuple[SensorNoise, SensorLevels] | None = None,
) -> NDArray[np.uint16]:
    """The mosaic that a simulated camera delivers of a photograph.

    Args:
        truth: `(h, w, 3)` sRGB, 8 bit.
        ratio: Exposure ratio.
        iso: Of the A7S II, 100 to 25600; another sensor has its own.
        seed: Of the noise.
        sensor: Noise and levels; None is the A7S II at `iso`.

    Returns:
        `(2h, 2w)` counts, RGGB, black level included (512 of the A7S II).
    """
    image = torch.from_numpy(truth.copy()).permute(2, 0, 1)[None].float() / 255.0
    noise, levels = (a7s2_noise(iso), SensorLevels()) if sensor is None else sensor
    counts = expose_dark(
        scene_mosaic(image, CameraColour.a7s2()),
        exposure_ratios=[check_exposure_ratio(ratio)],
        noises=[noise],
        generator=torch.Generator().manual_seed(seed),
        levels=[levels],
    )
    return np.asarray(counts[0].numpy(), dtype=np.uint16)


def _sensor_of(
    camera: str, iso: float | None, seed: int
) -> tuple[SensorNoise, SensorLevels, float | None]:
    """Noise and levels of a camera, and the ISO of the file; None where none is known."""
    found = find_camera(camera)
    rng = np.random.default_rng(seed)
    if found.iso_range is not None:
        known = _USUAL_ISO if iso is None else iso
        return found.draw(known, rng), found.levels, known
    if iso is not None:
        raise ConfigError(
            f"Expected no --iso with {found.name}, found {iso:g}: which gain an ISO has is not "
            "known of this camera; leave --iso out, and --seed draws a sensor."
        )
    return found.draw(_USUAL_ISO, rng), found.levels, None


def _read_photograph(name: str, size: int | None) -> NDArray[np.uint8]:
    path = Path(name)
    if name in EVALUATION_PHOTOGRAPHS and not path.exists():
        picture = Image.fromarray(load_photograph(name))
    else:
        try:
            with Image.open(path) as stored:
                picture = stored.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise ConfigError(
                f"Expected a picture file or one of {', '.join(sorted(EVALUATION_PHOTOGRAPHS))}, "
                f"found {name} ({error})."
            ) from error
    if size is not None:
        scale = size / max(picture.size)
        wanted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(wanted, Image.Resampling.LANCZOS)
    return np.asarray(picture)


def synthesise(
    photograph: str,
    *,
    output: Path,
    ratio: float = 250.0,
    iso: float | None = None,
    noise: str = _USUAL_CAMERA,
    size: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Write the DNG and the truth beside it.

    Args:
        photograph: Picture file, or name of a bundled one.
        output: The DNG.
        ratio: Exposure ratio.
        iso: Of the camera's calibration; None is 1600, or a draw where no ISO is known.
        noise: Bundled camera, or path of a noise profile; its levels are the file's.
        size: Longer side in pixels; None keeps it.
        seed: Of the noise, and of the sensor where it is drawn.
        overwrite: Replace existing files.

    Returns:
        Both paths.

    Raises:
        ConfigError: If the photograph, ratio, ISO or camera is none.
        OutputError: If a file exists or cannot be written.
    """
    if output.suffix.lower() != ".dng":
        raise ConfigError(f"Expected an output name that ends in .dng, found {output}.")
    truth_path = output.with_name(f"{output.stem}_truth.png")
    for path in (output, truth_path):
        refuse_existing(path, overwrite=overwrite)
    sensor, levels, known = _sensor_of(noise, iso, seed)
    truth = _read_photograph(photograph, size)
    mosaic = dark_counts(
        truth, ratio=ratio, iso=known or _USUAL_ISO, seed=seed, sensor=(sensor, levels)
    )
    source = {"photograph": Path(photograph).name, "ratio": ratio, "iso": known, "seed": seed}
    if noise != _USUAL_CAMERA:
        source |= {"noise": Path(noise).name, "shot_gain": sensor.shot_gain}
    red, green1, blue, green2 = levels.black
    header = DngHeader(
        iso=known, shutter_s=_REFERENCE_SHUTTER_S / ratio, aperture=5.6,
        black_level=(red, green1, green2, blue), white_level=levels.white,
        description=json.dumps(source),
    )  # fmt: skip
    write_dng(output, mosaic, header, overwrite=overwrite)
    with written_atomically(truth_path, overwrite=overwrite) as partial:
        Image.fromarray(truth).save(partial)
    return output, truth_path
