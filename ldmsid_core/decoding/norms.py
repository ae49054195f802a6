"""Where a GroupNorm's statistics come from: the whole frame, some tiles of it, or a list.

A norm whose statistics are known is an affine map per channel, and then a tile of a frame is
normalised as the frame would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

# Below any variance that an eps of 1e-6 leaves visible.
_TINY = 1e-12
# Positions of a strip; CUDA sums in pairs, over any number.
_STRIP, _STRIP_ON_GPU = 1 << 17, 1 << 23


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each group of channels, `(groups,)` float32."""

    mean: Tensor
    variance: Tensor


def _channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance per channel of `(1, C, h, w)`, float64.

    PyTorch's batch norm in training mode computes them accurately, in float32, and fast; on CPUs
    and on NVIDIA GPUs its first half can be had alone.
    """
    if x.device.type == "cuda":
        mean, inverse = torch.batch_norm_stats(x, _TINY)
        return mean.double(), (inverse.double().square().reciprocal() - _TINY).clamp_min(0.0)
    ones = torch.ones(x.shape[1], device=x.device)
    if x.device.type == "cpu":
        mean, variance = torch.batch_norm_update_stats(x, ones.clone(), ones, 0.0)
        return mean.double(), variance.double()
    _, mean, inverse = torch.native_batch_norm(x, ones, ones, None, None, True, 0.0, _TINY)
    variance = inverse.double().square().reciprocal() - _TINY
    return mean.double(), variance.clamp_min(0.0)


def moments(x: Tensor, groups: int) -> Moments:
    """Statistics of `(1, C, h, w)`, row strip by row strip, added up in float64."""
    height, width = x.shape[-2:]
    strip_size = _STRIP_ON_GPU if x.device.type == "cuda" else _STRIP
    rows = max(1, strip_size // width)
    total = square = torch.zeros(groups, dtype=torch.float64, device=x.device)
    for top in range(0, height, rows):
        strip = x[:, :, top : top + rows]
        mean, variance = _channel_moments(strip)
        weight = strip.shape[2] / height
        total = total + weight * mean.reshape(groups, -1).mean(1)
        square = square + weight * (variance + mean.square()).reshape(groups, -1).mean(1)
    return Moments(total.float(), (square - total.square()).clamp_min(0.0).float())


class Norms(Protocol):
    """Hands out the statistics of one norm after the other, in the order of the layers."""

    def next(self, pieces: Sequence[Tensor], groups: int) -> Moments:
        """Statistics of a norm whose input is `pieces`, each `(1, C, h, w)`."""
        ...


@dataclass
class FrameNorms:
    """Statistics of the one piece itself, which is the whole frame."""

    def next(self, pieces: Sequence[Tensor], groups: int) -> Moments:
        """Statistics of the frame."""
        (frame,) = pieces
        return moments(frame, groups)


@dataclass
class PooledNorms:
    """Statistics of pieces that stand for a frame; remembered.

    Attributes:
        weights: Of the pieces, `(pieces,)` float64, adding up to 1.
        seen: What was handed out so far.
    """

    weights: Tensor
    seen: list[Moments] = field(default_factory=list)

    def next(self, pieces: Sequence[Tensor], groups: int) -> Moments:
        """Statistics of all pieces together."""
        parts = [moments(piece, groups) for piece in pieces]
        mean = torch.stack([part.mean for part in parts]).double()
        square = torch.stack([part.variance for part in parts]).double() + mean.square()
        weights = self.weights.to(mean.device)
        pooled = weights @ mean
        variance = (weights @ square - pooled.square()).clamp_min(0.0)
        found = Moments(pooled.float(), variance.float())
        self.seen.append(found)
        return found


@dataclass
class FixedNorms:
    """Statistics that are known already."""

    known: Sequence[Moments]
    place: int = 0

    def next(self, pieces: Sequence[Tensor], groups: int) -> Moments:
        """The next ones of the list."""
        found = self.known[self.place]
        self.place += 1
        assert found.mean.shape[0] == groups
        return found
