"""Pictures side by side, for looking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import ConfigError
from ..output.atomic import refuse_existing, written_atomically
from .metrics import FloatImage


def to_float_image(image: Tensor) -> FloatImage:
    """`(1, 3, H, W)` unit range -> `(H, W, 3)` float32."""
    return np.asarray(image[0].permute(1, 2, 0).numpy(), dtype=np.float32)


def check_sheet(path: Path, *, overwrite: bool) -> None:
    """Refuse a sheet's name before work starts.

    Raises:
        ConfigError: If it does not end in `.png`.
        OutputError: If it exists and may not be replaced.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"Expected a sheet name that ends in .png, found {path}.")
    refuse_existing(path, overwrite=overwrite)


def save_sheet(path: Path, pictures: list[FloatImage], *, overwrite: bool = False) -> None:
    """Write pictures of one size side by side as PNG.

    Raises:
        OutputError: If it exists and may not be replaced, or cannot be written.
    """
    sheet = np.concatenate(pictures, axis=1)
    with written_atomically(path, overwrite=overwrite) as partial:
        Image.fromarray((sheet.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)).save(partial)
