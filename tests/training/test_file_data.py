"""The section `data`: strictness, what stages get, errors before a run begins, whole runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from helpers.shards import (
    CROP,
    QUIET,
    break_shard,
    pair_shards,
    photograph_shards,
    random_host,
    taming_config,
)
from helpers.tiny_model import write_model
from helpers.training_configs import tiny_values

from ldmsid_core.cli import main
from ldmsid_core.errors import ConfigError, DatasetError
from ldmsid_core.hosts.host import load_host
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.taming.header import InputRecipe
from ldmsid_core.training.ablation import VARIANTS, variant_config
from ldmsid_core.training.config import Stage, load_training_config, parse_training_config
from ldmsid_core.training.context import TrainingData
from ldmsid_core.training.data.paired_crops import PairedCrops
from ldmsid_core.training.data.photograph_pool import PhotographPool
from ldmsid_core.training.file_data import open_file_data, sensor_name
from ldmsid_core.training.pairs import BatchPart, TrainingPairs, images_of, names_of, pairs_of
from ldmsid_core.training.run import train_model


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pair_shards(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photograph_shards(tmp_path_factory.mktemp("photographs"))


@pytest.mark.parametrize(
    ("data", "change", "words"),
    [
        ({"kind": "sid"}, {}, "drawn, pairs, photographs, found 'sid'"),
        ({"kinds": "pairs"}, {}, "data: unknown setting kinds"),
        ({"kind": "pairs"}, {}, "folder of shards with data of the kind pairs, found none"),
        ({"folder": "x"}, {}, "no folder with data of the kind drawn"),
        ({"kind": "pairs", "folder": "x", "flips": "all"}, {}, "none, cells, bayer"),
        ({"kind": "pairs", "folder": "x", "white_balance": "auto"}, {}, "'none' or 'as shot'"),
        ({"kind": "photographs", "folder": "x", "flips": "none"}, {}, "no flips with data"),
        ({"kind": "photographs", "folder": "x", "leave_out": []}, {}, "is for pairs"),
        ({"kind": "photographs", "folder": "x", "white_balance": "none"}, {}, "no white_balance"),
        ({"other_sensor": True}, {}, "it is for pairs and photographs"),
        ({"kind": "pairs", "folder": "x"}, {"pool": {"side": 99}}, "no settings of pool but"),
        ({"kind": "pairs", "folder": "x"}, {"darkness": {"cameras": ["d850"]}}, "no darkness"),
    ],
)
def test_bad_sections_are_named(data: dict[str, Any], change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        taming_config("embedded", data, **change)


def test_drawn_data_are_the_default_and_survive_being_saved() -> None:
    values = tiny_values()
    plain = parse_training_config(values, source="c")
    assert plain == parse_training_config({**values, "data": {"kind": "drawn"}}, source="c")
    assert open_file_data(plain) is None
    config = taming_config("embedded", {"kind": "pairs", "folder": "x", "leave_out": []})
    assert parse_training_config(json.loads(config.to_json()), source="c") == config


def test_taming_stages_get_the_pairs(pairs: Path) -> None:
    data = {"kind": "pairs", "folder": str(pairs), "flips": "none", "white_balance": "none"}
    config = taming_config("embedded", data, seed=7)
    found = open_file_data(config)
    assert found is not None
    assert found.recipe == InputRecipe("none", sensor="Sony A7S II")
    for place, stage in enumerate(config.stages):
        crops = PairedCrops(pairs, seed=7 + place, recipe=InputRecipe("none"), flips="none")
        wanted = crops.batch(3, count=3, crop=CROP)
        part = BatchPart(3, 3, 1, 3)
        image, planes = pairs_of(found.open(stage), part, crop=CROP)
        assert torch.equal(image, wanted.truth[1:]) and torch.equal(planes, wanted.planes[1:])
        assert names_of(found.open(stage), part) == wanted.names[1:]
        assert len(found.open(stage)) == 4  # type: ignore[arg-type]


def test_photographs_are_made_dark_sample_by_sample(photographs: Path) -> None:
    config = taming_config(
        "embedded", {"kind": "photographs", "folder": str(photographs)}, seed=7,
        darkness={"cameras": ["d850", "phone"]},
    )  # fmt: skip
    found = open_file_data(config)
    assert found is not None and found.recipe == InputRecipe("as shot")
    stage = config.stages[1]
    whole = found.open(stage).batch(2, count=3, crop=CROP)
    assert torch.equal(whole[0], PhotographPool(photographs, seed=8).batch(2, count=3, crop=CROP))
    part = pairs_of(found.open(stage), BatchPart(2, 3, 1, 3), crop=CROP)
    assert all(torch.equal(w[1:], p) for w, p in zip(whole, part, strict=True))
    other = taming_config(
        "embedded", {"kind": "photographs", "folder": str(photographs)}, seed=7,
        darkness={"cameras": ["700d"]},
    )  # fmt: skip
    again = open_file_data(other)
    assert again is not None
    darker = again.open(stage).batch(2, count=3, crop=CROP)
    assert torch.equal(darker[0], whole[0]) and not torch.equal(darker[1], whole[1])


def test_stages_of_the_host_get_the_truth_alone(pairs: Path) -> None:
    values = tiny_values(pool={"encoded": 8}, data={"kind": "pairs", "folder": str(pairs)})
    config = parse_training_config(values, source="c")
    found = open_file_data(config)
    assert found is not None
    stage = config.stages[1]
    wanted = PhotographPool(pairs, seed=config.seed + 1).batch(4, count=2, crop=64)
    assert torch.equal(images_of(found.images(stage), BatchPart(4, 2, 1, 2), crop=64), wanted[1:])


def test_errors_come_before_the_folder_is_made(
    pairs: Path, photographs: Path, tmp_path: Path
) -> None:
    host = random_host(tmp_path)
    start = {"warm_start": str(tmp_path / "model")}
    (tmp_path / "canon").mkdir()
    canon = pair_shards(tmp_path / "canon", make="Canon", model="Canon EOS 5D")
    plain = write_model(tmp_path / "plain", input_recipe=InputRecipe("none"))
    for data, change, error, words in (
        ({"folder": str(tmp_path / "none")}, {}, DatasetError, "make it with `ldmsid prepare`"),
        ({"folder": str(photographs)}, {}, DatasetError, "found photographs"),
        ({"folder": str(pairs), "split": "test"}, {}, DatasetError, "splits there: train"),
        ({"folder": str(pairs), "flips": "bayer"}, {"crop": 192}, ConfigError, "found 192"),
        ({"folder": str(canon)}, start, ConfigError,
         r"sensor Sony A7S II, for which .*found Canon EOS 5D in .*other_sensor to true"),
        ({"folder": str(pairs), "white_balance": "none"}, start, ConfigError, "white_balance"),
        ({"folder": str(pairs)}, {"warm_start": str(plain.host.parent)}, ConfigError,
         "balance 'none'"),
    ):  # fmt: skip
        crop = change.pop("crop", None)
        config = taming_config(host, {"kind": "pairs", **data}, **change)
        if crop:
            stages = tuple(replace(stage, crop=crop) for stage in config.stages)
            config = replace(config, stages=stages)
        with pytest.raises(error, match=words):
            train_model(config, tmp_path / "run", options=QUIET)
        assert not (tmp_path / "run").exists()


def test_another_sensor_may_be_meant(tmp_path: Path) -> None:
    canon = pair_shards(tmp_path, make="Canon", model="Canon EOS 5D")
    data = {"kind": "pairs", "folder": str(canon), "other_sensor": True}
    config = taming_config(random_host(tmp_path), data, warm_start=str(tmp_path / "model"))
    files = train_model(config, tmp_path / "run", options=QUIET)
    assert load_taming(files.taming).header.input_recipe.sensor == "Canon EOS 5D"
    assert sensor_name("SONY ILCE-7SM2") == "Sony A7S II" and sensor_name("") == ""


def test_loaders_belong_to_data_from_files(pairs: Path, tmp_path: Path) -> None:
    host = random_host(tmp_path)
    with pytest.raises(ConfigError, match="Expected data from files with 3 loaders"):
        train_model(taming_config(host, {}), tmp_path / "run", options=replace(QUIET, loaders=3))
    data = TrainingData(lambda _stage: _never(), InputRecipe())
    with pytest.raises(ConfigError, match="found both"):
        config = taming_config(host, {"kind": "pairs", "folder": str(pairs)})
        train_model(config, tmp_path / "run", options=QUIET, data=data)


def _never() -> TrainingPairs:
    raise AssertionError("was opened")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pairs", "photographs"])
def test_a_run_equals_one_without_threads_and_resumes(
    kind: str, pairs: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pairs if kind == "pairs" else photographs
    config = taming_config(random_host(tmp_path), {"kind": kind, "folder": str(folder)})
    config = replace(config, stages=tuple(replace(s, save_steps=1) for s in config.stages))
    files = train_model(config, tmp_path / "a", options=replace(QUIET, loaders=3))
    header = load_taming(files.taming).header
    assert header.training["data"] == kind and files.left_out.crops == 0
    assert header.input_recipe == InputRecipe("as shot")

    whole = files.taming.read_bytes()
    (tmp_path / "a" / "decoder_taming.state.pt").unlink()  # the state after one step is left
    files = train_model(config, tmp_path / "a", options=QUIET)
    assert files.taming.read_bytes() == whole

    own = open_file_data(config)
    assert own is not None
    monkeypatch.setattr("ldmsid_core.training.start.open_file_data", lambda _config: None)
    data = TrainingData(own.open, own.recipe)  # asked in order by the main thread
    plain = train_model(config, tmp_path / "b", options=QUIET, data=data)
    assert plain.taming.read_bytes() == whole


@pytest.mark.slow
def test_a_host_trains_on_photographs(photographs: Path, tmp_path: Path) -> None:
    data = {"kind": "photographs", "folder": str(photographs)}
    values = tiny_values(pool={"encoded": 8}, data=data)
    config = parse_training_config(values, source="c")
    files = train_model(config, tmp_path / "run", options=QUIET)
    assert load_host(files.host).header.latent_rgb is not None
    assert load_taming(files.taming).header.training["data"] == "photographs"


def test_variants_of_a_run_on_shards_are_valid(pairs: Path) -> None:
    values = tiny_values(pool={"encoded": 8}, data={"kind": "pairs", "folder": str(pairs)})
    config = parse_training_config(values, source="c")
    chosen = variant_config(config, VARIANTS[3], "embedded")
    assert parse_training_config(json.loads(chosen.to_json()), source="c") == chosen
    found = open_file_data(chosen)
    assert found is not None
    used: list[Stage] = [stage for _, stage in chosen.used_stages()]
    assert [stage.kind for stage in used] == ["decoder_taming"] * 2
    assert [len(found.open(stage)) for stage in used] == [4, 4]  # type: ignore[arg-type]


def test_the_command_lists_what_it_could_not_read(tmp_path: Path) -> None:
    folder = pair_shards(tmp_path)
    config = taming_config(random_host(tmp_path), {"kind": "pairs", "folder": str(folder)})
    only = replace(config, stages=config.stages[:1], taming="unet")
    path = tmp_path / "c.json"
    path.write_text(only.to_json())
    assert load_training_config(path) == only
    break_shard(folder / "shard-00001.safetensors")
    done = CliRunner().invoke(
        main, ["train", str(path), "-o", str(tmp_path / "run"), "--quiet", "--cpu"]
    )
    assert done.exit_code == 0, done.output
    lines = done.stderr.splitlines()
    assert "crops could not be read and others took their places" in lines[0]
    assert "of 2 files" in lines[0] and len(lines) == 3
    assert all("ldmsid: left out Sony/short/00002_0" in line for line in lines[1:])
    assert len(done.stdout.splitlines()) == 2
