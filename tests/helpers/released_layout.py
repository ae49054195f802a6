"""Synthetic checkpoints in the released layout, and the same base weights as Stable Diffusion.

Real diffusers classes with small configurations and seeded weights; names are turned into the
original layout by rules of their own, so that diffusers' reader and ours are both checked.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ldmsid_core.taming.configs import (
    DecoderTamingConfig,
    StructureEncoderConfig,
    UNetTamingConfig,
)
from ldmsid_core.taming.fusion import DecoderTaming
from ldmsid_core.taming.released import decoder_taming_names, unet_taming_names
from ldmsid_core.taming.unet_taming import UNetTaming

State = dict[str, Tensor]
VOCABULARY, TOKENS = 49408, 77
TELLING_BIAS = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
_BLOCKS = 2
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


@dataclass(frozen=True)
class Layout:
    """Shape of a small Stable Diffusion and its taming.

    Attributes:
        context: Width of a prompt token, and of the text encoder.
        is_second: Built like 2.x: linear projections, 64 channels a head; else like 1.x.
        widths: Of the UNet's levels.
        text_layers: Of an OpenCLIP text encoder; 0 leaves it out.
        prediction: `epsilon` or `v_prediction`.
    """

    context: int = 64
    is_second: bool = True
    widths: tuple[int, ...] = (64, 64, 128, 128)
    text_layers: int = 3
    prediction: str = "epsilon"


@dataclass(frozen=True)
class Weights:
    """All networks of a layout; `text` has OpenCLIP's names, without prefix."""

    layout: Layout
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    taming: UNetTaming
    decoder: DecoderTaming
    text: State


def _text_state(width: int, layers: int) -> State:
    state = {
        "token_embedding.weight": torch.randn(VOCABULARY, width) * 0.02,
        "positional_embedding": torch.randn(TOKENS, width) * 0.01,
        "text_projection": torch.randn(width, width) * 0.02,
        "logit_scale": torch.tensor(4.6),
    }

    def add(name: str, module: nn.Module) -> None:
        state.update({f"{name}.{k}": v.detach() for k, v in module.state_dict().items()})

    for number in range(layers):
        block = f"transformer.resblocks.{number}"
        attention = nn.MultiheadAttention(width, 1)
        nn.init.normal_(attention.in_proj_bias, std=0.1)
        add(f"{block}.attn", attention)
        add(f"{block}.mlp.c_fc", nn.Linear(width, 4 * width))
        add(f"{block}.mlp.c_proj", nn.Linear(4 * width, width))
        for name in ("ln_1", "ln_2"):
            add(f"{block}.{name}", _uneven(nn.LayerNorm(width)))
    add("ln_final", _uneven(nn.LayerNorm(width)))
    return state


def _uneven(module: nn.Module) -> nn.Module:
    """Norms and biases away from 1 and 0, so that a swapped one shows."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.1, 0.1)
                parameter.add_(1.0 if name.endswith("weight") else 0.0)
    return module.requires_grad_(False).eval()


def _unet(layout: Layout) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=layout.widths,
        layers_per_block=_BLOCKS,
        cross_attention_dim=layout.context,
        attention_head_dim=[w // 64 for w in layout.widths] if layout.is_second else 8,
        use_linear_projection=layout.is_second,
        sample_size=64,
    )


def build_vae() -> AutoencoderKL:
    """A small VAE; draws from the global generator."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        sample_size=512,
    )
    return _uneven(vae)  # type: ignore[return-value]


def build_weights(layout: Layout = Layout(), *, seed: int = 0) -> Weights:
    """Networks with seeded weights; the global generator is restored."""
    config = UNetTamingConfig(
        encoder=StructureEncoderConfig(
            width=32, multipliers=(1, 1, 2, 2), blocks=2, attention_levels=(0, 1, 2), features=32
        ),
        widths=layout.widths,
        blocks=_BLOCKS,
        hidden=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet, vae = _uneven(_unet(layout)), build_vae()
        taming = _uneven(UNetTaming(config))
        decoder = _uneven(DecoderTaming(DecoderTamingConfig(widths=(64, 64, 64))))
        text = _text_state(layout.context, layout.text_layers) if layout.text_layers else {}
    if layout.prediction == "v_prediction":
        unet.get_parameter(TELLING_BIAS).mul_(3.0)  # uniform +-0.1: 0.058; now 0.17
    return Weights(layout, unet, vae, taming, decoder, text)  # type: ignore[arg-type]


def _start(name: str, table: dict[str, str]) -> str:
    old = next(old for old in table if name.startswith(old + "."))
    return table[old] + name[len(old) :]


def original_unet(unet: nn.Module) -> State:
    """A UNet's tensors under the original names, without prefix."""
    state: State = {}
    for name, tensor in unet.state_dict().items():
        match = re.fullmatch(r"(down|up|mid)_block(?:s\.(\d))?\.(\w+)\.(\d)\.(.+)", name)
        if match is None:
            state[_start(name, _ENDS)] = tensor
            continue
        side, level, kind, index, rest = match.groups()
        rest = _start(rest, _RESIDUAL) if kind == "resnets" else rest
        if side == "mid":
            place = f"middle_block.{2 * int(index) if kind == 'resnets' else 1}"
        elif side == "down":
            first = int(level) * (_BLOCKS + 1) + 1
            number = first + (_BLOCKS if kind == "downsamplers" else int(index))
            rest = rest.replace("conv.", "op.") if kind == "downsamplers" else rest
            place = f"input_blocks.{number}.{int(kind == 'attentions')}"
        else:
            number = int(level) * (_BLOCKS + 1) + int(index)
            part = {"resnets": 0, "attentions": 1, "upsamplers": 1 if level == "0" else 2}[kind]
            number += _BLOCKS if kind == "upsamplers" else 0
            place = f"output_blocks.{number}.{part}"
        state[f"{place}.{rest}"] = tensor
    return state


def original_vae(vae: nn.Module) -> State:
    """A VAE's tensors under the original names, without prefix."""
    state: State = {}
    for name, tensor in vae.state_dict().items():
        key = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
        key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
        key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", key)
        key = re.sub(
            r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", key
        )
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
        if "mid_block.attentions.0." in key:
            before, after = key.split("mid_block.attentions.0.")
            key = f"{before}mid.attn_1.{_start(after, _ATTENTION)}"
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        state[key] = tensor
    return state


def host_state(weights: Weights) -> State:
    """A whole Stable Diffusion in the original layout."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    state = {"betas": betas, "alphas_cumprod": (1.0 - betas).cumprod(0)}
    parts = {
        "model.diffusion_model.": original_unet(weights.unet),
        "first_stage_model.": original_vae(weights.vae),
        "cond_stage_model.model.": weights.text,
    }
    for prefix, part in parts.items():
        state.update({f"{prefix}{key}": tensor for key, tensor in part.items()})
    return {key: tensor.contiguous() for key, tensor in state.items()}


def released_unet_state(weights: Weights) -> State:
    """The released UNet file: a whole Stable Diffusion, SFT layers and structure encoder."""
    names, own = unet_taming_names(weights.taming.config), weights.taming.state_dict()
    taming = {theirs: own[ours] for theirs, ours in names.items() if ours in own}
    return {**host_state(weights), "scale_factor": torch.tensor(0.18215), **taming}


def released_decoder_state(weights: Weights, vae: nn.Module | None = None) -> State:
    """The released decoder file: a whole VAE, fusions, and a discriminator's tensor.

    Args:
        weights: Of the fusions.
        vae: Base weights; None takes those of `weights`.
    """
    own = weights.decoder.state_dict()
    fusions = {theirs: own[ours] for theirs, ours in decoder_taming_names().items() if ours in own}
    base = original_vae(weights.vae if vae is None else vae)
    return {**base, **fusions, "loss.logvar": torch.zeros(())}


@contextmanager
def _module_with_class(path: str) -> Iterator[type]:
    """A class that pickle names by `path`, as long as the block runs."""
    parts = path.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts) - 1)]
    kind = type(parts[-1], (), {"__module__": names[-1]})
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update({name: ModuleType(name) for name in names})
    setattr(sys.modules[names[-1]], parts[-1], kind)
    try:
        yield kind
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def save_lightning(path: Path, state: State, **beside: Any) -> Path:
    """A checkpoint as Lightning 1.4 writes it: callback classes are keys."""
    with _module_with_class("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint") as kind:
        content = {
            "epoch": 100,
            "global_step": 12345,
            "pytorch-lightning_version": "1.4.2",
            "callbacks": {kind: {"monitor": "val/loss", "best_model_score": torch.tensor(0.1)}},
            "state_dict": state,
            **beside,
        }
        torch.save(content, path)
    return path


def save_single(path: Path, state: State) -> Path:
    """One safetensors file without a header of ours."""
    save_file({key: tensor.clone() for key, tensor in state.items()}, str(path))
    return path


def save_folder(path: Path, weights: Weights, *, variant: str | None = None) -> Path:
    """A diffusers folder without a text encoder."""
    kinds = {"unet": weights.unet, "vae": weights.vae}
    for part, module in kinds.items():
        module.save_pretrained(path / part, variant=variant)
    PNDMScheduler(prediction_type=weights.layout.prediction).save_pretrained(path / "scheduler")
    return path


def state_without(path: Path, key: str) -> State:
    """The tensors of a weight file but one."""
    return {name: tensor for name, tensor in load_file(str(path)).items() if name != key}
