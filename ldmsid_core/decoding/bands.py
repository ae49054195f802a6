"""The fusion of bands into a decoder feature, in strips (paper 3.3; formula in `taming.fusion`).

Half of a fusion's work sees the bands alone: the joint norm has as many groups for the bands as
for the feature and never mixes them, and a convolution of two tensors side by side is the sum of
two convolutions. A second decode of the same bands needs that half no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..taming.fusion import BandFusion
from ..taming.operations import blend
from .blocks import Pieces, activation, convolved, residual, rows_of
from .layers import Layers, Rows, convolve
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
    """`h * (1 + scale) + shift`, written over `h`.

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
            joined = _join(pieces, own, branch, layers)
        else:
            half = halves.get((level, name)) or _make_half(own, branch, layers)
            halves[level, name] = half
            joined = [_join_half(pieces[0], half, branch.joint, layers)]
        results.append(_leave(joined, branch, layers))
    for h, scale, shift in zip(pieces, *results, strict=True):
        for top, bottom in layers.strips(*h.shape[-2:]):
            rows = (slice(None), slice(None), slice(top, bottom))
            tamed = (h[rows] * scale[rows].add_(1.0)).add_(shift[rows])
            h[rows] = blend(h[rows], tamed, strength)
    return pieces


def _leave(joined: list[_Joined], branch: _Branch, layers: Layers) -> Pieces:
    """The second half of the joint block and what makes scale or shift of it."""
    inner = [half.inner for half in joined]
    second = activation(layers.affine(branch.joint.norm2, inner))
    found = []
    for half, sides in zip(joined, layers.sides, strict=True):
        out = torch.empty_like(half.inner)
        read = rows_of(half.inner, second)
        for top, bottom in layers.strips(*out.shape[-2:]):
            new = convolve(branch.joint.conv2, read, out.shape[2], top, bottom, sides)
            out[:, :, top:bottom] = branch.leave(new.add_(half.skip(top, bottom)))
        found.append(out)
    return found


def _join(
    pieces: Pieces, bands: Sequence[Tensor], branch: _Branch, layers: Layers
) -> list[_Joined]:
    """Bands and feature side by side through the first half of the joint block."""
    joint, channels = branch.joint, pieces[0].shape[1]
    entered = residual(bands, branch.enter, layers, norms=False)
    of_bands = layers.affine(joint.norm1, entered, slice(0, channels))
    of_feature = layers.affine(joint.norm1, pieces, slice(channels, None))
    first = activation(of_bands.joined(of_feature))
    found = []
    for b, h, sides in zip(entered, pieces, layers.sides, strict=True):
        both = _side_by_side(b, h)
        inner = convolved(h, _then(both, first), joint.conv1, channels, layers, sides)
        found.append(_Joined(inner, _then(both, _skip_of(joint))))
    return found


def _make_half(bands: Sequence[Tensor], branch: _Branch, layers: Layers) -> Half:
    """The bands' part of the first half of the joint block."""
    joint = branch.joint
    entered = residual(bands, branch.enter, layers, norms=False)
    channels = slice(0, entered[0].shape[1])
    first = activation(layers.affine(joint.norm1, entered, channels))
    (b,), (sides,) = entered, layers.sides
    conv = _partial(joint.conv1, channels, layers, b, bias=True)
    inner = convolved(b, rows_of(b, first), conv, b.shape[1], layers, sides)
    return Half(inner, _partial(_skip_of(joint), channels, layers, b, bias=True)(b))


def _join_half(h: Tensor, half: Half, joint: Residual, layers: Layers) -> _Joined:
    """The feature's part of the first half of the joint block, and the bands' added to it."""
    channels, (sides,) = h.shape[1], layers.sides
    of_feature = slice(channels, None)
    first = activation(layers.affine(joint.norm1, [h], of_feature))
    conv = _partial(joint.conv1, of_feature, layers, h, bias=False)
    inner = convolved(h, rows_of(h, first), conv, channels, layers, sides).add_(half.convolved)
    skip = _partial(_skip_of(joint), of_feature, layers, h, bias=False)

    def skipped(top: int, bottom: int) -> Tensor:
        return skip(h[:, :, top:bottom]).add_(half.skipped[:, :, top:bottom])

    return _Joined(inner, skipped)


def _skip_of(joint: Residual) -> nn.Module:
    assert joint.skip is not None
    return joint.skip


def _side_by_side(bands: Tensor, h: Tensor) -> Rows:
    return lambda top, bottom: torch.cat([bands[:, :, top:bottom], h[:, :, top:bottom]], dim=1)


def _then(read: Rows, then: Callable[[Tensor], Tensor]) -> Rows:
    return lambda top, bottom: then(read(top, bottom))


def _partial(
    conv: nn.Module, channels: slice, layers: Layers, like: Tensor, *, bias: bool
) -> Callable[[Tensor], Tensor]:
    """A convolution of some of its input channels, with its bias or without."""
    weight, offset = (w.to(like.device, like.dtype) for w in layers.weights(conv))
    own = weight[:, channels].contiguous(memory_format=torch.channels_last)
    padding = own.shape[-1] // 2
    return lambda x: functional.conv2d(x, own, offset if bias else None, padding=padding)
