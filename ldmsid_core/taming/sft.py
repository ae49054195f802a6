"""The SFT layer: spatial feature transform of a UNet feature (paper 3.2; Wang et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .configs import NORM_GROUPS
from .operations import PLAIN, Operations, blend


class SftLayer(nn.Module):
    """Per-pixel scale and shift of a UNet feature by a structure feature.

    `released` computes `GroupNorm(h) * (1 + gamma) + beta` with a norm of its own, so zero gamma
    and beta are not the identity. `identity` has no norm and zero-initialised last convolutions:
    it starts as no change at all, which newly trained modules want.
    """

    def __init__(
        self,
        channels: int,
        *,
        features: int,
        hidden: int,
        normalise: bool,
        operations: Operations = PLAIN,
    ) -> None:
        """Build for a UNet feature of `channels` channels."""
        super().__init__()
        self.norm: nn.Module | None = (
            operations.GroupNorm(NORM_GROUPS, channels, eps=1e-5) if normalise else None
        )
        self.shared = operations.Conv2d(features, hidden, 3, padding=1)
        self.gamma = operations.Conv2d(hidden, channels, 3, padding=1)
        self.beta = operations.Conv2d(hidden, channels, 3, padding=1)
        if not normalise:
            for last in (self.gamma, self.beta):
                for parameter in last.parameters():
                    nn.init.zeros_(parameter)

    def forward(self, h: Tensor, structure: Tensor, strength: float = 1.0) -> Tensor:
        """`(B, C, h, w)` and `(B / n, features, h, w)` -> `(B, C, h, w)`; strength 0 is `h`.

        Where `h` holds n times as many rows, all rows of the structure follow one another n times.
        """
        if strength == 0.0:
            return h
        shared = functional.relu(self.shared(structure))
        scale, shift = 1.0 + self.gamma(shared), self.beta(shared)
        base = h if self.norm is None else self.norm(_safe_for_norm(h))
        rows = len(structure)
        if len(h) == rows:
            tamed = base * scale + shift
        else:
            tamed = (base.unflatten(0, (-1, rows)) * scale + shift).flatten(0, 1)
        return blend(h, tamed, strength)


def _safe_for_norm(h: Tensor) -> Tensor:
    """A feature as GroupNorm's backward pass can take it.

    PyTorch's GroupNorm on the CPU crashes in the backward pass of a channels-last input that
    needs no gradient itself, which the host's feature at the first site is in training.
    """
    learns = torch.is_grad_enabled() and not h.requires_grad
    return h.contiguous() if learns else h
