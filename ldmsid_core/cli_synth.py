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
from .raw.noise import a7s2_noise
from .raw.packing import check_exposure_ratio
from .raw.simulate import CameraColour, expose_dark, scene_mosaic
from .training.photographs import EVALUATION_PHOTOGRAPHS, load_photograph

_REFERENCE_SHUTTER_S = 10.0


def dark_counts(
    truth: NDArray[np.uint8], *, ratio: float, iso: float, seed: int
) -> NDArray[np.uint16]:
    """The mosaic that a simulated A7S II delivers of a photograph.

    Args:
        truth: `(h, w, 3)` sRGB, 8 bit.
        ratio: Exposure ratio.
        iso: 100 to 25600.
        seed: Of the noise.

    Returns:
        `(2h, 2w)` counts, RGGB, black level 512 included.
    """
    image = torch.from_numpy(truth.copy()).permute(2, 0, 1)[None].float() / 255.0
    counts = expose_dark(
        scene_mosaic(image, CameraColour.a7s2()),
        exposure_ratios=[check_exposure_ratio(ratio)],
        noises=[a7s2_noise(iso)],
        generator=torch.Generator().manual_seed(seed),
    )
    return np.asarray(counts[0].numpy(), dtype=np.uint16)


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
    iso: float = 1600.0,
    size: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Write the DNG and the truth beside it.

    Returns:
        Both paths.

    Raises:
        ConfigError: If the photograph, ratio or ISO is none.
        OutputError: If a file exists or cannot be written.
    """
    if output.suffix.lower() != ".dng":
        raise ConfigError(f"Expected an output name that ends in .dng, found {output}.")
    truth_path = output.with_name(f"{output.stem}_truth.png")
    for path in (output, truth_path):
        refuse_existing(path, overwrite=overwrite)
    truth = _read_photograph(photograph, size)
    mosaic = dark_counts(truth, ratio=ratio, iso=iso, seed=seed)
    source = {"photograph": Path(photograph).name, "ratio": ratio, "iso": iso, "seed": seed}
    header = DngHeader(
        iso=iso, shutter_s=_REFERENCE_SHUTTER_S / ratio, aperture=5.6,
        description=json.dumps(source),
    )  # fmt: skip
    write_dng(output, mosaic, header, overwrite=overwrite)
    with written_atomically(truth_path, overwrite=overwrite) as partial:
        Image.fromarray(truth).save(partial)
    return output, truth_path
