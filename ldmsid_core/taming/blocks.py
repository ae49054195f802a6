"""Building blocks of the taming modules: residual blocks, self-attention, time embedding.

The structure encoder uses ADM's blocks (Dhariwal and Nichol, 2021) with GroupNorm eps 1e-5; the
decoder fusions use the VAE's residual block with eps 1e-6.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .configs import NORM_GROUPS
from .operations import PLAIN, Operations

_MAX_PERIOD = 10000.0


def timestep_embedding(timestep: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding, cosines first, maximal period 10000, in float32.

    Args:
        timestep: `(B,)` training steps 0..999, integer or float.
        width: Even.

    Returns:
        `(B, width)` float32.
    """
    half = width // 2
    index = torch.arange(half, dtype=torch.float32, device=timestep.device)
    frequency = torch.exp(-math.log(_MAX_PERIOD) * index / half)
    angle = timestep.float()[:, None] * frequency[None]
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)


class TimedResidualBlock(nn.Module):
    """GroupNorm, SiLU, Conv3x3, plus time; GroupNorm, SiLU, Conv3x3, plus skip."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time_width: int,
        operations: Operations = PLAIN,
    ) -> None:
        """Build; a 1x1 skip convolution only where the widths differ."""
        super().__init__()
        self.norm1 = operations.GroupNorm(NORM_GROUPS, in_channels, eps=1e-5)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = operations.Linear(time_width, out_channels)
        self.norm2 = operations.GroupNorm(NORM_GROUPS, out_channels, eps=1e-5)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = (
            nn.Identity()
            if in_channels == out_channels
            else operations.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """`(B, in, h, w)` and `(B, time_width)` -> `(B, out, h, w)`."""
        h = self.conv1(functional.silu(self.norm1(x)))
        h = h + self.time(functional.silu(time))[:, :, None, None]
        h = self.conv2(functional.silu(self.norm2(h)))
        return self.skip(x) + h


def as_shape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A 1x1 convolution's weight as a linear layer's, where that is what `shape` says.

    Released checkpoints and older files of ours keep attention's projections as convolutions.
    """
    is_convolution = tensor.ndim == len(shape) + 1 == 3 and tensor.shape[-1] == 1
    return tensor.squeeze(-1) if is_convolution else tensor


class SelfAttention(nn.Module):
    """ADM's attention block: GroupNorm, q k v split per head first, residual.

    Its projections are 1x1 convolutions, computed as linear layers on tokens: in channels-last
    memory nothing has to be copied then.
    """

    def __init__(self, channels: int, *, heads: int, operations: Operations = PLAIN) -> None:
        """Build for `heads` heads of `channels / heads` channels."""
        super().__init__()
        self.heads = heads
        self.norm = operations.GroupNorm(NORM_GROUPS, channels, eps=1e-5)
        self.qkv = operations.Linear(channels, 3 * channels)
        self.out = operations.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` -> the same shape."""
        batch, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        qkv = self.qkv(tokens).reshape(batch, -1, self.heads, 3, channels // self.heads)
        # Scaling q and k by d**-1/4 each, as ADM does, is the 1/sqrt(d) of SDPA.
        query, key, value = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, -1, channels))
        return x + mixed.transpose(1, 2).reshape(batch, channels, height, width)


class ResidualBlock(nn.Module):
    """The VAE's residual block with a 1x1 skip, with or without its two norms."""

    def __init__(
        self, in_channels: int, out_channels: int, *, norm: bool, operations: Operations = PLAIN
    ) -> None:
        """Build; the skip convolution exists where the widths differ."""
        super().__init__()
        self.norm1 = (
            operations.GroupNorm(NORM_GROUPS, in_channels, eps=1e-6) if norm else nn.Identity()
        )
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = (
            operations.GroupNorm(NORM_GROUPS, out_channels, eps=1e-6) if norm else nn.Identity()
        )
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = (
            nn.Identity()
            if in_channels == out_channels
            else operations.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in, h, w)` -> `(B, out, h, w)`."""
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return self.skip(x) + h
