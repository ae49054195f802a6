"""Core images to ComfyUI's and back: channels first, then last."""

from __future__ import annotations

import comfy.model_management
import torch
from torch import Tensor


def to_comfy(image: Tensor) -> Tensor:
    """`(B, 3, H, W)` unit range -> IMAGE `(B, H, W, 3)` float32 on the host's own device."""
    device = comfy.model_management.intermediate_device()
    return image.movedim(1, -1).to(device, torch.float32).contiguous()


def from_comfy(image: Tensor) -> Tensor:
    """IMAGE `(B, H, W, C)` -> `(B, 3, H, W)` float32 on the CPU; an alpha channel is left out."""
    rgb = image[..., :3].movedim(-1, 1).float().cpu()
    return rgb if rgb.shape[1] == 3 else rgb[:, :1].expand(-1, 3, -1, -1)
