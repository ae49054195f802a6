"""Checkpoints in the original and the released layout with random weights, any widths.

Names come from the project's own tables, shapes from diffusers' modules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

import ldmsid_core.hosts
from ldmsid_core.conversion.shapes import decoder_base_keys
from ldmsid_core.hosts.layout import RESIDUAL_NAMES, unet_names, vae_names
from ldmsid_core.taming.configs import (
    DecoderTamingConfig,
    StructureEncoderConfig,
    UNetTamingConfig,
)
from ldmsid_core.taming.fusion import DecoderTaming
from ldmsid_core.taming.released import decoder_taming_names, unet_taming_names
from ldmsid_core.taming.unet_taming import UNetTaming

State = dict[str, Tensor]
_CONFIGS = Path(ldmsid_core.hosts.__file__).parent / "configs" / "sd2"
_CONTEXT, _VOCABULARY, _LEVELS = 77, 49408, 4


@dataclass(frozen=True)
class Size:
    """Widths of a synthetic checkpoint; the defaults are Stable Diffusion 2.1's and LDM-ISP's."""

    unet: tuple[int, ...] = (320, 640, 1280, 1280)
    vae: tuple[int, ...] = (128, 256, 512, 512)
    prompt: int = 1024
    text_layers: int = 24
    encoder: int = 256
    hidden: int = 128


SMALL = Size((64, 128, 128, 128), (32, 64, 64, 64), 128, 3, 32, 32)


def build_unet(size: Size) -> UNet2DConditionModel:
    """Diffusers' UNet on the meta device."""
    config = json.loads((_CONFIGS / "unet" / "config.json").read_text())
    config["block_out_channels"] = list(size.unet)
    config["cross_attention_dim"] = size.prompt
    config["attention_head_dim"] = [width // 64 for width in size.unet]
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def build_vae(size: Size) -> AutoencoderKL:
    """Diffusers' VAE on the meta device."""
    config = json.loads((_CONFIGS / "vae" / "config.json").read_text())
    config["block_out_channels"] = list(size.vae)
    with torch.device("meta"):
        return AutoencoderKL.from_config(config)


def build_unet_taming(size: Size) -> UNetTaming:
    """UNet taming on the meta device."""
    encoder = StructureEncoderConfig(width=size.encoder, features=size.encoder)
    config = UNetTamingConfig(encoder=encoder, widths=size.unet, hidden=size.hidden)
    with torch.device("meta"):
        return UNetTaming(config)


def build_decoder_taming(size: Size) -> DecoderTaming:
    """Decoder taming on the meta device."""
    with torch.device("meta"):
        return DecoderTaming(DecoderTamingConfig(widths=(size.vae[3], size.vae[3], size.vae[2])))


def randomise(shape: torch.Size) -> Tensor:
    """Weights of a size that keeps activations finite."""
    return torch.empty(shape).normal_(std=0.02)


def fill(module: nn.Module) -> nn.Module:
    """Random weights in place of the meta device's, frozen."""
    state = {name: randomise(tensor.shape) for name, tensor in module.state_dict().items()}
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def _both(paths: Iterator[str]) -> Iterator[str]:
    for path in paths:
        yield from (f"{path}.weight", f"{path}.bias")


def _unet_paths(blocks: int) -> Iterator[str]:
    """Modules of a UNet but its attention, in the original layout; too many skip connections."""
    yield from ("time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2")
    for place in ("middle_block.0", "middle_block.2"):
        yield from (f"{place}.{part}" for part in RESIDUAL_NAMES)
    for number in range(1, _LEVELS * (blocks + 1)):
        if number % (blocks + 1):
            yield from (f"input_blocks.{number}.0.{part}" for part in RESIDUAL_NAMES)
        else:
            yield f"input_blocks.{number}.0.op"
    for number in range(_LEVELS * (blocks + 1)):
        yield from (f"output_blocks.{number}.0.{part}" for part in RESIDUAL_NAMES)
        if number % (blocks + 1) == blocks and number // (blocks + 1) < _LEVELS - 1:
            # After the residual block, and after attention where the level has it.
            yield f"output_blocks.{number}.{1 if number == blocks else 2}.conv"


def _unet_keys(own: State, blocks: int) -> Iterator[str]:
    start = "mid_block.attentions.0."
    attention = [name.removeprefix(start) for name in own if name.startswith(start)]
    places = ["middle_block.1"]
    places += [f"{side}_blocks.{n}.1" for side in ("input", "output") for n in range(12)]
    yield from (f"{place}.{part}" for place in places for part in attention)
    yield from _both(_unet_paths(blocks))


def _original_unet(size: Size) -> State:
    own = build_unet(size).state_dict()
    names = unet_names(_unet_keys(own, blocks=2), blocks=2)
    found = {key: name for key, name in names.items() if name in own}
    assert sorted(found.values()) == sorted(own)
    return {key: randomise(own[name].shape) for key, name in found.items()}


def _vae_paths() -> Iterator[str]:
    """Modules of a VAE's encoder in the original layout; too many skip connections."""
    residual = ("norm1", "conv1", "norm2", "conv2", "nin_shortcut")
    yield from ("quant_conv", "encoder.conv_in", "encoder.norm_out", "encoder.conv_out")
    yield from (f"encoder.mid.attn_1.{part}" for part in ("norm", "q", "k", "v", "proj_out"))
    yield from (f"encoder.mid.block_{n}.{part}" for n in (1, 2) for part in residual[:4])
    for level in range(_LEVELS):
        for block in range(2):
            yield from (f"encoder.down.{level}.block.{block}.{part}" for part in residual)
        yield f"encoder.down.{level}.downsample.conv"


def _shapes(names: dict[str, str], own: State) -> dict[str, torch.Size]:
    """Shapes in the original layout, where the middle attention is made of 1x1 convolutions."""
    shapes = {key: own[name].shape for key, name in names.items() if name in own}
    is_linear = {key: ".attn_1." in key and len(shape) == 2 for key, shape in shapes.items()}
    return {k: torch.Size((*s, 1, 1)) if is_linear[k] else s for k, s in shapes.items()}


def _original_vae(size: Size) -> State:
    own = build_vae(size).state_dict()
    # Which blocks change their width, `decoder_base_keys` reads off the shapes.
    every = [
        f"decoder.up.{level}.block.{block}.conv1.weight"
        for level in range(_LEVELS) for block in range(3)
    ]  # fmt: skip
    shown = {key: own[name] for key, name in vae_names(every).items()}
    names = vae_names([*decoder_base_keys(shown), *_both(_vae_paths())])
    shapes = _shapes(names, own)
    assert len(shapes) == len(own)
    return {key: randomise(shape) for key, shape in shapes.items()}


def _text_encoder(size: Size) -> State:
    """OpenCLIP's, all its layers."""
    width = size.prompt
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (_CONTEXT, width), "text_projection": (width, width),
        "logit_scale": (), "token_embedding.weight": (_VOCABULARY, width),
        "ln_final.weight": (width,), "ln_final.bias": (width,),
    }  # fmt: skip
    for number in range(size.text_layers):
        layer = f"transformer.resblocks.{number}."
        for norm in ("ln_1", "ln_2"):
            shapes.update({f"{layer}{norm}.{part}": (width,) for part in ("weight", "bias")})
        shapes[f"{layer}attn.in_proj_weight"] = (3 * width, width)
        shapes[f"{layer}attn.in_proj_bias"] = (3 * width,)
        for name, inner, outer in (
            ("attn.out_proj", width, width), ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):  # fmt: skip
            shapes[f"{layer}{name}.weight"] = (outer, inner)
            shapes[f"{layer}{name}.bias"] = (outer,)
    return {f"cond_stage_model.model.{k}": randomise(torch.Size(s)) for k, s in shapes.items()}


def _released(names: dict[str, str], module: nn.Module) -> State:
    own = module.state_dict()
    return {theirs: randomise(own[ours].shape) for theirs, ours in names.items() if ours in own}


def write_released(folder: Path, size: Size) -> tuple[Path, Path]:
    """The two released files, float32: UNet with all of its host, decoder with its base."""
    torch.manual_seed(0)
    unet, decoder = folder / "unet.ckpt", folder / "decoder.ckpt"
    taming = build_unet_taming(size)
    vae = _original_vae(size)
    state = {f"model.diffusion_model.{k}": v for k, v in _original_unet(size).items()}
    state |= {f"first_stage_model.{k}": v for k, v in vae.items()} | _text_encoder(size)
    state |= _released(unet_taming_names(taming.config), taming)
    extra: dict[str, Any] = {"epoch": 100, "global_step": 0}
    torch.save({**extra, "state_dict": state}, unet)
    del state
    fusions = _released(decoder_taming_names(), build_decoder_taming(size))
    torch.save({"state_dict": {**vae, **fusions}}, decoder)
    return unet, decoder
