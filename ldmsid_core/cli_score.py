"""`ldmsid score`: a result against its truth, beside the naively amplified RAW."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import ConfigError, ShapeError
from .evaluation.metrics import FloatImage, psnr_rgb, ssim_rgb
from .evaluation.sheet import check_sheet, save_sheet, to_float_image
from .output.writers import read_settings
from .raw.develop import develop_amplified
from .raw.loader import load_raw
from .raw.packed_raw import apply_orientation


def _read_picture(path: Path) -> FloatImage:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.float32) / np.float32(255.0)
    except (OSError, UnidentifiedImageError) as error:
        raise ConfigError(f"Expected a picture, but {path} cannot be read ({error}).") from error


def _used_ratio(result: Path) -> float:
    settings = read_settings(result)
    try:
        return float(json.loads(settings or "")["exposure_ratio"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"Expected a result of `ldmsid enhance` with its settings inside, but {result} has "
            "none."
        ) from error


def score_result(
    raw: Path, result: Path, truth: Path, *, sheet: Path | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """PSNR and SSIM of the amplified RAW and of the result.

    Args:
        raw: The dark file.
        result: Of `ldmsid enhance`, PNG.
        truth: Picture of the same size.
        sheet: PNG to write *amplified | enhanced | truth* to; None writes none.
        overwrite: Replace an existing sheet.

    Returns:
        `amplified` and `enhanced`, each with `psnr` and `ssim`.

    Raises:
        ConfigError: If a picture cannot be read, or the sheet is no PNG.
        OutputError: If the sheet exists or cannot be written.
        ShapeError: If the sizes differ.
    """
    if sheet is not None:
        check_sheet(sheet, overwrite=overwrite)
    wanted, found = _read_picture(truth), _read_picture(result)
    loaded = load_raw(raw)
    developed = develop_amplified(loaded, exposure_ratio=_used_ratio(result))
    naive = to_float_image(apply_orientation(developed, loaded.orientation))
    if not wanted.shape == found.shape == naive.shape:
        raise ShapeError(
            f"Expected one size, found {naive.shape[1::-1]} in {raw}, {found.shape[1::-1]} in "
            f"{result} and {wanted.shape[1::-1]} in {truth}."
        )
    if sheet is not None:
        save_sheet(sheet, [naive, found, wanted], overwrite=overwrite)
    return {
        name: {"psnr": psnr_rgb(picture, wanted), "ssim": ssim_rgb(picture, wanted)}
        for name, picture in (("amplified", naive), ("enhanced", found))
    }
