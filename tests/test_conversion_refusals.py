"""Damaged, mixed up and wrong released checkpoints: one clear error each, and no output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import released_layout as r

from ldmsid_core.conversion.importing import convert_released
from ldmsid_core.errors import CheckpointError

State = r.State
SFT = "model.diffusion_model.input_blocks.{}.0.sft_layer.{}"
FUSION = "decoder.fusion_layer_2.encode_enc_1_L.conv1.weight"


@pytest.fixture(scope="module")
def weights() -> r.Weights:
    return r.build_weights(r.Layout(text_layers=0))


def drop(key: str) -> Callable[[State], None]:
    return lambda state: state.__delitem__(key)


def put(key: str, tensor: torch.Tensor) -> Callable[[State], None]:
    return lambda state: state.__setitem__(key, tensor)


def poison(key: str, value: float) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[key] = state[key].clone()
        state[key].view(-1)[-1] = value

    return change


def case(part: str, change: Callable[[State], None], *words: str) -> object:
    return pytest.param(part, change, words, id=f"{part}: {' '.join(words)[-60:]}")


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        case("unet", drop(SFT.format(2, "mlp_beta.bias")), "missing", "2.0.sft_layer.mlp_beta"),
        case("unet", drop(SFT.format(2, "mlp_gamma.weight")), "missing", "2.0.sft_layer.mlp_gamma"),
        case("unet", drop(SFT.format(1, "mlp_gamma.weight")), "missing", "1.0.sft_layer.mlp_gamma"),
        case("unet", drop("structcond_stage_model.time_embed.0.bias"), "missing", "time_embed.0"),
        case("unet", drop("structcond_stage_model.input_blocks.2.0.in_layers.0.weight"),
             "missing", "input_blocks.2.0.in_layers.0.weight"),
        case("unet", drop("structcond_stage_model.input_blocks.0.0.weight"),
             "missing", "input_blocks.0.0.weight"),
        case("unet", put("structcond_stage_model.extra.weight", torch.ones(3)),
             "unknown", "structcond_stage_model.extra.weight"),
        case("unet", put("model.diffusion_model.extra.weight", torch.ones(3)),
             "unknown", "model.diffusion_model.extra.weight"),
        case("unet", put("controlnet.weight", torch.ones(3)), "unknown", "controlnet.weight"),
        case("unet", put(SFT.format(4, "mlp_beta.weight"), torch.ones(64, 9, 3, 3)),
             "shape", "4.0.sft_layer.mlp_beta.weight"),
        case("unet", poison(SFT.format(4, "mlp_beta.weight"), float("nan")),
             "NaN", "4.0.sft_layer.mlp_beta.weight"),
        case("unet", put(SFT.format(4, "mlp_beta.bias"), torch.ones(64, dtype=torch.int64)),
             "floating point", "4.0.sft_layer.mlp_beta.bias"),
        case("decoder", drop(FUSION), "missing", FUSION),
        case("decoder", drop("decoder.fusion_layer_3.pre_encode_H.conv1.weight"),
             "missing", "fusion_layer_3.pre_encode_H.conv1.weight"),
        case("decoder", drop("decoder.up.2.block.1.conv2.bias"),
             "missing", "decoder.up.2.block.1.conv2.bias"),
        case("decoder", drop("post_quant_conv.weight"), "missing", "post_quant_conv.weight"),
        case("decoder", drop("decoder.conv_in.weight"), "missing", "decoder.conv_in.weight"),
        case("decoder", put("decoder.up.2.extra.bias", torch.ones(3)), "unknown", "up.2.extra"),
        case("decoder", put("first_stage_model.decoder.conv_in.bias", torch.ones(3)), "unknown"),
        case("decoder", put(FUSION, torch.ones(64, 64, 3, 3)), "shape", FUSION),
        case("decoder", poison("decoder.conv_out.weight", float("inf")),
             "infinity", "decoder.conv_out.weight"),
    ],
)  # fmt: skip
def test_one_wrong_tensor(
    tmp_path: Path,
    weights: r.Weights,
    part: str,
    change: Callable[[State], None],
    words: tuple[str, ...],
) -> None:
    state = (r.released_unet_state if part == "unet" else r.released_decoder_state)(weights)
    change(state)
    path, output = tmp_path / "wrong.ckpt", tmp_path / "new" / "t.safetensors"
    torch.save({"state_dict": state}, path)
    with pytest.raises(CheckpointError) as caught:
        convert_released(output, **{part: path})  # type: ignore[arg-type]
    for word in ("wrong.ckpt", *words):
        assert word in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not output.exists()


def test_swapped_files(tmp_path: Path, weights: r.Weights) -> None:
    unet = r.save_lightning(tmp_path / "u.ckpt", r.released_unet_state(weights))
    decoder = r.save_lightning(tmp_path / "d.ckpt", r.released_decoder_state(weights))
    with pytest.raises(CheckpointError, match=r"d\.ckpt.*to --unet and the decoder file"):
        convert_released(tmp_path / "t.safetensors", unet=decoder, decoder=unet)
    with pytest.raises(CheckpointError, match=r"u\.ckpt.*to --unet and the decoder file"):
        convert_released(tmp_path / "t.safetensors", decoder=unet)
    host = r.save_single(tmp_path / "h.safetensors", r.host_state(weights))
    with pytest.raises(CheckpointError, match=r"h\.safetensors.*found none"):
        convert_released(tmp_path / "t.safetensors", unet=host)
    assert not (tmp_path / "t.safetensors").exists()


def test_truncated_file(tmp_path: Path, weights: r.Weights) -> None:
    whole = r.save_lightning(tmp_path / "u.ckpt", r.released_unet_state(weights)).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(CheckpointError, match=r"cut\.ckpt"):
        convert_released(tmp_path / "t.safetensors", unet=tmp_path / "cut.ckpt")


def test_values_beyond_float16(tmp_path: Path, weights: r.Weights) -> None:
    state = r.released_unet_state(weights)
    poison(SFT.format(4, "mlp_beta.weight"), 1e6)(state)
    path = r.save_lightning(tmp_path / "u.ckpt", state)
    with pytest.raises(CheckpointError, match=r"float16.*--dtype bf16"):
        convert_released(tmp_path / "t.safetensors", unet=path)
    assert not (tmp_path / "t.safetensors").exists()
    convert_released(tmp_path / "t.safetensors", unet=path, dtype=torch.bfloat16)
