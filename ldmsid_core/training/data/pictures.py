"""A folder of well-exposed photographs or RAWs, and one picture of it as 8-bit sRGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...errors import DatasetError
from ...raw.develop_libraw import develop_truth
from ...raw.loader import RAW_EXTENSIONS, load_raw
from .pairs import SourcePair, check_dataset_folder, select_split

PICTURE_ENDINGS = (".jpeg", ".jpg", ".png", ".tif", ".tiff")
# Pillow's modes with at most 8 bits a channel.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})


def list_pictures(folder: Path, *, split: str) -> tuple[SourcePair, ...]:
    """Every photograph and RAW in a folder and the folders inside it; hidden ones are left out.

    Args:
        folder: Any.
        split: `train` or `all`.

    Raises:
        DatasetError: If there are none.
    """
    check_dataset_folder(folder)
    endings = (*PICTURE_ENDINGS, *RAW_EXTENSIONS)
    inside = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    pairs = [
        SourcePair(None, path.as_posix(), scene=path.as_posix())
        for path in inside
        if path.suffix.lower() in endings and not any(p.startswith(".") for p in path.parts)
    ]
    if not pairs:
        raise DatasetError(
            f"Expected photographs ({' '.join(PICTURE_ENDINGS)}) or RAWs in {folder}, found none."
        )
    return select_split(pairs, split, folder)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A photograph upright, or a RAW developed at half size, as the truth of a simulated pair.

    Colour profiles are not applied: values are taken as sRGB.

    Returns:
        `(h, w, 3)` sRGB, 8 bit.

    Raises:
        DatasetError: If the picture is damaged or deeper than 8 bits.
        UnsupportedRawError: If a RAW cannot be read.
    """
    if path.suffix.lower() in RAW_EXTENSIONS:
        height, width = load_raw(path).planes.shape[-2:]
        return develop_truth(path, height=height, width=width)
    try:
        with Image.open(path) as stored:
            mode = stored.mode
            picture = ImageOps.exif_transpose(stored).convert("RGB") if mode in _MODES else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"Expected a picture that Pillow can read, but {path} is not: {error}."
        ) from error
    if picture is None:
        raise DatasetError(
            f"Expected a picture with 8 bits a channel, but {path} has Pillow's mode {mode}; save "
            "it as 8-bit sRGB."
        )
    return np.asarray(picture)
