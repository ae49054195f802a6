"""UNet calls of a sampling run whose group norms measure, or use, the statistics of a frame.

The wrapper lies outside of the one that cuts into tiles: one call of the host is one evaluation.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ..ldmsid_core.shared_norms import SharedNorms, own_weights

KEY = "ldmsid_norms"


def weights_of_norm(norm: nn.GroupNorm, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weight and bias of a norm as the host applies them.

    Where it moves, casts or patches them in the layer, they are told from what the layer makes of
    channels that alternate between -1 and 1.

    Args:
        norm: One of the host's layers.
        device: Where it computes.
    """
    names = ("comfy_cast_weights", "weight_function", "bias_function")
    if not any(getattr(norm, name, None) for name in names):
        return own_weights(norm, device)
    ends = torch.tensor([-1.0, 1.0], device=device).expand(1, norm.num_channels, 2)
    low, high = type(norm).forward(norm, ends.contiguous())[0].unbind(dim=1)
    return (high - low) / 2.0 * (1.0 + norm.eps) ** 0.5, (high + low) / 2.0


class NormedCalls:
    """The wrapper around the UNet's forward pass."""

    def __init__(self, norms: SharedNorms, *, measured: bool) -> None:
        """Keep what they are for.

        Args:
            norms: Of the UNet and its taming.
            measured: They are measured, not applied.
        """
        self._around = norms.measured if measured else norms.applied

    def call(self, executor: Any, x: Tensor, timesteps: Tensor, *args: Any, **kwargs: Any) -> Any:
        """One evaluation. The host's samplers ask the device for numbers in every step as well."""
        with self._around(float(timesteps[0])):
            return executor(x, timesteps, *args, **kwargs)


def set_norms(bound: Any, calls: NormedCalls | None) -> None:
    """Let a clone's norms see a frame; None leaves them as they are.

    Args:
        bound: A clone of a MODEL.
        calls: Of one sampling run.
    """
    bound.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, KEY)
    if calls is not None:
        bound.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, calls.call)
