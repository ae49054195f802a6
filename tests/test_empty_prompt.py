"""The empty prompt's embedding against transformers' own text encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import released_layout as r
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from ldmsid_core.errors import CheckpointError
from ldmsid_core.hosts.empty_prompt import empty_prompt_embedding, has_text_encoder

START, END = 49406, 49407
# Two float32 implementations of a few layers.
TOLERANCE = 1e-5
OPEN_CLIP = "cond_stage_model.model."


def encoder(width: int, layers: int, activation: str, *, seed: int = 0) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=r.VOCABULARY, hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=layers, num_attention_heads=width // 64, hidden_act=activation,
        max_position_embeddings=r.TOKENS,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = CLIPTextModel(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.1, 0.1).add_("norm" in name and name.endswith("weight"))
    return model.eval()


@torch.no_grad()
def oracle(model: CLIPTextModel, padding: int) -> Tensor:
    tokens = torch.full((1, r.TOKENS), padding)
    tokens[0, :2] = torch.tensor([START, END])
    return model(tokens).last_hidden_state[0]


def prefixed(model: CLIPTextModel, prefix: str) -> dict[str, Tensor]:
    """Names as files have them; older and newer transformers keep other prefixes in memory."""
    return {
        prefix + key.removeprefix("text_model."): tensor
        for key, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("prefix", ["cond_stage_model.transformer.text_model.", "text_model.", ""])
def test_stable_diffusion_1(prefix: str) -> None:
    model = encoder(128, 3, "quick_gelu")
    state = prefixed(model, prefix)
    assert has_text_encoder(state)
    found = empty_prompt_embedding(state, source="file")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, oracle(model, END), atol=TOLERANCE, rtol=0)


def test_a_folder_of_stable_diffusion_2(tmp_path: Path) -> None:
    """1024 wide: plain gelu, padding 0, the last layer already taken away; in float16."""
    model = encoder(1024, 1, "gelu")
    model.half().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float16}
    found = empty_prompt_embedding(state, source="file")
    torch.testing.assert_close(found, oracle(model.float(), 0), atol=TOLERANCE, rtol=0)


def as_open_clip(model: CLIPTextModel) -> dict[str, Tensor]:
    """HF's names turned into OpenCLIP's; q, k and v become one matrix."""
    own = prefixed(model, "")
    state = {
        "token_embedding.weight": own["embeddings.token_embedding.weight"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
    }
    pairs = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
             "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
    for kind in ("weight", "bias"):
        state[f"ln_final.{kind}"] = own[f"final_layer_norm.{kind}"]
        for number in range(model.config.num_hidden_layers):
            old, new = f"encoder.layers.{number}", f"transformer.resblocks.{number}"
            split = [own[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{new}.attn.in_proj_{kind}"] = torch.cat(split)
            for theirs, ours in pairs.items():
                state[f"{new}.{ours}.{kind}"] = own[f"{old}.{theirs}.{kind}"]
    return {OPEN_CLIP + key: tensor for key, tensor in state.items()}


def test_open_clip_takes_the_penultimate_layer() -> None:
    model = encoder(128, 2, "gelu")
    state = as_open_clip(model)
    last = {
        key.replace("resblocks.1.", "resblocks.2."): tensor + 1.0
        for key, tensor in state.items()
        if "resblocks.1." in key
    }
    found = empty_prompt_embedding({**state, **last}, source="file")
    torch.testing.assert_close(found, oracle(model, 0), atol=TOLERANCE, rtol=0)
    half = {key: tensor.half() for key, tensor in {**state, **last}.items()}
    rounded = empty_prompt_embedding(half, source="file")
    assert rounded.dtype == torch.float32
    # float16 weights: 2**-11 of values up to 3, over two layers.
    torch.testing.assert_close(rounded, found, atol=2e-2, rtol=0)


def test_missing_parts() -> None:
    assert not has_text_encoder({"first_stage_model.encoder.conv_in.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"text encoder in a\.ckpt, found none"):
        empty_prompt_embedding({}, source="a.ckpt")
    whole = as_open_clip(encoder(64, 3, "gelu"))
    for key in (
        "positional_embedding",
        "ln_final.bias",
        "transformer.resblocks.0.mlp.c_fc.bias",
        "transformer.resblocks.1.ln_2.weight",
        "transformer.resblocks.0.attn.in_proj_bias",
    ):
        state = {k: v for k, v in whole.items() if k != OPEN_CLIP + key}
        with pytest.raises(CheckpointError, match=r"a\.ckpt: its text encoder is incomplete"):
            empty_prompt_embedding(state, source="a.ckpt")
    short = {**whole, f"{OPEN_CLIP}token_embedding.weight": torch.zeros(100, 64)}
    with pytest.raises(CheckpointError, match="incomplete"):
        empty_prompt_embedding(short, source="a.ckpt")
