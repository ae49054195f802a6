"""The two released checkpoints, opened, checked key by key and sorted into their parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..finite import is_finite
from ..hosts.layout import unet_names
from ..pickled_file import PICKLED_ENDINGS, check_plain, read_pickled
from ..taming.blocks import as_shape
from ..taming.configs import DecoderTamingConfig, UNetTamingConfig
from ..taming.fusion import DecoderTaming
from ..taming.header import TamingHeader
from ..taming.released import ENCODER_PREFIX, UNET_PREFIX, decoder_taming_names, unet_taming_names
from ..taming.unet_taming import UNetTaming
from ..weight_file import read_weights
from .shapes import decoder_base_keys, decoder_config, unet_config

State = dict[str, Tensor]
# What our own exports carry beside `state_dict`.
HEADER_KEY, PROMPT_KEY = "ldmsid", "prompt_embedding"
_SFT = ".sft_layer."
_FUSION = "decoder.fusion_layer_"
# Parts that a released file carries and a taming file does not need.
_UNET_REST = ("first_stage_model.", "cond_stage_model.", "model_ema.")
_DECODER_REST = ("encoder.", "quant_conv.", "loss.", "model_ema.")
_BUFFERS = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2", "scale_factor", "ori_timesteps", "logvar",
)  # fmt: skip


@dataclass(frozen=True)
class ReleasedUNet:
    """The released UNet file.

    Attributes:
        config: Shape of the taming modules.
        taming: Their tensors under our names.
        base: The UNet's own tensors in the original layout, without prefix; may be empty.
        rest: Everything else: text encoder, VAE.
        header: Of the taming file that this was exported from; None in released files.
        prompt_embedding: From there as well.
    """

    config: UNetTamingConfig
    taming: State
    base: State
    rest: State
    header: TamingHeader | None = None
    prompt_embedding: Tensor | None = None


@dataclass(frozen=True)
class ReleasedDecoder:
    """The released decoder file.

    Attributes:
        config: Shape of the three fusions.
        taming: Their tensors under our names, as a taming file has them.
        base: `decoder.*` and `post_quant_conv.*` in the original layout; may be empty.
        header: Of the taming file that this was exported from; None in released files.
    """

    config: DecoderTamingConfig
    taming: State
    base: State
    header: TamingHeader | None = None


def _open(path: Path) -> tuple[State, TamingHeader | None, Tensor | None]:
    """Tensors of a file, and what an export of ours carries beside them."""
    if path.suffix.lower() not in PICKLED_ENDINGS:
        return read_weights(path), None, None
    state, beside = read_pickled(path)
    text: Any = beside.get(HEADER_KEY)
    prompt: Any = beside.get(PROMPT_KEY)
    header = TamingHeader.from_json(text, source=str(path)) if isinstance(text, str) else None
    if not isinstance(prompt, Tensor):
        return state, header, None
    check_plain(PROMPT_KEY, prompt, path)
    return state, header, prompt


def _refuse(source: str, what: str, keys: list[str]) -> None:
    if keys:
        raise CheckpointError(
            f"{source}: {what} {', '.join(sorted(keys)[:3])}"
            f"{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}; expected the released "
            "layout (LDM-ISP): download the file again, or name the right one."
        )


def _check_numbers(source: str, state: State) -> None:
    """Refuse tensors that are no finite floating-point numbers, before they are copied."""
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{source}: expected {key} in floating point, found {tensor.dtype}; download it "
                "again."
            )
        if not is_finite(tensor):
            raise CheckpointError(
                f"{source}: {key} holds NaN or infinity; the file is damaged, download it again."
            )


def _renamed(module: nn.Module, names: Mapping[str, str], own: State, source: str) -> State:
    """The tensors of `own` under our names, which must be exactly those of `module`."""
    wanted = module.state_dict()
    expected = {theirs: ours for theirs, ours in names.items() if ours in wanted}
    _refuse(source, "missing key", [key for key in expected if key not in own])
    _refuse(source, "unknown key", [key for key in own if key not in expected])
    own = {key: as_shape(t, tuple(wanted[expected[key]].shape)) for key, t in own.items()}
    for theirs, ours in expected.items():
        if own[theirs].shape != wanted[ours].shape:
            raise CheckpointError(
                f"{source}: expected {theirs} of shape {tuple(wanted[ours].shape)}, found "
                f"{tuple(own[theirs].shape)}; the file is inconsistent."
            )
    _check_numbers(source, dict(own))
    return {ours: own[theirs] for theirs, ours in expected.items()}


def open_released_unet(path: Path, *, heads: int) -> ReleasedUNet:
    """Read the released UNet file, memory-mapped.

    Args:
        path: Lightning checkpoint or safetensors.
        heads: Of the structure encoder's attention.

    Raises:
        CheckpointError: If the file is damaged, asks to run code, misses a key, has an unknown
            one or one of a wrong shape.
    """
    source = str(path)
    state, header, prompt = _open(path)
    if header is not None and header.unet is not None:
        heads = header.unet.encoder.heads
    config = unet_config(state, source=source, heads=heads)
    own = {k: v for k, v in state.items() if k.startswith(ENCODER_PREFIX) or _SFT in k}
    base = {
        k[len(UNET_PREFIX) :]: v for k, v in state.items()
        if k.startswith(UNET_PREFIX) and _SFT not in k
    }  # fmt: skip
    rest = {k: v for k, v in state.items() if k.startswith(_UNET_REST)}
    known = unet_names(base, blocks=config.blocks)
    unknown = [
        k for k in state
        if k not in own and k not in rest and k not in _BUFFERS
        and k.removeprefix(UNET_PREFIX) not in known
    ]  # fmt: skip
    _refuse(source, "unknown key", unknown)
    with torch.device("meta"):
        module = UNetTaming(config)
    taming = _renamed(module, unet_taming_names(config), own, source)
    return ReleasedUNet(config, taming, base, rest, header, prompt)


def open_released_decoder(path: Path) -> ReleasedDecoder:
    """Read the released decoder file, memory-mapped.

    Raises:
        CheckpointError: If the file is damaged, asks to run code, misses a key, has an unknown
            one or one of a wrong shape.
    """
    source = str(path)
    state, header, _ = _open(path)
    config = decoder_config(state, source=source)
    own = {k: v for k, v in state.items() if k.startswith(_FUSION)}
    base = {
        k: v for k, v in state.items()
        if k not in own and k.startswith(("decoder.", "post_quant_conv."))
    }  # fmt: skip
    rest = {k for k in state if k.startswith(_DECODER_REST) or k in _BUFFERS}
    _refuse(source, "unknown key", list(state.keys() - own.keys() - base.keys() - rest))
    if base:
        expected = decoder_base_keys(base) if header is None else set(header.decoder_base)
        _refuse(source, "missing key", [key for key in expected if key not in base])
        _refuse(source, "unknown key", [key for key in base if key not in expected])
        _check_numbers(source, base)
    with torch.device("meta"):
        module = DecoderTaming(config)
    taming = _renamed(module, decoder_taming_names(), own, source)
    ready = {f"decoder.{k.removeprefix('levels.')}": v for k, v in taming.items()}
    return ReleasedDecoder(config, ready, base, header)
