"""Mosaic <-> packed planes, levels, and the planes a network sees (`facts`: method, input)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from .cfa import CfaPattern, packed_places

MAX_EXPOSURE_RATIO = 10000.0


def pack_bayer(mosaic: Tensor, *, cfa: CfaPattern) -> Tensor:
    """Split a Bayer mosaic into its four colour planes.

    Args:
        mosaic: `(B, H, W)`, sensor counts or unit range; H and W even.
        cfa: Layout of the top-left 2x2 tile.

    Returns:
        `(B, 4, H/2, W/2)`, planes R, G1, B, G2, dtype and range of `mosaic`.

    Raises:
        ShapeError: If H or W is odd.
    """
    if mosaic.ndim != 3 or mosaic.shape[1] % 2 or mosaic.shape[2] % 2:
        raise ShapeError(f"Expected a mosaic (B, even, even), found {tuple(mosaic.shape)}.")
    planes = [mosaic[:, row::2, column::2] for row, column in packed_places(cfa)]
    return torch.stack(planes, dim=1)


def unpack_bayer(packed: Tensor, *, cfa: CfaPattern) -> Tensor:
    """The mosaic of packed planes: the inverse of `pack_bayer`.

    Args:
        packed: `(B, 4, h, w)`, planes R, G1, B, G2.
        cfa: Layout of the top-left 2x2 tile.

    Returns:
        `(B, 2h, 2w)`.

    Raises:
        ShapeError: If there are not four planes.
    """
    if packed.ndim != 4 or packed.shape[1] != 4:
        raise ShapeError(f"Expected packed planes (B, 4, h, w), found {tuple(packed.shape)}.")
    batch, _, height, width = packed.shape
    mosaic = packed.new_empty(batch, 2 * height, 2 * width)
    for plane, (row, column) in enumerate(packed_places(cfa)):
        mosaic[:, row::2, column::2] = packed[:, plane]
    return mosaic


def normalise(planes: Tensor, *, black_level: Sequence[float], white_level: float) -> Tensor:
    """`(counts - black) / (white - black)` per plane, not clipped.

    Args:
        planes: `(B, 4, h, w)` counts.
        black_level: Counts, one per plane in packed order.
        white_level: Saturation count.

    Returns:
        float32; 0 is black, 1 is saturation.

    Raises:
        ConfigError: If a black level is not below the white level.
    """
    if not all(level < white_level for level in black_level):
        raise ConfigError(
            f"Expected every black level below the white level {white_level}, "
            f"found {tuple(black_level)}."
        )
    black = torch.tensor(list(black_level), dtype=torch.float32)[None, :, None, None]
    result = planes.to(torch.float32, copy=True)
    return result.sub_(black).div_(white_level - black)


def check_exposure_ratio(ratio: float) -> float:
    """The ratio itself, if it is one.

    Raises:
        ConfigError: If it is below 1, above 10000, or not a number.
    """
    if not 1.0 <= ratio <= MAX_EXPOSURE_RATIO:
        raise ConfigError(
            f"Expected an exposure ratio from 1 to {MAX_EXPOSURE_RATIO:g}, found {ratio}; "
            "250 means that the file got 1/250 of the light it needed."
        )
    return ratio


def network_planes(
    planes: Tensor,
    *,
    exposure_ratio: float,
    white_balance: Sequence[float] = (1.0, 1.0, 1.0),
    clip: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """What the taming modules see: white balance, ratio, clip, model range.

    Args:
        planes: `(B, 4, h, w)`, 0 black and 1 saturation, not clipped.
        exposure_ratio: >= 1.
        white_balance: Multipliers R, G, B; (1, 1, 1) is what the released weights expect.
        clip: Range kept after that; 0 and 1 are what the released weights expect. Noise is lost
            unevenly there: what is nearly black comes out too bright on average.

    Returns:
        `(B, 4, h, w)` in model range.
    """
    red, green, blue = white_balance
    gains = torch.tensor([red, green, blue, green], dtype=planes.dtype, device=planes.device)
    amplified = planes * (gains * exposure_ratio)[None, :, None, None]
    return amplified.clamp(*clip) * 2.0 - 1.0
