"""Single layers over whole frames, in strips of rows: only one strip of temporaries at a time.

A convolution of a strip sees the rows beside it, so strips change nothing. At the sides where a
tile was cut out of a frame, its border pixels are repeated: zeros there, as at the frame's own
border, would darken what the norms see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..memory import free_memory
from .norms import Moments, Norms

# Numbers that a strip holds of the wider of a layer's input and output. More rows mean fewer that
# are computed twice; fewer stay below what the C library asks the system for anew each time.
STRIP = 1 << 23
# How many tensors of a strip are alive at once.
STRIP_TENSORS = 4
# On a GPU each strip also waits for its kernels to start, and a layer in one strip is not copied:
# most of a frame of 12 MP are one. They may take an eighth of the free memory; plans leave a third.
_STRIPS_ON_GPU, _STRIP_SHARE = (1 << 29, 1 << 28, 1 << 27, 1 << 26), 8
WeightsOf = Callable[[nn.Module], tuple[Tensor, Tensor]]
# Rows a to b of a layer's input, `(1, C, b - a, w)`.
Rows = Callable[[int, int], Tensor]


class Sides(NamedTuple):
    """Which sides of a piece are the frame's own border: there, convolutions see zeros."""

    top: bool = True
    bottom: bool = True
    left: bool = True
    right: bool = True


class Affine(NamedTuple):
    """A norm with known statistics, per channel, float32."""

    mean: Tensor
    variance: Tensor
    weight: Tensor
    bias: Tensor
    eps: float

    def joined(self, other: Affine) -> Affine:
        """The norm of two tensors stacked along the channels."""
        return Affine(
            torch.cat([self.mean, other.mean]),
            torch.cat([self.variance, other.variance]),
            torch.cat([self.weight, other.weight]),
            torch.cat([self.bias, other.bias]),
            self.eps,
        )


def own_weights(module: nn.Module) -> tuple[Tensor, Tensor]:
    """A layer's weight and bias as they are."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    return weight, bias


@dataclass
class Layers:
    """How layers are run over the pieces of a frame.

    Attributes:
        norms: Where statistics come from.
        sides: Of each piece.
        strip: Numbers of a strip, at least one row.
        weights: Weight and bias of a layer.
        attention_positions: Of a piece that attention still looks at as a whole; in larger ones
            it looks at windows.
        report: Called after each strip with the part of a layer that it was; may raise to stop.
    """

    norms: Norms
    sides: Sequence[Sides] = (Sides(),)
    strip: int = STRIP
    weights: WeightsOf = own_weights
    attention_positions: float = math.inf
    report: Callable[[float], None] = field(default=lambda _part: None)

    def strips(self, height: int, width: int, channels: int) -> Iterator[tuple[int, int]]:
        """Rows in strips, each reported when it is done.

        Args:
            height: Of a layer's result.
            width: Of it.
            channels: Of its result or input, whichever has more.

        Yields:
            The first row of a strip, and the one after its last.
        """
        rows = max(1, self.strip // (width * channels))
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            yield top, bottom
            self.report((bottom - top) / height)

    def fill(self, out: Tensor, compute: Rows, channels: int = 0) -> Tensor:
        """A layer's result, written over a tensor strip by strip; a single one is its own tensor.

        Args:
            out: `(1, C, h, w)`; not to be read any more.
            compute: Gives rows of the result; reads of `out` no others.
            channels: Of the layer's input, where these are more.
        """
        height, width = out.shape[-2:]
        found = out
        for top, bottom in self.strips(height, width, max(channels, out.shape[1])):
            rows = compute(top, bottom)
            if bottom - top == height:
                found = rows
            else:
                out[:, :, top:bottom] = rows
        return found

    def make(self, like: Tensor, channels: int, compute: Rows, *, scale: int = 1) -> Tensor:
        """A layer's result, `(1, channels, h, w)`, computed strip by strip.

        Args:
            like: The layer's input.
            channels: Of the result.
            compute: Gives rows of the result.
            scale: Result over input, in height and width.
        """
        height, width = (scale * side for side in like.shape[-2:])
        out: Tensor | None = None
        for top, bottom in self.strips(height, width, max(channels, like.shape[1])):
            rows = compute(top, bottom)
            if bottom - top == height:
                out = rows
                continue
            if out is None:
                out = empty(like, channels, scale=scale, dtype=rows.dtype)
            out[:, :, top:bottom] = rows
        assert out is not None
        return out

    def affine(
        self, norm: nn.Module, pieces: Sequence[Tensor], channels: slice = slice(None)
    ) -> Affine:
        """A norm, or those of its channels that `pieces` are, with its statistics."""
        weight, bias = (w.to(pieces[0].device, torch.float32) for w in self.weights(norm))
        groups, width = int(norm.num_groups), len(weight)  # type: ignore[arg-type]
        weight, bias = weight[channels], bias[channels]
        per_group = width // groups
        found: Moments = self.norms.next(pieces, len(weight) // per_group)
        return Affine(
            found.mean.repeat_interleave(per_group),
            found.variance.repeat_interleave(per_group),
            weight,
            bias,
            float(norm.eps),  # type: ignore[arg-type]
        )


def strip_on(device: torch.device, dtype: torch.dtype) -> int:
    """Numbers of a strip on a device; large ones where they are a small part of its memory."""
    if device.type != "cuda":
        return STRIP
    return strip_within(free_memory(device), dtype)


def strip_within(free: int, dtype: torch.dtype) -> int:
    """Numbers of a strip on a GPU with so many bytes free."""
    each = _STRIP_SHARE * STRIP_TENSORS * dtype.itemsize
    return next((strip for strip in _STRIPS_ON_GPU if each * strip <= free), STRIP)


def format_on(device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """How features lie in memory; contiguous weights are changed for each call, being small.

    Channels-last is a tenth faster on CPUs, and what NVIDIA's matrix units take in half precision.
    """
    has_units = device.type == "cuda" and torch.version.hip is None and dtype.itemsize == 2
    last = has_units or device.type == "cpu"
    return torch.channels_last if last else torch.contiguous_format


def convolve(
    conv: Callable[[Tensor], Tensor],
    read: Rows,
    height: int,
    top: int,
    bottom: int,
    sides: Sides,
) -> Tensor:
    """Rows `top` to `bottom` of a 3x3 convolution.

    Args:
        conv: With a padding of one.
        read: Its input.
        height: Of its input.
        top: First row.
        bottom: The row after the last.
        sides: Of the piece.
    """
    first, last = max(0, top - 1), min(height, bottom + 1)
    x = read(first, last)
    left, right = int(not sides.left), int(not sides.right)
    above = int(top == 0 and not sides.top)
    below = int(bottom == height and not sides.bottom)
    if left or right or above or below:
        x = functional.pad(x, (left, right, above, below), mode="replicate")
    y = conv(x)
    above, below = above + top - first, below + last - bottom
    return y[:, :, above : y.shape[2] - below, left : y.shape[3] - right]


def activate(x: Tensor, affine: Affine) -> Tensor:
    """SiLU of a norm with known statistics."""
    return functional.silu(normalise(x, affine), inplace=True)


def normalise(x: Tensor, affine: Affine) -> Tensor:
    """A norm with known statistics: PyTorch's batch norm in evaluation mode."""
    given = x.float() if x.device.type == "mps" else x  # Its batch norm takes no two dtypes.
    found = functional.batch_norm(
        given, affine.mean, affine.variance, affine.weight, affine.bias, training=False,
        eps=affine.eps,
    )  # fmt: skip
    return found.to(x.dtype)


def empty(
    like: Tensor, channels: int, *, scale: int = 1, dtype: torch.dtype | None = None
) -> Tensor:
    """An unwritten tensor of a piece's size, device and memory format."""
    batch, _, height, width = like.shape
    last = like.is_contiguous(memory_format=torch.channels_last)
    return torch.empty(
        (batch, channels, scale * height, scale * width), dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )  # fmt: skip


def width_of(conv: nn.Module) -> int:
    """Output channels of a convolution."""
    return int(conv.out_channels)  # type: ignore[arg-type]
