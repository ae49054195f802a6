"""A dark RAW from a photograph: the photograph stays the truth, the sensor's view is simulated.

Each pixel of the photograph becomes one Bayer cell, sampled from a twofold enlargement, so the
truth has exactly the size of the packed planes. The light is divided by the exposure ratio and
the noise of a calibrated sensor is added (`noise.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .cfa import packed_places
from .noise import SensorLevels, SensorNoise, add_sensor_noise

# XYZ (D65) -> camera, Sony ILCE-7S family, as Adobe publishes it in its DNG files.
A7S2_XYZ_TO_CAMERA = (
    (0.5838, -0.1430, -0.0246),
    (-0.3497, 1.1477, 0.2297),
    (-0.0748, 0.1885, 0.5778),
)
A7S2_WHITE_BALANCE = (2.05, 1.0, 1.65)
# Linear sRGB -> XYZ (D65), IEC 61966-2-1.
SRGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)


def srgb_to_linear(image: Tensor) -> Tensor:
    """Linear light of sRGB values, unit range (IEC 61966-2-1)."""
    return torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(image: Tensor) -> Tensor:
    """Values in sRGB of linear light, unit range (IEC 61966-2-1); clips below 0 and above 1."""
    image = image.clamp(0.0, 1.0)
    return torch.where(
        image <= 0.0031308, image * 12.92, 1.055 * image.clamp(min=1e-8) ** (1.0 / 2.4) - 0.055
    )


def srgb_to_camera_matrix(xyz_to_camera: Tensor) -> Tensor:
    """Linear sRGB -> white-balanced camera colour; each row sums to 1, so grey stays grey.

    Args:
        xyz_to_camera: `(..., 3, 3)`.

    Returns:
        `(..., 3, 3)`.
    """
    matrix = xyz_to_camera @ torch.tensor(SRGB_TO_XYZ, dtype=xyz_to_camera.dtype)
    return matrix / matrix.sum(dim=-1, keepdim=True)


@dataclass(frozen=True)
class CameraColour:
    """What stands between a scene's sRGB colour and the sensor's counts, for a batch.

    Attributes:
        xyz_to_camera: `(B, 3, 3)`.
        white_balance: `(B, 3)` as-shot multipliers R, G, B with green 1.
    """

    xyz_to_camera: Tensor
    white_balance: Tensor

    @classmethod
    def a7s2(cls, batch: int = 1) -> CameraColour:
        """The Sony A7S II in daylight."""
        return cls(
            torch.tensor(A7S2_XYZ_TO_CAMERA).expand(batch, 3, 3),
            torch.tensor(A7S2_WHITE_BALANCE).expand(batch, 3),
        )


def scene_mosaic(image: Tensor, colour: CameraColour) -> Tensor:
    """The noise-free RGGB mosaic of a photograph at full exposure.

    Args:
        image: `(B, 3, h, w)` sRGB, unit range.
        colour: The camera.

    Returns:
        `(B, 2h, 2w)` unit range of the sensor, R at the top left.
    """
    linear = srgb_to_linear(image.clamp(0.0, 1.0))
    matrix = srgb_to_camera_matrix(colour.xyz_to_camera) / colour.white_balance[:, :, None]
    camera = torch.einsum("bij,bjhw->bihw", matrix, linear)
    large = functional.interpolate(camera, scale_factor=2, mode="bicubic", align_corners=False)
    large = large.clamp(0.0, 1.0)
    mosaic = large[:, 1].clone()
    mosaic[:, 0::2, 0::2] = large[:, 0, 0::2, 0::2]
    mosaic[:, 1::2, 1::2] = large[:, 2, 1::2, 1::2]
    return mosaic


def expose_dark(
    mosaic: Tensor,
    *,
    exposure_ratios: list[float],
    noises: list[SensorNoise],
    generator: torch.Generator,
    levels: list[SensorLevels] | None = None,
) -> Tensor:
    """Counts that the sensor delivers when it gets `1 / exposure_ratio` of the light.

    Args:
        mosaic: `(B, H, W)` noise-free, RGGB, unit range of the sensor at full exposure.
        exposure_ratios: One per image, >= 1.
        noises: One per image.
        generator: CPU generator.
        levels: Black and white, one per image; None is the A7S II for all.

    Returns:
        `(B, H, W)` counts, whole numbers from 0 to the white level, black level included.
    """
    ranges = [SensorLevels()] * len(noises) if levels is None else levels
    black = torch.empty_like(mosaic)
    for plane, (row, column) in enumerate(packed_places("RGGB")):
        of_plane = torch.tensor([float(r.black[plane]) for r in ranges], dtype=mosaic.dtype)
        black[:, row::2, column::2] = of_plane[:, None, None]
    white = torch.tensor([float(r.white) for r in ranges], dtype=mosaic.dtype)[:, None, None]
    ratio = torch.tensor(exposure_ratios, dtype=mosaic.dtype)[:, None, None]
    signal = mosaic * ((white - black) / ratio)
    noisy = add_sensor_noise(signal, noises, generator=generator)
    return torch.minimum((noisy + black).round().clamp(min=0), white)
