"""Released checkpoints to a taming file and back: nothing lost, and every refusal is clear."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import released_layout as r
from helpers.tiny_model import write_model
from safetensors import safe_open
from torch import Tensor

from ldmsid_core.conversion.exporting import export_released
from ldmsid_core.conversion.importing import convert_released
from ldmsid_core.errors import (
    CheckpointError,
    ConfigError,
    HostMismatchError,
    LdmSidError,
    OutputError,
)
from ldmsid_core.hosts.empty_prompt import empty_prompt_embedding
from ldmsid_core.model_files import EMBEDDED
from ldmsid_core.taming.checkpoint import load_taming

CHANGED = "decoder.up.1.block.0.conv1.weight"
ATTENTION = "decoder.mid.attn_1.q.weight"


@pytest.fixture(scope="module")
def weights() -> r.Weights:
    return r.build_weights()


@pytest.fixture(scope="module")
def files(weights: r.Weights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Released files whose base decoder has two changed tensors, and hosts without the change."""
    folder = tmp_path_factory.mktemp("released")
    decoder = r.released_decoder_state(weights)
    for key in (CHANGED, ATTENTION):
        decoder[key] = decoder[key] + 0.25
    host = r.host_state(weights)
    half = {k: v.half() if k.startswith("first_") else v for k, v in host.items()}
    second = r.Weights(**{**vars(weights), "vae": r.build_weights().vae.half()})
    return {
        "unet": r.save_lightning(folder / "unet.ckpt", r.released_unet_state(weights)),
        "decoder": r.save_lightning(folder / "decoder.ckpt", decoder),
        "host": r.save_single(folder / "host.safetensors", host),
        "host ckpt": r.save_lightning(folder / "host.ckpt", host),
        "half": r.save_single(folder / "half.safetensors", half),
        "folder": r.save_folder(folder / "folder", weights),
        "half folder": r.save_folder(folder / "half", second, variant="fp16"),
    }


def stored(path: Path) -> dict[str, Tensor]:
    with safe_open(str(path), "pt") as opened:
        return {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118


def both(files: dict[str, Path]) -> dict[str, Path]:
    return {"unet": files["unet"], "decoder": files["decoder"]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_tensor_arrives(
    tmp_path: Path, weights: r.Weights, files: dict[str, Path], dtype: torch.dtype
) -> None:
    made = convert_released(tmp_path / "t.safetensors", **both(files), dtype=dtype)
    assert {v.dtype for v in stored(made.path).values()} == {dtype}
    taming = load_taming(made.path, dtype=None)
    assert taming.unet is not None and taming.decoder is not None
    halves = ((taming.unet, weights.taming), (taming.decoder, weights.decoder))
    for found, wanted in halves:
        own = wanted.state_dict()
        assert found.state_dict().keys() == own.keys()
        for key, tensor in found.state_dict().items():
            assert torch.equal(tensor, own[key].to(dtype)), key
    changed = r.released_decoder_state(weights)[CHANGED] + 0.25
    assert torch.equal(taming.decoder_base[CHANGED], changed.to(dtype))
    assert len(taming.decoder_base) == made.decoder_base > 50
    header = taming.header
    assert (header.host_family, header.prediction_type) == ("unet-64", "epsilon")
    assert (header.latent_scale, header.decoder_latent_scale) == (0.18215, "unscaled")
    assert header.input_recipe.white_balance == "none" and "LDM-ISP" in header.licence
    text = {f"cond_stage_model.model.{k}": v for k, v in weights.text.items()}
    prompt = empty_prompt_embedding(text, source="")
    assert taming.prompt_embedding is not None and prompt.shape == (77, 64)
    assert torch.equal(taming.prompt_embedding, prompt.to(dtype))
    assert not any("cond_stage" in k or "encoder.down" in k for k in stored(made.path))


def test_bytes_do_not_depend_on_names_or_time(tmp_path: Path, files: dict[str, Path]) -> None:
    first = convert_released(tmp_path / "a.safetensors", **both(files), host=files["host"])
    for source in ("unet", "decoder", "host"):
        os.symlink(files[source], tmp_path / f"other_{source}{files[source].suffix}")
    second = convert_released(
        tmp_path / "deep" / "b.safetensors",
        unet=tmp_path / "other_unet.ckpt",
        decoder=tmp_path / "other_decoder.ckpt",
        host=tmp_path / "other_host.safetensors",
    )
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256


@pytest.mark.parametrize("host", ["host", "host ckpt", "folder", "half", "half folder"])
def test_equal_base_tensors_are_left_out(tmp_path: Path, files: dict[str, Path], host: str) -> None:
    made = convert_released(tmp_path / "t.safetensors", **both(files), host=files[host])
    always = ("post_quant_conv.bias", "post_quant_conv.weight")
    assert set(made.header.decoder_base) == {CHANGED, ATTENTION, *always}
    assert load_taming(made.path).decoder_base.keys() == set(made.header.decoder_base)
    assert any(note.startswith("2 of ") for note in made.notes)
    assert not any("UNet" in note for note in made.notes)
    assert made.header.host_sha256 is None  # nobody knows which file the authors trained with


def test_a_changed_unet_is_said(tmp_path: Path, files: dict[str, Path]) -> None:
    other = r.build_weights(seed=1)
    path = r.save_folder(tmp_path / "other", other)
    made = convert_released(tmp_path / "t.safetensors", unet=files["unet"], host=path)
    assert any("tensors of the UNet" in note and "differ" in note for note in made.notes)


def test_halves_alone(tmp_path: Path, files: dict[str, Path]) -> None:
    made = convert_released(tmp_path / "u.safetensors", unet=files["unet"])
    taming = load_taming(made.path)
    assert taming.unet is not None and taming.decoder is None and not taming.decoder_base
    made = convert_released(tmp_path / "d.safetensors", decoder=files["decoder"])
    taming = load_taming(made.path)
    assert taming.unet is None and taming.decoder is not None
    assert taming.prompt_embedding is None
    assert made.header.host_family == "sd21-base"
    assert any("taken for Stable Diffusion 2.1-base" in note for note in made.notes)
    with pytest.raises(ConfigError, match="--unet, --decoder"):
        convert_released(tmp_path / "n.safetensors")
    with pytest.raises(ConfigError, match=r"\.safetensors"):
        convert_released(tmp_path / "n.ckpt", unet=files["unet"])


def test_without_a_text_encoder(tmp_path: Path, weights: r.Weights, files: dict[str, Path]) -> None:
    """Only taming tensors in the file, as safetensors: family and prompt come from the host."""
    bare = {
        k: v for k, v in r.released_unet_state(weights).items()
        if ".sft_layer." in k or k.startswith("structcond")
    }  # fmt: skip
    path = r.save_single(tmp_path / "bare.safetensors", bare)
    made = convert_released(tmp_path / "a.safetensors", unet=path, host=files["folder"])
    assert load_taming(made.path).prompt_embedding is None
    assert made.header.host_family == "unet-64"
    assert any("no prompt embedding" in note for note in made.notes)
    made = convert_released(tmp_path / "b.safetensors", unet=path, host=files["host"])
    wanted = load_taming(
        convert_released(tmp_path / "c.safetensors", unet=files["unet"]).path
    ).prompt_embedding
    assert wanted is not None
    assert torch.equal(load_taming(made.path).prompt_embedding, wanted)  # type: ignore[arg-type]


def test_round_trip_through_the_released_layout(tmp_path: Path, files: dict[str, Path]) -> None:
    ours = tmp_path / "ours.safetensors"
    convert_released(ours, **both(files), host=files["host"], decoder_latent_scale="scaled")
    unet, decoder = export_released(ours, tmp_path / "out")
    assert (unet.name, decoder.name) == ("ours_unet.ckpt", "ours_decoder.ckpt")
    again = convert_released(tmp_path / "again.safetensors", unet=unet, decoder=decoder)
    assert again.path.read_bytes() == ours.read_bytes()
    first = unet.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        export_released(ours, tmp_path / "out")
    export_released(ours, tmp_path / "out", overwrite=True)
    assert unet.read_bytes() == first
    half = convert_released(tmp_path / "half.safetensors", unet=unet)
    assert half.header.decoder is None and half.header.decoder_base == ()


def test_export_refuses_what_the_layout_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="identity"):
        export_released(EMBEDDED.taming, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_host_of_another_family(tmp_path: Path, files: dict[str, Path]) -> None:
    first = r.build_weights(r.Layout(context=96, is_second=False, text_layers=0))
    state = r.host_state(first)
    path = r.save_single(tmp_path / "sd1.safetensors", state)
    with pytest.raises(HostMismatchError, match="prompt width 64"):
        convert_released(tmp_path / "t.safetensors", **both(files), host=path)
    embeds = {"model.diffusion_model.label_emb.0.0.weight": torch.ones(8, 8)}
    path = r.save_single(tmp_path / "sdxl.safetensors", {**state, **embeds})
    with pytest.raises(HostMismatchError, match="SDXL"):
        convert_released(tmp_path / "t.safetensors", **both(files), host=path)
    nine = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(64, 9, 3, 3)}
    path = r.save_single(tmp_path / "inpainting.safetensors", {**state, **nine})
    with pytest.raises(HostMismatchError, match="9 input channels"):
        convert_released(tmp_path / "t.safetensors", **both(files), host=path)
    assert not (tmp_path / "t.safetensors").exists()


def test_outputs_that_are_in_the_way(tmp_path: Path, files: dict[str, Path]) -> None:
    path, target = tmp_path / "t.safetensors", tmp_path / "target"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        convert_released(path, **both(files))
    assert path.read_text() == "mine"
    convert_released(path, **both(files), overwrite=True)
    assert load_taming(path).unet is not None
    for is_there in (True, False):
        path.unlink()
        if is_there:
            target.write_text("theirs")
        else:
            target.unlink()
        path.symlink_to(target)
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="symbolic link"):
                convert_released(path, **both(files), overwrite=overwrite)
        assert path.is_symlink() and (not is_there or target.read_text() == "theirs")


@pytest.mark.parametrize("way", ["torch", "safetensors", "rename"])
def test_no_space_left(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    source = tmp_path / "t.safetensors"
    convert_released(source, **both(files))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def half_written(_content: Any, where: Any, **_options: Any) -> None:
        if hasattr(where, "write"):
            where.write(b"half")
        else:
            Path(where).write_bytes(b"half")
        raise full

    def no_rename(*_names: Any) -> None:
        raise full

    out = tmp_path / "out"
    if way == "torch":
        monkeypatch.setattr(torch, "save", half_written)
    elif way == "safetensors":
        monkeypatch.setattr("ldmsid_core.safetensors_file.save_file", half_written)
    else:
        monkeypatch.setattr(os, "replace", no_rename)
    with pytest.raises(OutputError, match="No space left"):
        if way == "safetensors":
            convert_released(out / "n.safetensors", **both(files))
        else:
            export_released(source, out)
    assert not list(out.iterdir())


def test_a_taming_file_is_no_released_file(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    for name in ("unet", "decoder"):
        with pytest.raises(LdmSidError, match=r"taming\.safetensors"):
            convert_released(tmp_path / "t.safetensors", **{name: model.taming})  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="does not exist"):
        convert_released(tmp_path / "new" / "t.safetensors", unet=tmp_path / "none.ckpt")
    assert not (tmp_path / "new").exists()
