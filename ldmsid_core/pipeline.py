"""The whole way from a camera file's planes to a finished image, in one place.

RAW planes -> network planes -> Haar bands -> tamed sampling -> tamed decode -> crop -> upright.
The pipeline is handed its host as two callables and knows neither diffusers nor ComfyUI.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .crop import Crop
from .errors import NonFiniteError
from .finite import is_finite
from .raw.packed_raw import PackedRaw, apply_orientation
from .raw.packing import check_exposure_ratio, network_planes
from .taming.header import InputRecipe
from .wavelet import SubBands, make_bands

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


def finish_image(decoded: Tensor, raw: PackedRaw, bands: SubBands) -> Tensor:
    """Crop a decoded picture to its content, bring it to unit range and turn it upright.

    Args:
        decoded: `(B, 3, 8h, 8w)` model range.
        raw: The file.
        bands: That steered the decoder.

    Raises:
        NonFiniteError: If the picture holds NaN or infinity.
    """
    if not is_finite(decoded):
        raise NonFiniteError(
            f"The tamed decoder returned NaN or infinity for {raw.file_name}; compute in bf16 or "
            "fp32 (--dtype; in ComfyUI --fp32-vae), and check that the weights are not damaged."
        )
    height, width = bands.content_size
    image = to_unit_range(decoded[:, :, :height, :width])
    return apply_orientation(image, raw.orientation).contiguous()


@dataclass(frozen=True)
class RawBands:
    """The bands of one file, split when a model's recipe is known and kept.

    Attributes:
        raw: The file, with the exposure ratio chosen for it.
        region: The part of the picture that is asked for, on the sensor; None is all of it. The
            bands themselves are always of the whole frame.
    """

    raw: PackedRaw
    _split: dict[object, SubBands] = field(default_factory=dict, repr=False, compare=False)
    region: Crop | None = None

    @cached_property
    def identity(self) -> str:
        """File name, size, checksum and ratio: equal for the same exposure of one file.

        A region does not change it: a latent of the whole frame serves any part.
        """
        checksum = zlib.crc32(self.raw.planes.contiguous().numpy().data)
        height, width = self.raw.planes.shape[-2:]
        ratio = self.raw.exposure_ratio
        return f"{self.raw.file_name} {width}x{height} {checksum:08x} x{ratio!r}"

    def for_recipe(self, recipe: InputRecipe) -> SubBands:
        """The bands as a model with this recipe sees them.

        Raises:
            ConfigError: If the file's ratio is out of range.
        """
        kind = (recipe.white_balance, recipe.clip, recipe.bands)
        if kind not in self._split:
            self._split[kind] = prepare_bands(
                self.raw, recipe, exposure_ratio=self.raw.exposure_ratio
            )
        return self._split[kind]


def recipe_planes(raw: PackedRaw, recipe: InputRecipe, *, exposure_ratio: float) -> Tensor:
    """A file's planes as a model's networks want them, `(1, 4, h, w)` model range.

    Args:
        raw: One file.
        recipe: Of the taming checkpoint.
        exposure_ratio: >= 1.

    Raises:
        ConfigError: If the ratio is out of range.
    """
    check_exposure_ratio(exposure_ratio)
    return network_planes(
        raw.planes,
        exposure_ratio=exposure_ratio,
        white_balance=recipe_white_balance(raw, recipe),
        clip=recipe.clip,
    )


def prepare_bands(raw: PackedRaw, recipe: InputRecipe, *, exposure_ratio: float) -> SubBands:
    """The bands that steer a host.

    Args:
        raw: One file.
        recipe: Of the taming checkpoint.
        exposure_ratio: >= 1.

    Raises:
        ConfigError: If the ratio is out of range.
    """
    return make_bands(recipe_planes(raw, recipe, exposure_ratio=exposure_ratio), recipe.bands)


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
    return Enhanced(
        finish_image(decoded, raw, bands),
        exposure_ratio,
        recipe_white_balance(raw, recipe),
    )
