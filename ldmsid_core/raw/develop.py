"""A neutral picture of packed planes: white balance, colour matrix, sRGB curve, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .packed_raw import PackedRaw, apply_orientation
from .simulate import linear_to_srgb, srgb_to_camera_matrix


def develop_planes(
    light: Tensor,
    *,
    white_balance: Sequence[float],
    xyz_to_camera: Sequence[Sequence[float]] | None,
) -> Tensor:
    """Packed planes of linear light -> sRGB at packed size.

    Args:
        light: `(B, 4, h, w)`, R, G1, B, G2; 1 is the sensor's saturation.
        white_balance: Multipliers R, G, B.
        xyz_to_camera: Rows of the matrix; None leaves the camera's colours as they are.

    Returns:
        `(B, 3, h, w)` unit range.
    """
    rgb = torch.stack([light[:, 0], 0.5 * (light[:, 1] + light[:, 3]), light[:, 2]], dim=1)
    gains = torch.tensor(list(white_balance), dtype=light.dtype)
    balanced = rgb * gains[None, :, None, None]
    if xyz_to_camera is not None:
        matrix = torch.tensor([list(row) for row in xyz_to_camera], dtype=light.dtype)
        inverse = torch.linalg.inv(srgb_to_camera_matrix(matrix))
        balanced = torch.einsum("ij,bjhw->bihw", inverse, balanced)
    return linear_to_srgb(balanced)


def develop_amplified(raw: PackedRaw, *, exposure_ratio: float) -> Tensor:
    """The naively amplified picture of a RAW: what a camera's own push would show.

    Returns:
        `(1, 3, h, w)` unit range, not turned.
    """
    return develop_planes(
        raw.planes * exposure_ratio,
        white_balance=raw.white_balance,
        xyz_to_camera=raw.xyz_to_camera,
    )


def naive_picture(raw: PackedRaw) -> Tensor:
    """The file amplified by the exposure ratio chosen for it, upright.

    Returns:
        `(1, 3, h, w)` or turned, unit range.
    """
    picture = develop_amplified(raw, exposure_ratio=raw.exposure_ratio)
    return apply_orientation(picture, raw.orientation).contiguous()
