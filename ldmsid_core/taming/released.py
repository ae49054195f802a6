"""Names of the released checkpoints' tensors, translated to ours (LDM-ISP, arXiv 2312.01027).

Only key patterns are known here, no weights and no code of the released implementation.
"""

from __future__ import annotations

from .configs import UNetTamingConfig
from .sites import unet_sites

_TIMED = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "skip",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "out"}
_SFT = {
    "param_free_norm": "norm",
    "mlp_shared.0": "shared",
    "mlp_gamma": "gamma",
    "mlp_beta": "beta",
}
_RESIDUAL = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_out": "skip",
}
_FUSION_BLOCKS = {
    "pre_encode_L": "ll_in",
    "pre_encode_H": "detail_in",
    "encode_enc_1_L": "ll_joint",
    "encode_enc_1_H": "detail_joint",
}
_FUSION_AFFINE = {
    "encode_enc_2.SFT_scale_conv0": "scale.0",
    "encode_enc_2.SFT_scale_conv1": "scale.2",
    "encode_enc_2.SFT_shift_conv0": "shift.0",
    "encode_enc_2.SFT_shift_conv1": "shift.2",
}
ENCODER_PREFIX = "structcond_stage_model."
UNET_PREFIX = "model.diffusion_model."
Names = dict[str, str]


def _both(names: Names, theirs: str, ours: str) -> None:
    for part in ("weight", "bias"):
        names[f"{theirs}.{part}"] = f"{ours}.{part}"


def _table(names: Names, table: Names, theirs: str, ours: str) -> None:
    for old, new in table.items():
        _both(names, theirs + old, ours + new)


def sft_names(theirs: str = "", ours: str = "") -> Names:
    """Released key -> our key of one SFT layer."""
    names: Names = {}
    _table(names, _SFT, theirs, ours)
    return names


def attention_names(theirs: str = "", ours: str = "") -> Names:
    """Released key -> our key of one attention block of the structure encoder."""
    names: Names = {}
    _table(names, _ATTENTION, theirs, ours)
    return names


def fusion_names(theirs: str = "", ours: str = "") -> Names:
    """Released key -> our key of one decoder fusion; norms that a block lacks are listed too."""
    names: Names = {}
    for old, new in _FUSION_BLOCKS.items():
        _table(names, _RESIDUAL, f"{theirs}{old}.", f"{ours}{new}.")
    for old, new in _FUSION_AFFINE.items():
        _both(names, theirs + old, ours + new)
    return names


def encoder_names(config: UNetTamingConfig) -> Names:
    """Released key -> our key of the structure encoder, prefixes included."""
    encoder = config.encoder
    theirs, ours = ENCODER_PREFIX, "structure_encoder."
    names: Names = {}
    for index in (0, 2):
        _both(names, f"{theirs}time_embed.{index}", f"{ours}time.{index}")
    _both(names, f"{theirs}input_blocks.0.0", f"{ours}conv_in")
    number = 1
    for level in range(len(encoder.multipliers)):
        for block in range(encoder.blocks):
            block_path, our_level = f"{theirs}input_blocks.{number}.", f"{ours}levels.{level}."
            _table(names, _TIMED, f"{block_path}0.", f"{our_level}blocks.{block}.")
            _table(names, _ATTENTION, f"{block_path}1.", f"{our_level}attentions.{block}.")
            number += 1
        _both(names, f"{theirs}input_blocks.{number}.0.op", f"{ours}levels.{level}.down")
        number += 1
    _table(names, _TIMED, f"{theirs}middle_block.0.", f"{ours}middle_in.")
    _table(names, _ATTENTION, f"{theirs}middle_block.1.", f"{ours}middle_attention.")
    _table(names, _TIMED, f"{theirs}middle_block.2.", f"{ours}middle_out.")
    for level in range(len(encoder.multipliers)):
        _table(names, _TIMED, f"{theirs}fea_tran.{level}.", f"{ours}feature_heads.{level}.")
    return names


def unet_taming_names(config: UNetTamingConfig) -> Names:
    """Released key -> our key of a whole `UNetTaming`.

    Keys of parts that a configuration lacks (attention, skips) are listed as well: take those
    that the checkpoint holds.
    """
    names = encoder_names(config)
    for site in unet_sites(config.widths, config.blocks):
        theirs = f"{UNET_PREFIX}{site.original_path}.sft_layer."
        names.update(sft_names(theirs, f"unet_sft.{site.name}."))
    return names


def decoder_taming_names() -> Names:
    """Released key -> our key of a whole `DecoderTaming`."""
    names: Names = {}
    for level in (3, 2, 1):
        names.update(fusion_names(f"decoder.fusion_layer_{level}.", f"levels.{level}."))
    return names
