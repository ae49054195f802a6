"""The whole way from a camera file's planes to a finished image, in one place.

RAW planes -> network planes -> Haar bands -> tamed sampling -> tamed decode -> crop -> upright.
The pipeline is handed its host as two callables and knows neither diffusers nor ComfyUI.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import NonFiniteError
from .raw.packed_raw import PackedRaw, apply_orientation
from .raw.packing import check_exposure_ratio, network_planes
from .taming.checkpoint import InputRecipe
from .wavelet import SubBands, split_bands

SampleLatent = Callable[[SubBands, int], Tensor]
DecodeLatent = Callable[[Tensor, SubBands], Tensor]


@dataclass(frozen=True)
class Enhanced:
    """A finished image and what it was made with.

    Attributes:
        image: `(1, 3, H, W)` sRGB, unit range, upright, half the sensor's size.
        exposure_ratio: The ratio used.
        white_balance: The multipliers that the planes got.
    """

    image: Tensor
    exposure_ratio: float
    white_balance: tuple[float, float, float]


def to_unit_range(image: Tensor) -> Tensor:
    """Model range to unit range, clipped."""
    return (image.float() * 0.5 + 0.5).clamp(0.0, 1.0)


def recipe_white_balance(raw: PackedRaw, recipe: InputRecipe) -> tuple[float, float, float]:
    """The multipliers a model's input recipe asks for."""
    return raw.white_balance if recipe.white_balance == "as shot" else (1.0, 1.0, 1.0)


def prepare_bands(raw: PackedRaw, recipe: InputRecipe, *, exposure_ratio: float) -> SubBands:
    """The bands that steer a host.

    Args:
        raw: One file.
        recipe: Of the taming checkpoint.
        exposure_ratio: >= 1.

    Raises:
        ConfigError: If the ratio is out of range.
    """
    check_exposure_ratio(exposure_ratio)
    planes = network_planes(
        raw.planes,
        exposure_ratio=exposure_ratio,
        white_balance=recipe_white_balance(raw, recipe),
    )
    return split_bands(planes)


def enhance(
    raw: PackedRaw,
    recipe: InputRecipe,
    *,
    exposure_ratio: float,
    seed: int,
    sample: SampleLatent,
    decode: DecodeLatent,
) -> Enhanced:
    """Turn a dark RAW into a photograph.

    Args:
        raw: One file.
        recipe: Of the taming checkpoint.
        exposure_ratio: >= 1.
        seed: Of the initial noise.
        sample: `(bands, seed)` -> latent `(1, 4, h, w)` as `decode` takes it, UNet tamed.
        decode: `(latent, bands)` -> `(1, 3, 8h, 8w)` model range, decoder tamed.

    Returns:
        Image of the packed planes' size, turned upright.

    Raises:
        ConfigError: If the ratio is out of range.
        NonFiniteError: If the result holds NaN or infinity.
    """
    bands = prepare_bands(raw, recipe, exposure_ratio=exposure_ratio)
    with torch.inference_mode():
        decoded = decode(sample(bands, seed), bands)
    if not torch.isfinite(decoded).all():
        raise NonFiniteError(
            f"The tamed decoder returned NaN or infinity for {raw.file_name}; try --dtype bf16 or "
            "fp32, and check that the weights are not damaged."
        )
    height, width = bands.content_size
    image = to_unit_range(decoded[:, :, :height, :width])
    return Enhanced(
        apply_orientation(image, raw.orientation).contiguous(),
        exposure_ratio,
        recipe_white_balance(raw, recipe),
    )
