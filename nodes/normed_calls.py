"""UNet calls of a sampling run whose group norms measure, or use, the statistics of a frame.

The wrapper lies outermost: one call of the host is one evaluation, however it is cut into tiles.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ..ldmsid_core.frame_norms import FrameNorms

KEY = "ldmsid_norms"


def weights_of_norm(norm: nn.GroupNorm, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weight and bias of a norm as the host applies them: moved, cast and patched by its own layer.

    They are what the norm makes of channels that alternate between -1 and 1.

    Args:
        norm: One of the host's layers.
        device: Where it computes.
    """
    casts = getattr(norm, "comfy_cast_weights", False)
    dtype = torch.float32 if casts else norm.weight.dtype
    ends = torch.tensor([-1.0, 1.0], device=device, dtype=dtype).expand(1, norm.num_channels, 2)
    low, high = type(norm).forward(norm, ends.contiguous())[0].float().unbind(dim=1)
    return (high - low) / 2.0 * (1.0 + norm.eps) ** 0.5, (high + low) / 2.0


class NormedCalls:
    """The wrapper around the UNet's forward pass."""

    def __init__(self, norms: FrameNorms, *, measured: bool) -> None:
        """Count evaluations from 0.

        Args:
            norms: Of the UNet and its taming.
            measured: They are measured, not applied.
        """
        self._around = norms.measured if measured else norms.applied
        self._numbers = count()

    def call(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """One evaluation."""
        with self._around(next(self._numbers)):
            return executor(*args, **kwargs)


def set_norms(bound: Any, calls: NormedCalls | None) -> None:
    """Let a clone's norms see a frame; None leaves them as they are.

    Args:
        bound: A clone of a MODEL.
        calls: Of one sampling run.
    """
    bound.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, KEY)
    if calls is not None:
        bound.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, calls.call)
