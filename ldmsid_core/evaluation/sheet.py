"""Pictures side by side, for looking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..output.atomic import written_atomically
from .metrics import FloatImage


def to_float_image(image: Tensor) -> FloatImage:
    """`(1, 3, H, W)` unit range -> `(H, W, 3)` float32."""
    return np.asarray(image[0].permute(1, 2, 0).numpy(), dtype=np.float32)


def save_sheet(path: Path, pictures: list[FloatImage]) -> None:
    """Write pictures of one size side by side as PNG, replacing an older sheet.

    Raises:
        OutputError: If it cannot be written.
    """
    sheet = np.concatenate(pictures, axis=1)
    with written_atomically(path, overwrite=True) as partial:
        Image.fromarray((sheet.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)).save(partial)
