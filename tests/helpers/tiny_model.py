"""A host and taming modules with random weights: small, quick, of the real classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ldmsid_core.hosts.host import Host, HostHeader, load_host, save_host
from ldmsid_core.model_files import ModelFiles
from ldmsid_core.taming.checkpoint import (
    Taming,
    load_taming,
    save_taming,
    taming_state,
)
from ldmsid_core.taming.configs import (
    DecoderTamingConfig,
    StructureEncoderConfig,
    UNetTamingConfig,
)
from ldmsid_core.taming.fusion import DecoderTaming
from ldmsid_core.taming.header import InputRecipe, TamingHeader
from ldmsid_core.taming.unet_taming import UNetTaming

UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "attention_head_dim": (1, 1, 2, 2),
    "cross_attention_dim": 16,
    "use_linear_projection": True,
}
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (32, 32, 32, 32),
    "layers_per_block": 1,
    "latent_channels": 4,
}
TAMING = UNetTamingConfig(
    encoder=StructureEncoderConfig(
        width=32, multipliers=(1, 1, 1, 1), blocks=1, attention_levels=(2,), heads=4, features=32
    ),
    widths=(32, 32, 64, 64),
    blocks=2,
    hidden=8,
    kind="released",
)
DECODER = DecoderTamingConfig(widths=(32, 32, 32))
HEADER = HostHeader("test", 0.5, "epsilon", UNET, VAE, {}, "none")
TAMING_HEADER = TamingHeader(
    host_family="test",
    cross_attention_width=16,
    latent_scale=0.5,
    input_recipe=InputRecipe(white_balance="as shot"),
    unet=TAMING,
    decoder=DECODER,
)


def build_modules(
    seed: int = 0,
) -> tuple[UNet2DConditionModel, AutoencoderKL, UNetTaming, DecoderTaming]:
    """Random modules; the global generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet, vae = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)
        taming, decoder = UNetTaming(TAMING), DecoderTaming(DECODER)
    for module in (unet, vae, taming, decoder):
        module.requires_grad_(False).eval()
    return unet, vae, taming, decoder


def write_model(folder: Path, **header_changes: Any) -> ModelFiles:
    """Both files of a random model; header changes make a taming that does not fit."""
    unet, vae, taming, decoder = build_modules()
    files = ModelFiles(folder / "host.safetensors", folder / "taming.safetensors")
    save_host(files.host, HEADER, unet, vae, dtype=torch.float32, overwrite=True)
    header = replace(TAMING_HEADER, **header_changes)
    halves = (
        taming if header.unet is not None else None,
        decoder if header.decoder is not None else None,
    )
    state = taming_state(*halves, torch.zeros(77, header.cross_attention_width))
    save_taming(files.taming, header, state, dtype=torch.float32, overwrite=True)
    return files


def load_model(folder: Path) -> tuple[Host, Taming]:
    """A random model, written and loaded."""
    files = write_model(folder)
    return load_host(files.host), load_taming(files.taming)
