"""The sRGB picture that LibRaw makes of a RAW: the truth that the paper trains against."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ..errors import UnsupportedRawError
from .loader import opened_raw


def develop_truth(path: str | Path, *, height: int, width: int) -> NDArray[np.uint8]:
    """Develop a well-exposed Bayer RAW at the size of its packed planes (method, input).

    LibRaw's half-size development makes one pixel of each 2x2 cell of the visible area, the cells
    that `load_raw` packs, so pixel (y, x) shows what the planes hold at (y, x). The white balance
    is the camera's; nothing is brightened or turned. Everything else is LibRaw's default: sRGB
    primaries, the BT.709 tone curve, clipped highlights, and its white level lowered to the
    brightest pixel where that lies between 75 and 100 % of it.

    Args:
        path: The file.
        height: Of the packed planes; an odd last row of the mosaic is left out, as there.
        width: Of the packed planes.

    Returns:
        `(height, width, 3)` sRGB, 8 bit.

    Raises:
        UnsupportedRawError: If the file cannot be read, or LibRaw's picture has another size.
    """
    path = Path(path)
    with opened_raw(path) as raw:
        picture = raw.postprocess(
            use_camera_wb=True, half_size=True, no_auto_bright=True, output_bps=8, user_flip=0
        )
    spare = (picture.shape[0] - height, picture.shape[1] - width)
    if not all(0 <= rest <= 1 for rest in spare):
        raise UnsupportedRawError(
            f"Expected a half-size picture of {width}x{height} from {path}, but LibRaw made "
            f"{picture.shape[1]}x{picture.shape[0]}: its pixels are not square or it is no Bayer "
            "RAW. Leave the file out."
        )
    return cast("NDArray[np.uint8]", np.ascontiguousarray(picture[:height, :width]))
