"""The embedded small Stable Diffusion, built from ComfyUI's own classes.

So every native sampler, LoRA, preview and offloading works on it as on any other model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.diffusers_convert
import comfy.latent_formats
import comfy.model_base
import comfy.model_management as mm
import comfy.sd
import comfy.supported_models
import comfy.utils
from torch import Tensor

from ..ldmsid_core.errors import CheckpointError
from ..ldmsid_core.safetensors_file import read_safetensors
from .host_check import MODEL_TYPES
from .taming_model import as_patcher

_UNET, _VAE = "unet.", "vae."
_HEADER = "ldmsid_host"


class EmbeddedLatentFormat(comfy.latent_formats.LatentFormat):
    """Scale and preview colours of the embedded model's latents."""

    def __init__(self, scale: float, latent_rgb: list[list[float]] | None) -> None:
        """Build.

        Args:
            scale: Latent as the UNet sees it over latent as the VAE gives it.
            latent_rgb: Four rows of RGB and a row of biases, model range.
        """
        self.scale_factor = scale
        if latent_rgb is not None:
            self.latent_rgb_factors = latent_rgb[:4]
            self.latent_rgb_factors_bias = latent_rgb[4]


def _unet_config(arguments: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's UNet configuration of diffusers' constructor arguments."""
    widths = arguments["block_out_channels"]
    blocks = arguments["layers_per_block"]
    down = [int("CrossAttn" in kind) for kind in arguments["down_block_types"]]
    up = [int("CrossAttn" in kind) for kind in arguments["up_block_types"]]
    return {
        "image_size": 32,
        "in_channels": arguments["in_channels"],
        "out_channels": arguments["out_channels"],
        "model_channels": widths[0],
        "channel_mult": tuple(width // widths[0] for width in widths),
        "num_res_blocks": [blocks] * len(widths),
        "transformer_depth": [depth for depth in down for _ in range(blocks)],
        # The host takes these from the end of the list.
        "transformer_depth_output": [d for d in reversed(up) for _ in range(blocks + 1)],
        "transformer_depth_middle": 1,
        "num_head_channels": widths[0] // arguments["attention_head_dim"][0],
        "num_heads": -1,
        "context_dim": arguments["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": True,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "legacy": False,
    }


def _vae_config(arguments: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's VAE configuration of diffusers' constructor arguments."""
    widths = arguments["block_out_channels"]
    return {
        "params": {
            "ddconfig": {
                "double_z": True,
                "z_channels": arguments["latent_channels"],
                "resolution": 256,
                "in_channels": arguments["in_channels"],
                "out_ch": arguments["out_channels"],
                "ch": widths[0],
                "ch_mult": [width // widths[0] for width in widths],
                "num_res_blocks": arguments["layers_per_block"],
                "attn_resolutions": [],
                "dropout": 0.0,
            },
            "embed_dim": arguments["latent_channels"],
        }
    }


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def _build_model(header: dict[str, Any], state: dict[str, Tensor]) -> Any:
    """A MODEL with the weights of the UNet."""
    wanted = _unet_config(header["unet"])
    config = comfy.supported_models.SD20(dict(wanted))
    config.unet_config.update(wanted)  # the class puts Stable Diffusion 2's own head width in
    config.latent_format = EmbeddedLatentFormat(header["latent_scale"], header.get("latent_rgb"))
    device = mm.get_torch_device()
    dtype = mm.unet_dtype(
        model_params=sum(tensor.numel() for tensor in state.values()),
        supported_dtypes=config.supported_inference_dtypes,
    )
    cast = mm.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, cast)
    model = comfy.model_base.BaseModel(
        config,
        model_type=MODEL_TYPES[header["prediction_type"]],
        device=mm.unet_offload_device(),
    )
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    renamed = {names[key]: state[key].to(dtype) for key in names if key in state}
    model.diffusion_model.load_state_dict(renamed, assign=True)
    model.diffusion_model.eval().requires_grad_(False)
    return as_patcher(model)


def load_embedded_host(path: Path) -> tuple[Any, Any]:
    """MODEL and VAE of the embedded host file.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    state, metadata = read_safetensors(path, dtype=None)
    if _HEADER not in metadata:
        raise CheckpointError(f"Expected the embedded host, but {path} is another file; reinstall.")
    header = json.loads(metadata[_HEADER])
    vae_state = comfy.diffusers_convert.convert_vae_state_dict(_part(state, _VAE))
    vae = comfy.sd.VAE(sd=vae_state, config=_vae_config(header["vae"]))
    return _build_model(header, _part(state, _UNET)), vae
