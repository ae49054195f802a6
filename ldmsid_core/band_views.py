"""Pictures of the bands, for people who want to see what steers the host."""

from __future__ import annotations

from torch import Tensor

from .pipeline import recipe_white_balance
from .raw.develop import develop_planes
from .raw.packed_raw import PackedRaw, apply_orientation
from .taming.header import InputRecipe
from .wavelet import LEVELS, SubBands

# A coefficient of half the range of one plane is shown as black or white.
_DETAIL_GAIN = 2.0
_SWAPPED_AXES = 4


def amplified_low_band(bands: SubBands, raw: PackedRaw, recipe: InputRecipe) -> Tensor:
    """The level-3 `ll` developed like a photograph, with its padding and not turned.

    Args:
        bands: Split with `recipe`.
        raw: The file they came from.
        recipe: Tells which white balance the planes already had, and what they were split into.

    Returns:
        `(B, 3, h, w)` unit range, one pixel a latent.
    """
    # A flat picture's ll doubles at each level of the wavelet.
    gain = 2.0**LEVELS if recipe.bands == "dwt" else 1.0
    light = (bands.ll[LEVELS - 1].float() / gain + 1.0) / 2.0
    had = recipe_white_balance(raw, recipe)
    left = [wanted / given for wanted, given in zip(raw.white_balance, had, strict=True)]
    return develop_planes(light, white_balance=left, xyz_to_camera=raw.xyz_to_camera)


def low_band_picture(bands: SubBands, raw: PackedRaw, recipe: InputRecipe) -> Tensor:
    """The level-3 `ll` developed like a photograph: what generates the content.

    Args:
        bands: Split with `recipe`.
        raw: The file they came from.
        recipe: Tells which white balance the planes already had.

    Returns:
        `(B, 3, H/16, W/16)` of the sensor's H and W, unit range, upright.
    """
    height, width = (-(-side // 2**LEVELS) for side in bands.content_size)
    picture = amplified_low_band(bands, raw, recipe)[:, :, :height, :width]
    return apply_orientation(picture, raw.orientation).contiguous()


def detail_picture(bands: SubBands, raw: PackedRaw) -> Tensor:
    """The level-1 detail around grey: vertical edges red, horizontal green, diagonal blue.

    Returns:
        `(B, 3, H/4, W/4)` of the sensor's H and W, unit range, upright.
    """
    detail = bands.detail[0].float()
    height, width = (-(-side // 2) for side in bands.content_size)
    by_direction = detail.reshape(detail.shape[0], 3, 4, *detail.shape[-2:])
    per_direction = by_direction.mean(dim=2)[:, :, :height, :width]
    if raw.orientation & _SWAPPED_AXES:  # what is vertical upright was horizontal on the sensor
        per_direction = per_direction[:, [1, 0, 2]]
    picture = (0.5 + _DETAIL_GAIN * per_direction / 2.0).clamp(0.0, 1.0)
    return apply_orientation(picture, raw.orientation).contiguous()
