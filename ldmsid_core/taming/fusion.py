"""Decoder fusion: low bands scale, high bands shift a decoder feature (paper 3.3).

`L = Res[concat(ResNoNorm(ll), h)]`, `H = Res[concat(ResNoNorm(detail), h)]`,
`h <- h * (1 + scale(L)) + shift(H)` with two 1x1 convolutions and LeakyReLU 0.1 each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ShapeError
from .blocks import ResidualBlock
from .configs import DecoderTamingConfig
from .operations import PLAIN, Operations, blend

_LEAK = 0.1


def _affine(channels: int, operations: Operations) -> nn.Sequential:
    return nn.Sequential(
        operations.Conv2d(channels, channels, 1),
        nn.LeakyReLU(_LEAK),
        operations.Conv2d(channels, channels, 1),
    )


class BandFusion(nn.Module):
    """Modulates one decoder feature by the bands of its level."""

    def __init__(
        self,
        channels: int,
        *,
        ll_channels: int,
        detail_channels: int,
        operations: Operations = PLAIN,
    ) -> None:
        """Build for a decoder feature of `channels` channels."""
        super().__init__()
        self.ll_in = ResidualBlock(ll_channels, channels, norm=False, operations=operations)
        self.detail_in = ResidualBlock(detail_channels, channels, norm=False, operations=operations)
        self.ll_joint = ResidualBlock(2 * channels, channels, norm=True, operations=operations)
        self.detail_joint = ResidualBlock(2 * channels, channels, norm=True, operations=operations)
        self.scale = _affine(channels, operations)
        self.shift = _affine(channels, operations)

    def start_as_identity(self) -> None:
        """Zero the last convolutions, so that the fusion changes nothing until it has learned."""
        for branch in (self.scale, self.shift):
            for parameter in branch[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, h: Tensor, ll: Tensor, detail: Tensor, strength: float = 1.0) -> Tensor:
        """Fuse.

        Args:
            h: `(B, C, h, w)` decoder feature.
            ll: `(B, 4, h, w)`.
            detail: `(B, 12, h, w)`.
            strength: 1 tames fully, 0 returns `h` itself; between and beyond is linear.

        Returns:
            `(B, C, h, w)`.

        Raises:
            ShapeError: If the sizes differ.
        """
        if ll.shape[-2:] != h.shape[-2:] or ll.shape[0] != h.shape[0]:
            raise ShapeError(
                f"Expected bands of the decoder feature's batch and size, {h.shape[0]} x "
                f"{tuple(h.shape[-2:])}, found {ll.shape[0]} x {tuple(ll.shape[-2:])}: "
                "latent and bands come from different files or sizes."
            )
        if strength == 0.0:
            return h
        low = self.ll_joint(torch.cat([self.ll_in(ll), h], dim=1))
        high = self.detail_joint(torch.cat([self.detail_in(detail), h], dim=1))
        return blend(h, h * (1.0 + self.scale(low)) + self.shift(high), strength)


class DecoderTaming(nn.Module):
    """The three fusions, keyed by band level."""

    def __init__(self, config: DecoderTamingConfig, *, operations: Operations = PLAIN) -> None:
        """Build with PyTorch's default initialisation."""
        super().__init__()
        self.config = config
        self.levels = nn.ModuleDict(
            {
                str(level): BandFusion(
                    width,
                    ll_channels=config.ll_channels,
                    detail_channels=config.detail_channels,
                    operations=operations,
                )
                for level, width in zip((3, 2, 1), config.widths, strict=True)
            }
        )

    def fusion(self, level: int) -> BandFusion:
        """The fusion of a band level, 1 to 3."""
        fusion = self.levels[str(level)]
        assert isinstance(fusion, BandFusion)
        return fusion

    def start_as_identity(self) -> None:
        """Make all three fusions change nothing until they have learned."""
        for site_level in (3, 2, 1):
            self.fusion(site_level).start_as_identity()
