"""Taming a given host: a miniature Stable Diffusion in one file, the embedded model, folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.released_layout import Layout, build_weights, host_state, save_folder, save_single
from helpers.training_configs import taming_values, tiny_values
from helpers.training_runs import RandomPairs
from PIL import Image

from ldmsid_core.errors import CheckpointError, ConfigError
from ldmsid_core.hosts.fit import check_fit
from ldmsid_core.hosts.host import load_host
from ldmsid_core.model_files import EMBEDDED
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.taming.header import InputRecipe
from ldmsid_core.training.ablation import VARIANTS, read_ablations, run_ablations
from ldmsid_core.training.config import Stage, parse_training_config
from ldmsid_core.training.context import RunOptions, TrainingData
from ldmsid_core.training.hosting import given_host
from ldmsid_core.training.run import train_model
from ldmsid_core.weight_file import sha256_of

QUIET = RunOptions(quiet=True, on_cpu=True)
WIDTHS = (64, 64, 128, 128)
SHAPES: dict[str, Any] = {
    "unet_modules": {
        "encoder": {"width": 64, "features": 64},
        "widths": list(WIDTHS), "hidden": 8, "kind": "released",
    },
    "decoder_modules": {"widths": [64, 64, 64]},
}  # fmt: skip


def _values(host: Path, **changes: Any) -> dict[str, Any]:
    values = taming_values(str(host), **SHAPES)
    values["pool"]["encoded"] = 0
    return {**values, **changes}


def _parse(values: dict[str, Any]) -> Any:
    return parse_training_config(values, source="test")


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 2.x of small widths in one file, text encoder included."""
    path = tmp_path_factory.mktemp("sd") / "sd.safetensors"
    return save_single(path, host_state(build_weights(Layout(widths=WIDTHS))))


def test_the_prompt_is_the_text_encoders(miniature: Path) -> None:
    host = given_host(str(miniature))
    assert host.prompt.shape == (77, 64) and host.latent_scale == pytest.approx(0.18215)
    assert host.prediction_type == "epsilon" and host.sha256 == sha256_of(miniature)
    embedded = given_host("embedded")
    wanted = load_taming(EMBEDDED.taming).prompt_embedding
    assert wanted is not None and torch.equal(embedded.prompt, wanted)


def test_a_host_without_text_encoder_is_refused(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "sd", build_weights(Layout(widths=WIDTHS)))
    with pytest.raises(CheckpointError, match=r"text encoder in the host.*found none"):
        given_host(str(folder))


@pytest.mark.slow
def test_a_miniature_stable_diffusion_is_tamed(miniature: Path, tmp_path: Path) -> None:
    before = sha256_of(miniature)
    values = _values(miniature)
    for stage in values["stages"]:
        stage.update(crop=128, sample_every=1, checkpointing=True, accumulation=2, ema_decay=0.5)
    values["stages"][1]["loss"] = {"l1": 1.0, "areas": 0.0, "edges": 0.0, "perceptual": 1.0}
    values["generation"]["disk_megabytes"] = 50
    files = train_model(_parse(values), tmp_path / "run", options=QUIET)
    assert files.host == miniature and sha256_of(miniature) == before
    host, taming = load_host(files.host), load_taming(files.taming)
    check_fit(host, taming)
    header = taming.header
    assert (header.host_sha256, header.host_family) == (before, host.header.family)
    assert header.unet is not None and header.unet.kind == "released"
    assert header.training["perceptual"] == "weight-free" and header.training["tamed"] == "both"
    assert taming.decoder is not None
    assert bool(taming.decoder.fusion(1).shift[2].weight.any())  # type: ignore[union-attr]
    for name in ("unet_taming_0000001", "unet_taming_0000002", "decoder_taming_0000002"):
        with Image.open(tmp_path / "run" / "samples" / f"{name}.png") as sheet:
            # amplified | result | truth, a row a sample; a group of the decoder's has one.
            assert sheet.size == (3 * 128, 256 if name.startswith("unet") else 128)
    assert list((tmp_path / "run" / "latents" / "decoder_taming").glob("group_*"))


@pytest.mark.slow
def test_data_of_ones_own_replace_the_pool(miniature: Path, tmp_path: Path) -> None:
    opened: list[str] = []

    def open_pairs(stage: Stage) -> RandomPairs:
        opened.append(stage.name)
        return RandomPairs()

    data = TrainingData(open_pairs, InputRecipe(white_balance="none"))
    files = train_model(_parse(_values(miniature)), tmp_path, options=QUIET, data=data)
    assert opened == ["unet_taming", "decoder_taming"]
    assert load_taming(files.taming).header.input_recipe.white_balance == "none"


def test_epochs_of_endless_data_are_refused(miniature: Path, tmp_path: Path) -> None:
    values = _values(miniature)
    del values["stages"][0]["steps"]
    values["stages"][0]["epochs"] = 1
    with pytest.raises(ConfigError, match="Stage unet_taming counts in epochs"):
        train_model(_parse(values), tmp_path, options=QUIET)


def _stages(values: dict[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
    return {**values, "stages": [s for s in values["stages"] if s["kind"] in kinds]}


@pytest.mark.slow
def test_ablations_run_list_and_resume(tmp_path: Path) -> None:
    config = _parse(taming_values("embedded"))
    listed = run_ablations(config, tmp_path, options=QUIET)
    results = json.loads(listed.read_text())
    assert [r["name"] for r in results] == [v.name for v in VARIANTS]
    first = {r["name"]: (tmp_path / r["taming"]).read_bytes() for r in results}
    host = load_host(EMBEDDED.host)
    read = read_ablations(listed)
    assert [entry.variant for entry in read] == list(VARIANTS)
    assert [entry.taming for entry in read] == [tmp_path / r["taming"] for r in results]
    for result in results:
        assert Path(result["host"]) == EMBEDDED.host
        taming = load_taming(tmp_path / result["taming"])
        check_fit(host, taming)
        assert taming.header.input_recipe.bands == result["bands"]
        assert taming.header.training["tamed"] == result["tamed"]
    only_unet = load_taming(tmp_path / "unet_only" / "taming.safetensors")
    both = load_taming(tmp_path / "both" / "taming.safetensors")
    assert only_unet.decoder is not None and both.unet is not None and only_unet.unet is not None
    assert not any(
        bool(p.any())
        for n, p in only_unet.decoder.named_parameters()
        if n.endswith(("scale.2.weight", "shift.2.bias"))
    )
    name = "structure_encoder.conv_in.weight"
    assert torch.equal(only_unet.unet.get_parameter(name), both.unet.get_parameter(name))
    run_ablations(config, tmp_path, options=QUIET)
    assert first == {r["name"]: (tmp_path / r["taming"]).read_bytes() for r in results}


@pytest.mark.slow
def test_a_host_alone_is_trained_for_ablations(tmp_path: Path) -> None:
    config = _parse(_stages(tiny_values(), ("vae", "unet")))
    files = train_model(config, tmp_path / "host", options=QUIET)
    taming = load_taming(files.taming)
    assert taming.unet is None and taming.decoder is None and taming.prompt_embedding is not None
    host = given_host(str(files.host))
    assert torch.equal(host.prompt, taming.prompt_embedding)
    assert load_host(files.host).header.latent_rgb is not None


@pytest.mark.slow
def test_a_half_without_a_stage_stays_as_the_warm_start_has_it(tmp_path: Path) -> None:
    values = taming_values("embedded", warm_start="embedded")
    values["stages"].pop(0)
    with pytest.raises(ConfigError, match="a stage unet_taming"):
        _parse({**values, "warm_start": ""})
    files = train_model(_parse(values), tmp_path, options=QUIET)
    before, after = load_taming(EMBEDDED.taming), load_taming(files.taming)
    assert before.unet and before.decoder and after.unet and after.decoder
    kept = after.unet.state_dict()
    assert all(torch.equal(x, kept[name]) for name, x in before.unet.state_dict().items())
    learned = after.decoder.state_dict()
    changed = [not torch.equal(x, learned[n]) for n, x in before.decoder.state_dict().items()]
    assert any(changed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bands": "rescale"}, "Expected bands dwt"),
        ({"clip": [0.0, 1.0]}, r"Expected clip \(-1.0, 2.0\)"),
    ],
)
def test_a_kept_half_must_have_been_trained_so(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    values = taming_values("embedded", warm_start="embedded", **change)
    values["stages"].pop(0)
    with pytest.raises(ConfigError, match=words):
        train_model(_parse(values), tmp_path, options=QUIET)
    assert not (tmp_path / "taming.safetensors").exists()


def test_a_run_or_ablations_without_a_stage_are_refused(tmp_path: Path) -> None:
    values = taming_values("embedded", warm_start="embedded")
    values["stages"].pop(0)
    with pytest.raises(ConfigError, match="a stage unet_taming for taming 'unet'"):
        _parse({**values, "taming": "unet"})
    with pytest.raises(ConfigError, match="found no unet_taming"):
        run_ablations(_parse(values), tmp_path, options=QUIET)
