"""Tensor names of Stable Diffusion's original layout, translated to diffusers'."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

RESIDUAL_NAMES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_VAE_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
_BLOCK = re.compile(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(?:(\d+)\.)?(.+)")
_VAE_BLOCK = re.compile(
    r"(encoder|decoder)\.(down|up)\.(\d)\.(block\.(\d+)|(?:down|up)sample)\.(.+)"
)
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid\.(block_(\d)|attn_1)\.(.+)")


def _rename_start(key: str, table: Mapping[str, str]) -> str | None:
    for old, new in table.items():
        if key.startswith(old + "."):
            return new + key[len(old) :]
    return None


def _unet_block(area: str, number: int, part: int, rest: str, blocks: int) -> str:
    """Path in diffusers of one submodule of a numbered block."""
    if area == "middle_block":
        if number == 1:
            return f"mid_block.attentions.0.{rest}"
        return f"mid_block.resnets.{number // 2}.{_rename_start(rest, RESIDUAL_NAMES)}"
    down = area == "input_blocks"
    level, block = divmod(number - 1, blocks + 1) if down else divmod(number, blocks + 1)
    side = f"{'down' if down else 'up'}_blocks.{level}"
    if rest.startswith("op."):
        return f"{side}.downsamplers.0.conv.{rest[3:]}"
    if rest.startswith("conv."):
        return f"{side}.upsamplers.0.conv.{rest[5:]}"
    residual = _rename_start(rest, RESIDUAL_NAMES)
    if part == 0 and residual:
        return f"{side}.resnets.{block}.{residual}"
    return f"{side}.attentions.{block}.{rest}"


def unet_names(keys: Iterable[str], *, blocks: int) -> dict[str, str]:
    """Original key -> diffusers key of a UNet.

    Args:
        keys: Without prefix, such as `input_blocks.1.0.in_layers.0.weight`.
        blocks: Residual blocks of a down level.
    """
    names = {}
    for key in keys:
        end = _rename_start(key, _UNET_ENDS)
        if end is not None:
            names[key] = end
            continue
        match = _BLOCK.fullmatch(key)
        if match is None:
            continue
        area, number, part, rest = match.groups()
        names[key] = _unet_block(area, int(number), int(part or 0), rest, blocks)
    return names


def vae_names(keys: Iterable[str]) -> dict[str, str]:
    """Original key -> diffusers key of a VAE with four levels."""
    names = {}
    for key in keys:
        middle, block = _VAE_MIDDLE.fullmatch(key), _VAE_BLOCK.fullmatch(key)
        if middle is not None:
            side, _, number, rest = middle.groups()
            if number is None:
                renamed = _rename_start(rest, _VAE_ATTENTION)
                names[key] = f"{side}.mid_block.attentions.0.{renamed}"
            else:
                names[key] = f"{side}.mid_block.resnets.{int(number) - 1}.{rest}"
        elif block is not None:
            side, way, level, _, index, rest = block.groups()
            place = int(level) if way == "down" else 3 - int(level)
            inner = f"resnets.{index}" if index is not None else f"{way}samplers.0"
            rest = rest.replace("nin_shortcut", "conv_shortcut")
            names[key] = f"{side}.{way}_blocks.{place}.{inner}.{rest}"
        else:
            names[key] = key.replace("norm_out", "conv_norm_out")
    return names


def to_diffusers(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under diffusers' names; 1x1 attention convolutions become linear weights."""
    renamed = {}
    for key, name in names.items():
        tensor = state[key]
        is_linear = ".attentions." in name and name.startswith(("encoder.", "decoder."))
        if is_linear and tensor.ndim == 4:
            tensor = tensor[:, :, 0, 0]
        renamed[name] = tensor
    return renamed
