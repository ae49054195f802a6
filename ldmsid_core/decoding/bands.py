"""The fusion of bands into a decoder feature, in strips (paper 3.3; formula in `taming.fusion`).

Half of a fusion's work sees the bands alone: the joint norm has as many groups for the bands as
for the feature and never mixes them, and a convolution of two tensors side by side is the sum of
two convolutions, which also are faster than one of twice the width. A second decode of the same
bands needs that half no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..taming.fusion import BandFusion
from ..taming.operations import blend
from .blocks import Pieces, activation, residual, rows_of
from .layers import Layers, Rows, Sides, convolve, width_of
from .modules import Residual, residual_of


class Half(NamedTuple):
    """What the bands alone determine of one branch of a fusion, `(1, C, h, w)` each.

    Attributes:
        convolved: Their part of the joint block's first convolution.
        skipped: Their part of its skip.
    """

    convolved: Tensor
    skipped: Tensor


# By band level and branch.
HalfCache = dict[tuple[int, str], Half]


class _Branch(NamedTuple):
    """The layers of a branch: into the decoder's width, joint block, out."""

    enter: Residual
    joint: Residual
    leave: nn.Module


class _BandPart(NamedTuple):
    """Rows of what a `Half` holds, computed where they are asked for or kept.

    Attributes:
        convolved: Of its first attribute.
        skipped: Of its second.
    """

    convolved: Rows
    skipped: Rows


class _Joined(NamedTuple):
    """Halfway through the joint block: its first convolution, and rows of its skip."""

    inner: Tensor
    skip: Rows


def fuse(
    pieces: Pieces,
    level: int,
    fusion: BandFusion,
    bands: Sequence[tuple[Tensor, Tensor]],
    layers: Layers,
    *,
    strength: float,
    halves: HalfCache | None = None,
) -> Pieces:
    """`h * (1 + scale) + shift`; `h` may be overwritten.

    Args:
        pieces: Of the decoder's feature.
        level: Of the bands.
        fusion: Trained layers.
        bands: `ll` and `detail` of each piece.
        layers: How.
        strength: 1 fuses fully.
        halves: Filled at the first call, used from then on; for one piece only.
    """
    low = _Branch(residual_of(fusion.ll_in), residual_of(fusion.ll_joint), fusion.scale)
    high = _Branch(residual_of(fusion.detail_in), residual_of(fusion.detail_joint), fusion.shift)
    results = []
    for number, (name, branch) in enumerate((("low", low), ("high", high))):
        own = [pair[number] for pair in bands]
        if halves is None:
            parts = _band_parts(own, branch, layers)
        else:
            half = halves.get((level, name)) or _make_half(own, branch, layers)
            halves[level, name] = half
            parts = [_BandPart(rows_of(half.convolved), rows_of(half.skipped))]
        joined = _join(pieces, parts, branch.joint, layers)
        results.append(_leave(joined, branch, layers))
    for place, (h, scale, shift) in enumerate(zip(pieces, *results, strict=True)):

        def compute(
            top: int, bottom: int, h: Tensor = h, scale: Tensor = scale, shift: Tensor = shift
        ) -> Tensor:
            rows = (slice(None), slice(None), slice(top, bottom))
            tamed = torch.addcmul(shift[rows], h[rows], scale[rows].add_(1.0))
            return blend(h[rows], tamed, strength)

        pieces[place] = layers.fill(h, compute)
    return pieces


def _leave(joined: list[_Joined], branch: _Branch, layers: Layers) -> Pieces:
    """The second half of the joint block and what makes scale or shift of it."""
    inner = [half.inner for half in joined]
    second = activation(layers.affine(branch.joint.norm2, inner))
    found = []
    for half, sides in zip(joined, layers.sides, strict=True):
        read = rows_of(half.inner, second)

        def compute(
            top: int, bottom: int, half: _Joined = half, read: Rows = read, sides: Sides = sides
        ) -> Tensor:
            height = half.inner.shape[2]
            new = convolve(branch.joint.conv2, read, height, top, bottom, sides)
            left: Tensor = branch.leave(new.add_(half.skip(top, bottom)))
            return left

        found.append(layers.make(half.inner, half.inner.shape[1], compute))
    return found


def _band_parts(bands: Sequence[Tensor], branch: _Branch, layers: Layers) -> list[_BandPart]:
    """The bands' part of the first half of the joint block, piece by piece."""
    joint = branch.joint
    entered = residual(bands, branch.enter, layers, norms=False)
    channels = slice(0, entered[0].shape[1])
    first = activation(layers.affine(joint.norm1, entered, channels))
    conv = _partial(joint.conv1, channels, layers, entered[0], bias=True)
    skip = _partial(_skip_of(joint), channels, layers, entered[0], bias=True)
    found = []
    for b, sides in zip(entered, layers.sides, strict=True):
        read = rows_of(b, first)

        def convolved_rows(
            top: int, bottom: int, read: Rows = read, b: Tensor = b, sides: Sides = sides
        ) -> Tensor:
            return convolve(conv, read, b.shape[2], top, bottom, sides)

        found.append(_BandPart(convolved_rows, rows_of(b, skip)))
    return found


def _make_half(bands: Sequence[Tensor], branch: _Branch, layers: Layers) -> Half:
    """All rows of the one piece's part, strip by strip as they would be asked for."""
    (part,) = _band_parts(bands, branch, layers)
    (band,) = bands
    width = width_of(branch.joint.conv1)
    silent = replace(layers, report=lambda _part: None)
    return Half(*(silent.make(band, width, rows) for rows in part))


def _join(
    pieces: Pieces, parts: Sequence[_BandPart], joint: Residual, layers: Layers
) -> list[_Joined]:
    """The feature's part of the first half of the joint block, and the bands' added to it."""
    of_feature = slice(pieces[0].shape[1], None)
    first = activation(layers.affine(joint.norm1, pieces, of_feature))
    conv = _partial(joint.conv1, of_feature, layers, pieces[0], bias=False)
    skip = _partial(_skip_of(joint), of_feature, layers, pieces[0], bias=False)
    found = []
    for h, part, sides in zip(pieces, parts, layers.sides, strict=True):
        read = rows_of(h, first)

        def compute(
            top: int, bottom: int, h: Tensor = h, part: _BandPart = part, read: Rows = read,
            sides: Sides = sides,
        ) -> Tensor:  # fmt: skip
            own = convolve(conv, read, h.shape[2], top, bottom, sides)
            return own.add_(part.convolved(top, bottom))

        def skipped(top: int, bottom: int, h: Tensor = h, part: _BandPart = part) -> Tensor:
            return skip(h[:, :, top:bottom]).add_(part.skipped(top, bottom))

        found.append(_Joined(layers.make(h, h.shape[1], compute), skipped))
    return found


def _skip_of(joint: Residual) -> nn.Module:
    assert joint.skip is not None
    return joint.skip


def _partial(
    conv: nn.Module, channels: slice, layers: Layers, like: Tensor, *, bias: bool
) -> Callable[[Tensor], Tensor]:
    """A convolution of some of its input channels, with its bias or without."""
    weight, offset = (w.to(like.device, like.dtype) for w in layers.weights(conv))
    own = weight[:, channels].contiguous(memory_format=torch.channels_last)
    padding = own.shape[-1] // 2
    return lambda x: functional.conv2d(x, own, offset if bias else None, padding=padding)
