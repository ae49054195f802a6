"""Orthonormal Haar pyramid of packed RAW planes (paper: three-level 2-D DWT of the RAW).

With a, b, c, d the even/even, odd/even, even/odd and odd/odd (row/column) samples of a 2x2 block:
`ll = (a+b+c+d)/2`, `hl = (-a-b+c+d)/2`, `lh = (-a+b-c+d)/2`, `hh = (a-b-c+d)/2`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .errors import ShapeError

BandKind = Literal["dwt", "rescale"]

LEVELS = 3
PAD_MULTIPLE = 64
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class SubBands:
    """A three-level Haar pyramid; index 0 holds level 1 (half size), index 2 level 3.

    Attributes:
        ll: Three tensors `(B, 4, h, w)`; a flat image's value doubles at each level.
        detail: Three tensors `(B, 12, h, w)`: hl, lh, hh of all four planes each.
        content_size: Height and width of the packed planes before padding.
    """

    ll: tuple[Tensor, Tensor, Tensor]
    detail: tuple[Tensor, Tensor, Tensor]
    content_size: tuple[int, int]

    @property
    def structure_input(self) -> Tensor:
        """What the structure encoder sees: level-3 `ll`, `(B, 4, H/8, W/8)`."""
        return self.ll[LEVELS - 1]

    def one(self, number: int) -> SubBands:
        """The bands of one frame of a batch."""

        def pick(bands: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            first, second, third = (band[number : number + 1] for band in bands)
            return first, second, third

        return SubBands(pick(self.ll), pick(self.detail), self.content_size)

    def to(self, device: torch.device, dtype: torch.dtype) -> SubBands:
        """The same bands elsewhere or in another dtype."""

        def move(bands: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            first, second, third = (band.to(device, dtype) for band in bands)
            return first, second, third

        return SubBands(move(self.ll), move(self.detail), self.content_size)


def haar_dwt2(planes: Tensor) -> tuple[Tensor, Tensor]:
    """One level of the Haar transform over the last two dimensions.

    Args:
        planes: `(B, C, H, W)`, H and W even.

    Returns:
        `ll` `(B, C, H/2, W/2)` and `detail` `(B, 3C, H/2, W/2)`: hl, lh, hh band-major.

    Raises:
        ShapeError: If H or W is odd.
    """
    batch, channels, height, width = planes.shape
    if height % 2 or width % 2:
        raise ShapeError(f"Expected even height and width, found {height}x{width}; pad first.")
    ll = planes.new_empty(batch, channels, height // 2, width // 2)
    detail = planes.new_empty(batch, 3 * channels, height // 2, width // 2)
    bands = detail.view(batch, 3, channels, height // 2, width // 2)
    # In blocks of rows that stay in the cache: the transform is bound by memory, not arithmetic.
    rows = max(1, _BLOCK_BYTES // (2 * width * planes.element_size()))
    for image, plane in itertools.product(range(batch), range(channels)):
        for start in range(0, height // 2, rows):
            part = slice(start, min(start + rows, height // 2))
            block = planes[image, plane, 2 * part.start : 2 * part.stop]
            upper, lower = block[0::2], block[1::2]
            along = torch.lerp(upper, lower, 0.5)  # (upper + lower) / 2
            across = lower - along  # (lower - upper) / 2
            even, odd = along[:, 0::2], along[:, 1::2]
            torch.add(even, odd, out=ll[image, plane, part])
            torch.sub(odd, even, out=bands[image, 0, plane, part])
            even, odd = across[:, 0::2], across[:, 1::2]
            torch.add(even, odd, out=bands[image, 1, plane, part])
            torch.sub(odd, even, out=bands[image, 2, plane, part])
    return ll, detail


def haar_idwt2(ll: Tensor, detail: Tensor) -> Tensor:
    """The exact inverse of `haar_dwt2`.

    Args:
        ll: `(B, C, h, w)`.
        detail: `(B, 3C, h, w)`, hl, lh, hh band-major.

    Returns:
        `(B, C, 2h, 2w)`.

    Raises:
        ShapeError: If the two do not belong together.
    """
    batch, channels, height, width = ll.shape
    if detail.shape != (batch, 3 * channels, height, width):
        raise ShapeError(
            f"Expected detail of shape {(batch, 3 * channels, height, width)} beside ll of shape "
            f"{tuple(ll.shape)}, found {tuple(detail.shape)}."
        )
    hl, lh, hh = detail.chunk(3, dim=1)
    planes = ll.new_empty(batch, channels, 2 * height, 2 * width)
    planes[:, :, 0::2, 0::2] = (ll - hl - lh + hh) * 0.5
    planes[:, :, 1::2, 0::2] = (ll - hl + lh - hh) * 0.5
    planes[:, :, 0::2, 1::2] = (ll + hl - lh - hh) * 0.5
    planes[:, :, 1::2, 1::2] = (ll + hl + lh + hh) * 0.5
    return planes


def _mirrored_index(length: int, padded: int, device: torch.device) -> Tensor:
    """Indices that continue an axis by mirroring without repeating the edge, however far."""
    if length == 1:
        return torch.zeros(padded, dtype=torch.long, device=device)
    period = 2 * (length - 1)
    index = torch.arange(padded, device=device) % period
    return torch.where(index < length, index, period - index)


def pad_to_multiple(planes: Tensor, multiple: int = PAD_MULTIPLE) -> Tensor:
    """Mirror the bottom and right edges until both sides are multiples of `multiple`.

    Works for any size, also where the pad is longer than the side.
    """
    height, width = planes.shape[-2:]
    rows, columns = -height % multiple, -width % multiple
    if rows:
        planes = planes.index_select(-2, _mirrored_index(height, height + rows, planes.device))
    if columns:
        planes = planes.index_select(-1, _mirrored_index(width, width + columns, planes.device))
    return planes


def _check_planes(planes: Tensor) -> None:
    if planes.ndim != 4 or planes.shape[1] != 4 or 0 in planes.shape:
        raise ShapeError(f"Expected packed planes (B, 4, H, W), found {tuple(planes.shape)}.")


def split_bands(planes: Tensor, *, multiple: int = PAD_MULTIPLE) -> SubBands:
    """The padded three-level pyramid of packed planes.

    Args:
        planes: `(B, 4, H, W)` in model range, any size.
        multiple: Sides are padded to multiples of this, itself a multiple of 8. 64 is what the
            whole network needs; 8 is enough for a decoder alone.

    Returns:
        Bands of the padded planes.

    Raises:
        ShapeError: If `planes` is not `(B, 4, H, W)` with at least one pixel.
    """
    _check_planes(planes)
    size = (planes.shape[2], planes.shape[3])
    current = pad_to_multiple(planes, multiple)
    lls, details = [], []
    for _ in range(LEVELS):
        current, detail = haar_dwt2(current)
        lls.append(current)
        details.append(detail)
    return SubBands((lls[0], lls[1], lls[2]), (details[0], details[1], details[2]), size)


def rescale_bands(planes: Tensor, *, multiple: int = PAD_MULTIPLE) -> SubBands:
    """What stands in for the pyramid in the paper's ablation "rescaling instead of DWT".

    The planes are padded as for `split_bands`. `ll` of level k is their mean over blocks of
    2**k x 2**k pixels: the same picture, smaller, in the same range (the wavelet's `ll` is 2**k
    times that). `detail` is zero: what rescaling leaves out is gone.

    Args:
        planes: `(B, 4, H, W)` in model range, any size.
        multiple: As for `split_bands`.

    Returns:
        Bands of the shapes of `split_bands`.

    Raises:
        ShapeError: If `planes` is not `(B, 4, H, W)` with at least one pixel.
    """
    _check_planes(planes)
    padded = pad_to_multiple(planes, multiple)
    first, second, third = (
        functional.avg_pool2d(padded, 2**level) for level in range(1, LEVELS + 1)
    )
    ll = (first, second, third)
    zero = tuple(band.new_zeros(len(band), 12, *band.shape[-2:]) for band in ll)
    return SubBands(ll, (zero[0], zero[1], zero[2]), (planes.shape[2], planes.shape[3]))


def make_bands(planes: Tensor, kind: BandKind, *, multiple: int = PAD_MULTIPLE) -> SubBands:
    """`split_bands` or, for the ablation, `rescale_bands`."""
    make = split_bands if kind == "dwt" else rescale_bands
    return make(planes, multiple=multiple)


def merge_bands(bands: SubBands) -> Tensor:
    """Packed planes of a pyramid, cropped to the content: the inverse of `split_bands`."""
    current = bands.ll[LEVELS - 1]
    for detail in reversed(bands.detail):
        current = haar_idwt2(current, detail)
    height, width = bands.content_size
    return current[:, :, :height, :width]
