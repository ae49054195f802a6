"""Writes a small checkpoint that ComfyUI itself takes for Stable Diffusion 2.1.

Usage: make_standin.py HOST FILE. Built from the host's own classes with random weights: the widths
that its detection looks at are Stable Diffusion 2's, everything else is as small as may be.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# Also what the test's taming file is made for.
WIDTHS = (320, 320, 320, 320)
CONTEXT = 1024


def random_like(name: str, tensor: Any) -> Any:
    """Weights of the kind that a name tells; the host's own classes leave them unset."""
    import torch

    if name.endswith("bias"):
        return torch.zeros_like(tensor)
    return torch.ones_like(tensor) if tensor.ndim == 1 else 0.02 * torch.randn(tensor.shape)


def main() -> None:
    """Build and save."""
    host, target = sys.argv[1:]
    sys.path.insert(0, host)
    sys.path.insert(0, str(Path(__file__).parent))
    from runner import start_host

    start_host(host, str(Path(target).parent))
    import torch
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from safetensors.torch import save_file

    torch.manual_seed(0)
    unet = UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=WIDTHS[0],
        channel_mult=(1, 1, 1, 1), num_res_blocks=[1] * 4, transformer_depth=[0, 0, 1, 0],
        transformer_depth_output=[0, 0, 0, 0, 1, 1, 0, 0], transformer_depth_middle=1,
        num_head_channels=64, num_heads=-1, context_dim=CONTEXT, use_spatial_transformer=True,
        use_linear_in_transformer=True, legacy=False,
    )  # fmt: skip
    # The host finds a VAE's shape out from its weights only where it is Stable Diffusion's own.
    vae = AutoencoderKL(
        ddconfig={
            "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3,
            "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [],
            "dropout": 0.0,
        },
        embed_dim=4,
    )  # fmt: skip
    parts = {"model.diffusion_model.": unet, "first_stage_model.": vae}
    state = {
        f"{prefix}{name}": random_like(name, tensor)
        for prefix, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    save_file({k: v.half().contiguous() for k, v in state.items()}, target)


if __name__ == "__main__":
    main()
