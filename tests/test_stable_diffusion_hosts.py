"""Stable Diffusion as a host, in every container it comes in; and a whole run with it."""

from __future__ import annotations

import json
import logging
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import released_layout as r
from helpers.raws import write_test_dng

from ldmsid_core.cli_enhance import EnhanceOptions, enhance_files
from ldmsid_core.conversion.importing import convert_released
from ldmsid_core.errors import CheckpointError, HostMismatchError
from ldmsid_core.hosts.engine import ready_engine
from ldmsid_core.hosts.fit import check_fit
from ldmsid_core.hosts.host import Host, load_host
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.model_files import MODELS_VARIABLE, find_model
from ldmsid_core.taming.checkpoint import Taming, load_taming
from ldmsid_core.wavelet import split_bands

LAYOUTS = {
    "sd21-base": r.Layout(1024, text_layers=0),
    "sd21-768": r.Layout(1024, text_layers=0, prediction="v_prediction"),
    "sd1": r.Layout(768, is_second=False, text_layers=0),
}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any) -> None:
        raise AssertionError("a test reached for the network")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A host of prompt width 64, one with another decoder, and taming that carries the latter."""
    folder = tmp_path_factory.mktemp("small")
    weights = r.build_weights()
    other = replace(weights, vae=r.build_weights(seed=5).vae)
    unet = r.save_lightning(folder / "released_unet.ckpt", r.released_unet_state(weights))
    trained = r.released_decoder_state(weights, other.vae)
    decoder = r.save_lightning(folder / "decoder.ckpt", trained)
    files = {
        "unet": unet,
        "host": r.save_single(folder / "host.safetensors", r.host_state(weights)),
        "other": r.save_folder(folder / "other", other),
        "taming": folder / "taming.safetensors",
        "lean": folder / "lean.safetensors",
    }
    both: dict[str, Any] = {"unet": unet, "decoder": decoder, "dtype": torch.float32}
    convert_released(files["taming"], **both)
    convert_released(files["lean"], **both, host=files["other"])
    return files


@torch.no_grad()
def outputs(host: Host) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, z = (torch.randn(1, 4, 8, 16, generator=generator) for _ in range(2))
    context = torch.randn(1, 7, host.cross_attention_width, generator=generator)
    noise = host.unet(x, torch.tensor([500]), encoder_hidden_states=context).sample
    return noise, host.vae.decode(z).sample


@pytest.mark.parametrize("family", LAYOUTS)
def test_every_container_gives_the_same_network(tmp_path: Path, family: str) -> None:
    weights = r.build_weights(LAYOUTS[family])
    made = Host(None, weights.unet, weights.vae, "", "")  # type: ignore[arg-type]
    wanted = outputs(made)
    state = r.host_state(weights)
    paths = {
        "safetensors": r.save_single(tmp_path / "a.safetensors", state),
        "folder": r.save_folder(tmp_path / "d", weights),
    }
    if family == "sd21-base":
        paths["ckpt"] = r.save_lightning(tmp_path / "b.ckpt", state)
        released = r.released_unet_state(weights)
        paths["released"] = r.save_lightning(tmp_path / "c.ckpt", released)
    seen = set()
    for name, path in paths.items():
        host = load_host(path)
        assert host.header.family == family, name
        assert host.header.prediction_type == weights.layout.prediction, name
        assert host.header.latent_scale == pytest.approx(0.18215)
        assert host.name == path.name and not host.unet.training and not host.vae.training
        assert not any(p.requires_grad for p in (*host.unet.parameters(), *host.vae.parameters()))
        for part, right in ((host.unet, weights.unet), (host.vae, weights.vae)):
            loaded, own = part.state_dict(), right.state_dict()
            assert set(loaded) == set(own), name
            assert all(torch.equal(loaded[key], own[key]) for key in own), name
        for found, right in zip(outputs(host), wanted, strict=True):
            # Mapped weights begin at other addresses, and some CPUs' kernels then sum in another
            # order: a few units in the last place.
            assert float((found - right).abs().max() / right.abs().max()) < 1e-5, name
        seen.add(host.sha256)
    assert len(seen) == len(paths)
    half = load_host(paths["safetensors"], dtype=torch.bfloat16)
    assert {p.dtype for p in (*half.unet.parameters(), *half.vae.parameters())} == {torch.bfloat16}


def test_a_files_own_latent_scale(tmp_path: Path, small: dict[str, Path]) -> None:
    state = r.host_state(r.build_weights(r.Layout(text_layers=0)))
    state["scale_factor"] = torch.tensor(0.25)
    assert load_host(r.save_single(tmp_path / "a.safetensors", state)).header.latent_scale == 0.25
    config = small["other"] / "vae" / "config.json"
    text = config.read_text()
    try:
        config.write_text(json.dumps({**json.loads(text), "scaling_factor": 0.5}))
        assert load_host(small["other"]).header.latent_scale == 0.5
    finally:
        config.write_text(text)


def drop(state: r.State, key: str) -> r.State:
    return {k: v for k, v in state.items() if not k.startswith(key)}


def test_files_that_are_no_host(tmp_path: Path) -> None:
    state = r.host_state(r.build_weights(r.Layout(text_layers=0)))
    unet, vae = "model.diffusion_model.", "first_stage_model."
    wide = torch.ones(64, 9, 3, 3)
    cases: list[tuple[r.State, type[Exception], str]] = [
        (drop(state, vae), CheckpointError, "no VAE"),
        (drop(state, unet), CheckpointError, "Expected host weights"),
        (drop(state, f"{unet}input_blocks.0"), HostMismatchError, "no Stable Diffusion UNet"),
        ({**state, f"{unet}label_emb.0.0.weight": wide}, HostMismatchError, "SDXL"),
        ({**state, f"{unet}input_blocks.0.0.weight": wide}, HostMismatchError, "inpainting"),
        (
            drop(state, f"{unet}middle_block.0.in_layers.2.bias"),
            CheckpointError,
            r"unet.*1 tensors are missing, such as mid_block\.resnets\.0\.conv1\.bias",
        ),
        (drop(state, f"{unet}output_blocks.4.1.proj_in"), CheckpointError, "unet"),
        (drop(state, f"{vae}decoder.conv_out.bias"), CheckpointError, "vae.*missing"),
        (drop(state, f"{vae}decoder.up.1.block.0.conv1"), CheckpointError, "missing"),
        ({**state, f"{vae}decoder.conv_out.weight": wide}, CheckpointError, "vae.*shape"),
        ({**state, f"{unet}out.2.weight": wide}, CheckpointError, "unet.*shape"),
        (drop(state, f"{unet}input_blocks.4."), HostMismatchError, "four levels"),
    ]
    for number, (changed, error, words) in enumerate(cases):
        path = r.save_single(tmp_path / f"case{number}.safetensors", changed)
        with pytest.raises(error, match=words) as caught:
            load_host(path)
        assert path.name in str(caught.value)


def test_folders_that_are_no_host(tmp_path: Path) -> None:
    weights = r.build_weights(r.Layout(text_layers=0))
    with pytest.raises(CheckpointError, match="diffusers configuration"):
        load_host(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_host(tmp_path / "none")
    config = r.save_folder(tmp_path / "a", weights) / "unet" / "config.json"
    text = config.read_text()
    for change in ({"in_channels": 9}, {"addition_embed_type": "text_time"},
                   {"cross_attention_dim": [8, 8]}):  # fmt: skip
        config.write_text(json.dumps({**json.loads(text), **change}))
        with pytest.raises(HostMismatchError, match=r"Expected Stable Diffusion 1\.x or 2\.x"):
            load_host(tmp_path / "a")
    config.write_text(json.dumps({**json.loads(text), "layers_per_block": 1}))
    with pytest.raises(CheckpointError, match="unet"):
        load_host(tmp_path / "a")
    config.write_text(text)
    weight_file = tmp_path / "a" / "vae" / "diffusion_pytorch_model.safetensors"
    state = r.state_without(weight_file, "decoder.conv_out.bias")
    r.save_single(weight_file, state)
    with pytest.raises(CheckpointError, match=r"vae.*decoder\.conv_out\.bias"):
        load_host(tmp_path / "a")
    weight_file.write_bytes(b"\x10" * 50)
    with pytest.raises(CheckpointError, match="vae"):
        load_host(tmp_path / "a")
    weight_file.unlink()
    with pytest.raises(CheckpointError, match="found none"):
        load_host(tmp_path / "a")


def test_check_fit(
    tmp_path: Path, small: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    lean, host = load_taming(small["lean"]), load_host(small["other"])
    with pytest.raises(HostMismatchError, match="is not what the taming file was converted"):
        check_fit(load_host(small["host"]), lean)
    with caplog.at_level(logging.WARNING):
        check_fit(host, lean)
        assert not caplog.records
        check_fit(host, replace(lean, header=replace(lean.header, host_sha256="0" * 64)))
    assert "other weights of the family unet-64" in caplog.text
    for header in (
        replace(host.header, family="sd1"),
        replace(host.header, prediction_type="v_prediction"),
        replace(host.header, latent_scale=0.13025),
    ):
        with pytest.raises(HostMismatchError, match=r"lean\.safetensors was trained for"):
            check_fit(replace(host, header=header), lean)
    narrow = r.build_weights(r.Layout(widths=(64, 64, 64, 64), text_layers=0))
    path = r.save_single(tmp_path / "narrow.safetensors", r.host_state(narrow))
    with pytest.raises(HostMismatchError, match="Expected 128 channels at"):
        check_fit(load_host(path), lean)
    odd = replace(lean, decoder_base={"decoder.conv_in.weight": torch.ones(1)})
    with pytest.raises(HostMismatchError, match=r"decoder\.conv_in\.weight of shape \(1,\)"):
        check_fit(host, odd)


def decoded(host: Host, taming: Taming, strength: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    bands = split_bands(torch.rand(1, 4, 64, 128, generator=generator), multiple=8)
    z = torch.randn(1, 4, 8, 16, generator=generator)
    settings = SamplingSettings(decoder_strength=strength)
    with torch.inference_mode(), ready_engine(
        host, taming, device=CPU, dtype=torch.float32, settings=settings
    ) as (_, decode):  # fmt: skip
        return decode(z, bands)


def test_the_decoder_that_taming_was_trained_with(small: dict[str, Path]) -> None:
    host, other = load_host(small["host"]), load_host(small["other"])
    full, lean = load_taming(small["taming"]), load_taming(small["lean"])
    assert len(full.decoder_base) > 50 and len(lean.decoder_base) == 2
    before = {k: v.clone() for k, v in host.vae.state_dict().items()}
    with_base, right = decoded(host, full, 1.0), decoded(other, lean, 1.0)
    assert torch.equal(with_base, right)
    assert not torch.equal(decoded(host, replace(full, decoder_base={}), 1.0), right)
    assert torch.equal(decoded(host, full, 0.0), decoded(host, replace(full, decoder_base={}), 0.0))
    assert all(torch.equal(before[k], v) for k, v in host.vae.state_dict().items())


@pytest.mark.parametrize(("steps", "host"), [(1, "host"), (4, "released_unet")])
def test_a_run_from_names(
    tmp_path: Path,
    small: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    host: str,
) -> None:
    """SD-Turbo's recipe: few steps of DDIM; files by their names in $LDMSID_MODELS."""
    monkeypatch.setenv(MODELS_VARIABLE, str(small["host"].parent))
    write_test_dng(tmp_path / "shot.dng", height=96, width=132, iso=1600, shutter_s=0.04)
    options = EnhanceOptions(
        tmp_path / "out", ratio="20", sampler="ddim", steps=steps, host=Path(host),
        taming=Path("taming"), device="cpu", dtype="fp32", quiet=True,
    )  # fmt: skip
    (report,) = enhance_files([str(tmp_path / "shot.dng")], options)
    assert "error" not in report, report
    assert (report["width"], report["height"]) == (66, 48)
    assert Path(report["output"]).read_bytes()[1:4] == b"PNG"


def test_find_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = tmp_path / "default"
    first, second = tmp_path / "one", tmp_path / "two"
    for folder in (first, second):
        folder.mkdir()
    (first / "a.ckpt").touch()
    (second / "a.safetensors").touch()
    (second / "sd").mkdir()
    (second / "b.safetensors").touch()
    monkeypatch.delenv(MODELS_VARIABLE, raising=False)
    assert find_model(None, default) == default
    with pytest.raises(CheckpointError, match=rf"none.*\${MODELS_VARIABLE} names no folder"):
        find_model(Path("none"), default)
    monkeypatch.setenv(MODELS_VARIABLE, f"{first}:{second}")
    assert find_model(Path("a"), default) == first / "a.ckpt"
    assert find_model(Path("a.safetensors"), default) == second / "a.safetensors"
    assert find_model(Path("b"), default) == second / "b.safetensors"
    assert find_model(Path("sd"), default) == second / "sd"
    assert find_model(first / "a.ckpt", default) == first / "a.ckpt"
    for missing in (Path("none"), first / "none"):
        with pytest.raises(CheckpointError, match=f"none does not exist .*{first}"):
            find_model(missing, default)
