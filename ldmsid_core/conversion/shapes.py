"""The shape of released taming modules, read off their tensors.

Any widths of the released layout are taken: everything but the number of the structure encoder's
attention heads shows in the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..taming.configs import DecoderTamingConfig, StructureEncoderConfig, UNetTamingConfig
from ..taming.released import ENCODER_PREFIX, UNET_PREFIX

RELEASED_HEADS = 4
_LEVELS = 4


def _shape(state: Mapping[str, Tensor], key: str, source: str) -> tuple[int, ...]:
    """Of a convolution's weight or an attention's projection: at least two numbers."""
    if key not in state:
        raise CheckpointError(f"{source}: missing key {key}; the file is incomplete.")
    if state[key].ndim < 2:
        raise CheckpointError(
            f"{source}: expected {key} as a convolution's weight, found shape "
            f"{tuple(state[key].shape)}; the file is inconsistent."
        )
    return tuple(state[key].shape)


def _numbers(state: Mapping[str, Tensor], pattern: str) -> list[int]:
    return sorted({int(m[1]) for k in state if (m := re.match(pattern, k))})


def _runs(numbers: list[int]) -> list[list[int]]:
    """Consecutive numbers together: a gap is a change of level."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _encoder_config(state: Mapping[str, Tensor], heads: int, source: str) -> StructureEncoderConfig:
    start = f"{ENCODER_PREFIX}input_blocks."
    levels = _runs(_numbers(state, re.escape(start) + r"(\d+)\.0\.in_layers\.0\.weight"))
    first = _shape(state, f"{start}0.0.weight", source)
    widths = [_shape(state, f"{start}{run[0]}.0.out_layers.3.weight", source)[0] for run in levels]
    attended = tuple(
        level for level, run in enumerate(levels) if f"{start}{run[0]}.1.qkv.weight" in state
    )
    features = _shape(state, f"{ENCODER_PREFIX}fea_tran.0.out_layers.3.weight", source)[0]
    return StructureEncoderConfig(
        in_channels=first[1],
        width=first[0],
        multipliers=tuple(width // first[0] for width in widths),
        blocks=max(map(len, levels), default=0),
        attention_levels=attended,
        heads=heads,
        features=features,
    )


def unet_config(
    state: Mapping[str, Tensor], *, source: str, heads: int = RELEASED_HEADS
) -> UNetTamingConfig:
    """The shape of a structure encoder and SFT layers.

    Args:
        state: Tensors under released names.
        source: Names the file in the error.
        heads: Of the structure encoder's attention, which the tensors do not show.

    Raises:
        CheckpointError: If a tensor that shows the shape is missing.
    """
    start = f"{UNET_PREFIX}input_blocks."
    numbers = _numbers(state, re.escape(start) + r"(\d+)\.0\.sft_layer\.mlp_gamma\.weight")
    levels = _runs(numbers)
    if not levels:
        raise CheckpointError(
            f"Expected structure encoder and SFT layers in {source}, found none; give the released "
            "UNet file to --unet and the decoder file to --decoder."
        )
    site = f"{start}{{}}.0.sft_layer.mlp_gamma.weight"
    try:
        return UNetTamingConfig(
            encoder=_encoder_config(state, heads, source),
            widths=tuple(_shape(state, site.format(run[0]), source)[0] for run in levels),
            blocks=max(map(len, levels)),
            hidden=_shape(state, site.format(numbers[0]), source)[1],
            kind="released",
        )
    except ConfigError as error:
        raise CheckpointError(f"{source}: not the released layout: {error}") from error


def decoder_config(state: Mapping[str, Tensor], *, source: str) -> DecoderTamingConfig:
    """The shape of the three fusions.

    Raises:
        CheckpointError: If a tensor that shows the shape is missing.
    """
    start = "decoder.fusion_layer_"
    if not any(key.startswith(start) for key in state):
        raise CheckpointError(
            f"Expected decoder fusions in {source}, found none; give the released UNet file to "
            "--unet and the decoder file to --decoder."
        )
    widths = tuple(
        _shape(state, f"{start}{level}.encode_enc_2.SFT_scale_conv0.weight", source)[0]
        for level in (3, 2, 1)
    )
    low = _shape(state, f"{start}3.pre_encode_L.conv1.weight", source)
    high = _shape(state, f"{start}3.pre_encode_H.conv1.weight", source)
    try:
        return DecoderTamingConfig(widths=widths, ll_channels=low[1], detail_channels=high[1])
    except ConfigError as error:
        raise CheckpointError(f"{source}: not the released layout: {error}") from error


def decoder_base_keys(state: Mapping[str, Tensor]) -> set[str]:
    """Keys of a whole base decoder in the original layout, as many blocks as `state` shows."""
    blocks = 1 + max(_numbers(state, r"decoder\.up\.\d\.block\.(\d+)\."), default=2)
    residual = ("norm1", "conv1", "norm2", "conv2")
    modules = ["conv_in", "norm_out", "conv_out"]
    modules += [f"mid.attn_1.{part}" for part in ("norm", "q", "k", "v", "proj_out")]
    modules += [f"mid.block_{number}.{part}" for number in (1, 2) for part in residual]
    for level in range(_LEVELS):
        for block in range(blocks):
            path = f"up.{level}.block.{block}"
            modules += [f"{path}.{part}" for part in residual]
            if _changes_width(state, path):
                modules.append(f"{path}.nin_shortcut")
        if level > 0:
            modules.append(f"up.{level}.upsample.conv")
    paths = ["post_quant_conv", *(f"decoder.{module}" for module in modules)]
    return {f"{path}.{part}" for path in paths for part in ("weight", "bias")}


def _changes_width(state: Mapping[str, Tensor], path: str) -> bool:
    weight = state.get(f"decoder.{path}.conv1.weight")
    return weight is not None and weight.shape[0] != weight.shape[1]
