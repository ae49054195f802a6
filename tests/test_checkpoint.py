"""Taming checkpoints and host files: round trip, strictness, damage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_model import TAMING_HEADER, build_modules, load_model, write_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ldmsid_core.errors import CheckpointError, ConfigError, HostMismatchError, OutputError
from ldmsid_core.hosts.fit import check_fit
from ldmsid_core.hosts.host import load_host
from ldmsid_core.taming.checkpoint import load_taming, save_taming, taming_state
from ldmsid_core.taming.header import TamingHeader


def _rewrite(path: Path, change: Any = None, header: Any = None) -> None:
    """Change tensors or header of a safetensors file."""
    with safe_open(str(path), "pt") as stored:
        metadata = dict(stored.metadata())
    state = load_file(str(path))
    if change is not None:
        change(state)
    if header is not None:
        values = json.loads(metadata["ldmsid"])
        header(values)
        metadata["ldmsid"] = json.dumps(values)
    save_file(state, str(path), metadata=metadata)


def test_round_trip(tmp_path: Path) -> None:
    host, taming = load_model(tmp_path)
    unet, vae, modules, decoder = build_modules()
    assert taming.header == TAMING_HEADER
    assert taming.unet is not None and taming.decoder is not None
    for found, wanted in (
        (host.unet, unet), (host.vae, vae), (taming.unet, modules), (taming.decoder, decoder),
    ):  # fmt: skip
        for key, tensor in wanted.state_dict().items():
            assert torch.equal(found.state_dict()[key], tensor), key
    assert not any(p.requires_grad for p in taming.unet.parameters())


def test_keys_are_those_of_the_format(tmp_path: Path) -> None:
    keys = set(load_file(str(write_model(tmp_path).taming)))
    heads = {key.split(".")[0] for key in keys}
    assert heads == {"structure_encoder", "unet_sft", "decoder", "prompt_embedding"}
    assert "unet_sft.up_3_2.gamma.weight" in keys
    assert "decoder.1.scale.2.bias" in keys


def test_either_half_may_be_absent(tmp_path: Path) -> None:
    taming = load_taming(write_model(tmp_path, decoder=None).taming)
    assert taming.decoder is None and taming.unet is not None
    taming = load_taming(write_model(tmp_path, unet=None).taming)
    assert taming.unet is None and taming.decoder is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("unet_sft.middle_0.beta.bias"), "missing 1"),
        (lambda s: s.update({"unet_sft.other.weight": torch.zeros(1)}), "unknown 1"),
        (lambda s: s.update({"decoder.9.scale.0.bias": torch.zeros(1)}), "unknown 1"),
        (lambda s: s.update({"decoder.1.scale.0.bias": torch.zeros(3)}), "of shape"),
        (lambda s: s.update({"prompt_embedding": torch.zeros(77, 8)}), r"\(tokens, 16\)"),
        (lambda s: s["structure_encoder.conv_in.bias"].fill_(float("nan")), "NaN"),
    ],
)
def test_wrong_tensors_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    files = write_model(tmp_path)
    _rewrite(files.taming, change=change)
    with pytest.raises(CheckpointError, match=words):
        load_taming(files.taming)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda h: h.update(format_version=2), CheckpointError, "format version 1, found 2"),
        (lambda h: h.update(surprise=1), ConfigError, "unknown setting surprise"),
        (lambda h: h["unet"].update(surprise=1), ConfigError, "unknown setting surprise"),
        (lambda h: h["unet"].update(kind="other"), ConfigError, "'other'"),
        (lambda h: h["unet"]["encoder"].update(width="wide"), ConfigError, "width"),
        (lambda h: h.update(decoder_latent_scale="x"), ConfigError, "decoder_latent_scale"),
        (lambda h: h.update(latent_scale=0.0), ConfigError, "latent_scale above 0"),
        (lambda h: h["input_recipe"].update(white_balance="x"), ConfigError, "white_balance"),
        (lambda h: h["input_recipe"].update(packing="RGGB"), ConfigError, "packing"),
        (lambda h: h["input_recipe"].update(clip=[0.0, 0.9]), ConfigError, r"clip .*0 to 0\.9"),
        (lambda h: h["input_recipe"].update(clip=[-99.0, 1.0]), ConfigError, "clip .*-99 to 1"),
    ],
)
def test_wrong_headers_are_refused(
    tmp_path: Path, change: Any, error: type[Exception], words: str
) -> None:
    files = write_model(tmp_path)
    _rewrite(files.taming, header=change)
    with pytest.raises(error, match=words):
        load_taming(files.taming)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, keep: float) -> None:
    files = write_model(tmp_path)
    for path, load in ((files.taming, load_taming), (files.host, load_host)):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
        with pytest.raises(CheckpointError, match=path.name):
            load(path)


def test_another_kind_of_file_is_named(tmp_path: Path) -> None:
    files = write_model(tmp_path)
    with pytest.raises(CheckpointError, match="is it a host or a LoRA"):
        load_taming(files.host)
    with pytest.raises(CheckpointError, match="host file"):
        load_host(files.taming)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_taming(tmp_path / "none.safetensors")


def test_nan_is_never_saved_and_files_are_not_replaced(tmp_path: Path) -> None:
    _, _, taming, decoder = build_modules()
    state = taming_state(taming, decoder, None)
    state["unet_sft.middle_0.beta.bias"] = torch.full((64,), float("inf"))
    path = tmp_path / "t.safetensors"
    with pytest.raises(CheckpointError, match="was not saved"):
        save_taming(path, TAMING_HEADER, state, dtype=torch.float32)
    assert not list(tmp_path.iterdir())
    path.write_text("mine")
    state = taming_state(taming, decoder, None)
    with pytest.raises(OutputError, match="exists already"):
        save_taming(path, TAMING_HEADER, state, dtype=torch.float32)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"host_family": "sd21-base"}, "host family sd21-base"),
        ({"cross_attention_width": 1024}, "cross-attention width 1024"),
        ({"prediction_type": "v_prediction"}, "prediction type v_prediction"),
        ({"latent_scale": 0.18215}, "latent scale"),
        ({"decoder": None}, "only a part"),
    ],
)
def test_a_taming_for_another_host_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    files = write_model(tmp_path, **change)
    with pytest.raises(HostMismatchError, match=words):
        check_fit(load_host(files.host), load_taming(files.taming))


def test_header_text_round_trip() -> None:
    header = replace(TAMING_HEADER, training={"steps": {"a": 1}}, licence="Apache-2.0")
    assert TamingHeader.from_json(header.to_json(), source="x") == header
