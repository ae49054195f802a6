"""The embedding of the empty prompt, from a checkpoint's own text encoder; no tokenizer needed.

Stable Diffusion 2 reads OpenCLIP's penultimate layer through the final norm, Stable Diffusion 1
the last layer of CLIP. Both put an end token after the start token; they pad differently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import CheckpointError

_START, _END = 49406, 49407
_HEAD_WIDTH = 64
# Of Stable Diffusion 2, and of files that newer code wrote, such as SD-Turbo.
_OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.0.model.")
# Folders that transformers 5 wrote have no prefix at all.
_CLIP = ("cond_stage_model.transformer.text_model.", "text_model.", "")
_PARTS = {
    "attn.in_proj_weight": "self_attn.in_proj_weight",
    "attn.in_proj_bias": "self_attn.in_proj_bias",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "linear1",
    "mlp.c_proj": "linear2",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "self_attn.out_proj": "self_attn.out_proj",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
}


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


@dataclass(frozen=True)
class _Encoder:
    """Where a text encoder's tensors are, and how it is used.

    Attributes:
        state: Tensors by name.
        tokens: Key of the token embedding.
        positions: Key of the position embedding.
        layers: Prefix of the numbered layers.
        final: Prefix of the final norm.
        count: Layers to run.
        padding: Token after start and end.
        activation: Of the feed-forward part.
    """

    state: Mapping[str, Tensor]
    tokens: str
    positions: str
    layers: str
    final: str
    count: int
    padding: int
    activation: Callable[[Tensor], Tensor]


def _layer_count(state: Mapping[str, Tensor], prefix: str) -> int:
    found = {int(m[1]) for k in state if (m := re.match(re.escape(prefix) + r"(\d+)\.", k))}
    return max(found) + 1 if found else 0


def _find(state: Mapping[str, Tensor]) -> _Encoder | None:
    """The text encoder of a checkpoint; None if it has none."""
    for prefix in _OPEN_CLIP:
        tokens, layers = prefix + "token_embedding.weight", prefix + "transformer.resblocks."
        if tokens in state:
            return _Encoder(
                state, tokens, prefix + "positional_embedding", layers, prefix + "ln_final",
                _layer_count(state, layers) - 1, 0, functional.gelu,
            )  # fmt: skip
    for prefix in _CLIP:
        tokens = prefix + "embeddings.token_embedding.weight"
        if tokens not in state:
            continue
        layers = prefix + "encoder.layers."
        # diffusers' folders hold Stable Diffusion 2's encoder without its last layer.
        is_second = state[tokens].shape[1] == 1024
        return _Encoder(
            state, tokens, prefix + "embeddings.position_embedding.weight", layers,
            prefix + "final_layer_norm", _layer_count(state, layers), 0 if is_second else _END,
            functional.gelu if is_second else _quick_gelu,
        )  # fmt: skip
    return None


def has_text_encoder(state: Mapping[str, Tensor]) -> bool:
    """Whether `empty_prompt_embedding` can be computed from these tensors."""
    return _find(state) is not None


def _layer_state(encoder: _Encoder, number: int) -> dict[str, Tensor]:
    """One layer's tensors under the names of `nn.TransformerEncoderLayer`, float32."""
    prefix = f"{encoder.layers}{number}."
    own = {k[len(prefix) :]: v for k, v in encoder.state.items() if k.startswith(prefix)}
    ready: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        names = [f"self_attn.{part}_proj.{kind}" for part in "qkv"]
        if names[0] in own:
            split = [own.pop(name).float() for name in names]
            ready[f"self_attn.in_proj_{kind}"] = torch.cat(split)
    for name, tensor in own.items():
        start = next((old for old in _PARTS if name == old or name.startswith(old + ".")), None)
        if start is not None:
            ready[_PARTS[start] + name[len(start) :]] = tensor.float()
    return ready


def empty_prompt_embedding(state: Mapping[str, Tensor], *, source: str) -> Tensor:
    """The embedding of the empty prompt.

    Args:
        state: A checkpoint's tensors, original layout or a diffusers text encoder's.
        source: Names the file in the error.

    Returns:
        `(77, width)` float32.

    Raises:
        CheckpointError: If there is no text encoder, or it is incomplete.
    """
    encoder = _find(state)
    if encoder is None:
        raise CheckpointError(f"Expected a text encoder in {source}, found none.")
    try:
        return _run(encoder)
    except (KeyError, RuntimeError, IndexError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{source}: its text encoder is incomplete ({first}).") from error


@torch.no_grad()
def _run(encoder: _Encoder) -> Tensor:
    """One layer at a time, so that memory holds one layer."""
    positions = encoder.state[encoder.positions].float()
    count, width = positions.shape
    tokens = torch.full((count,), encoder.padding)
    tokens[:2] = torch.tensor([_START, _END])
    x = (encoder.state[encoder.tokens][tokens].float() + positions)[None]
    mask = nn.Transformer.generate_square_subsequent_mask(count)
    for number in range(encoder.count):
        state = _layer_state(encoder, number)
        with torch.device("meta"):
            layer = nn.TransformerEncoderLayer(
                width, max(1, width // _HEAD_WIDTH), state["linear1.bias"].shape[0], dropout=0.0,
                activation=encoder.activation, batch_first=True, norm_first=True,
            )  # fmt: skip
        layer.load_state_dict(state, assign=True)
        x = layer.eval()(x, src_mask=mask, is_causal=True)
    norm = [encoder.state[f"{encoder.final}.{part}"].float() for part in ("weight", "bias")]
    return functional.layer_norm(x, (width,), norm[0], norm[1], 1e-5)[0]
