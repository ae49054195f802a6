"""Residual blocks in strips: two convolutions, each after a norm and SiLU, plus a skip."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional

from .layers import Affine, Layers, Rows, Sides, activate, convolve, width_of
from .modules import Residual

Pieces = list[Tensor]


def rows_of(x: Tensor, then: Callable[[Tensor], Tensor] | None = None) -> Rows:
    """A reader of rows, with something pointwise done to them."""

    def read(top: int, bottom: int) -> Tensor:
        rows = x[:, :, top:bottom]
        return rows if then is None else then(rows)

    return read


def activation(norm: Affine | None) -> Callable[[Tensor], Tensor]:
    """SiLU of a norm, or of the input itself."""
    return functional.silu if norm is None else lambda rows: activate(rows, norm)


def convolved(
    x: Tensor,
    read: Rows,
    conv: Callable[[Tensor], Tensor],
    channels: int,
    layers: Layers,
    sides: Sides,
) -> Tensor:
    """A 3x3 convolution to `channels` channels of what `read` gives, as large as `x`."""

    def compute(top: int, bottom: int) -> Tensor:
        return convolve(conv, read, x.shape[2], top, bottom, sides)

    return layers.make(x, channels, compute)


def residual(
    pieces: Sequence[Tensor], block: Residual, layers: Layers, *, norms: bool = True
) -> Pieces:
    """A residual block; where the width stays, its input may be overwritten.

    Args:
        pieces: Each `(1, C, h, w)`.
        block: Its layers.
        layers: How.
        norms: False where the block has none.
    """
    first = activation(layers.affine(block.norm1, pieces) if norms else None)
    inner = [
        convolved(x, rows_of(x, first), block.conv1, width_of(block.conv1), layers, sides)
        for x, sides in zip(pieces, layers.sides, strict=True)
    ]
    second = activation(layers.affine(block.norm2, inner) if norms else None)
    found = []
    for x, sides in zip(pieces, layers.sides, strict=True):
        read = rows_of(inner.pop(0), second)

        def compute(
            top: int, bottom: int, x: Tensor = x, read: Rows = read, sides: Sides = sides
        ) -> Tensor:
            old = x[:, :, top:bottom]
            skipped = old if block.skip is None else block.skip(old)
            return convolve(block.conv2, read, x.shape[2], top, bottom, sides).add_(skipped)

        if block.skip is None:
            found.append(layers.fill(x, compute))
        else:
            found.append(layers.make(x, width_of(block.conv2), compute))
    return found
