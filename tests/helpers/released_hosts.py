"""Hosts and taming modules for released-layout weights of any size, built from their configs."""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from ldmsid_core.hosts.layout import to_diffusers, unet_names, vae_names
from ldmsid_core.taming import released
from ldmsid_core.taming.blocks import as_shape
from ldmsid_core.taming.configs import (
    DecoderTamingConfig,
    StructureEncoderConfig,
    UNetTamingConfig,
)
from ldmsid_core.taming.fusion import DecoderTaming
from ldmsid_core.taming.unet_taming import UNetTaming

State = dict[str, Tensor]


def load_renamed(module: nn.Module, state: State, names: dict[str, str]) -> None:
    """Load the tensors that `names` lists and the state holds, strictly, without copies."""
    wanted = module.state_dict()
    ready = {
        ours: as_shape(state[theirs], tuple(wanted[ours].shape))
        for theirs, ours in names.items()
        if theirs in state
    }
    module.load_state_dict(ready, assign=True)
    module.requires_grad_(False).eval()


def encoder_config(config: dict[str, Any]) -> StructureEncoderConfig:
    """Ours for the released constructor's arguments."""
    factors = [2**i for i in range(len(config["channel_mult"]))]
    return StructureEncoderConfig(
        in_channels=config["in_channels"],
        width=config["model_channels"],
        multipliers=tuple(config["channel_mult"]),
        blocks=config["num_res_blocks"],
        attention_levels=tuple(
            i for i, f in enumerate(factors) if f in config["attention_resolutions"]
        ),
        heads=max(0, config["num_heads"]) if config["num_head_channels"] == -1 else 0,
        head_width=max(0, config["num_head_channels"]),
        features=config["out_channels"],
    )


def taming_config(encoder: dict[str, Any], unet: dict[str, Any], state: State) -> UNetTamingConfig:
    """Ours for the released constructors' arguments; the SFT width is read off the weights."""
    hidden = next(v.shape[0] for k, v in state.items() if k.endswith("sft_layer.mlp_shared.0.bias"))
    return UNetTamingConfig(
        encoder=encoder_config(encoder),
        widths=tuple(unet["model_channels"] * m for m in unet["channel_mult"]),
        blocks=unet["num_res_blocks"],
        hidden=hidden,
        kind="released",
    )


def build_taming(config: UNetTamingConfig, state: State) -> UNetTaming:
    """UNet taming with released weights."""
    with torch.device("meta"):
        taming = UNetTaming(config)
    load_renamed(taming, state, released.unet_taming_names(config))
    return taming


def build_unet(config: dict[str, Any], state: State) -> UNet2DConditionModel:
    """The frozen diffusers UNet of released weights."""
    multipliers, blocks = config["channel_mult"], config["num_res_blocks"]
    widths = tuple(config["model_channels"] * m for m in multipliers)
    attends = [2**i in config["attention_resolutions"] for i in range(len(multipliers))]
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            in_channels=config["in_channels"],
            out_channels=config["out_channels"],
            block_out_channels=widths,
            layers_per_block=blocks,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple(
                "CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)
            ),
            attention_head_dim=tuple(w // config["num_head_channels"] for w in widths),
            cross_attention_dim=config["context_dim"],
            use_linear_projection=config["use_linear_in_transformer"],
        )
    prefix = released.UNET_PREFIX
    bare = {
        key[len(prefix) :]: value
        for key, value in state.items()
        if key.startswith(prefix) and ".sft_layer." not in key
    }
    unet.load_state_dict(to_diffusers(bare, unet_names(bare, blocks=blocks)), assign=True)
    return unet.requires_grad_(False).eval()


def build_decoder(state: State) -> tuple[AutoencoderKL, DecoderTaming]:
    """The frozen diffusers VAE (encoder left empty) and decoder taming of released weights."""
    blocks = 1 + max(
        int(m.group(1)) for k in state if (m := re.match(r"decoder\.up\.0\.block\.(\d+)", k))
    )
    levels = [state[f"decoder.up.{i}.block.0.conv1.bias"].shape[0] for i in range(4)]
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=tuple(levels),
            layers_per_block=blocks - 1,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=state["post_quant_conv.weight"].shape[0],
        )
        widths = tuple(
            state[f"decoder.fusion_layer_{i}.encode_enc_2.SFT_scale_conv0.bias"].shape[0]
            for i in (3, 2, 1)
        )
        taming = DecoderTaming(DecoderTamingConfig(widths=widths))
    base = {
        k: v
        for k, v in state.items()
        if k.startswith(("decoder.", "post_quant_conv.")) and ".fusion_layer_" not in k
    }
    missing = vae.load_state_dict(to_diffusers(base, vae_names(base)), strict=False, assign=True)
    assert not missing.unexpected_keys
    assert all(k.startswith(("encoder.", "quant_conv.")) for k in missing.missing_keys)
    load_renamed(taming, state, released.decoder_taming_names())
    return vae.requires_grad_(False).eval(), taming
