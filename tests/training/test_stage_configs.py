"""Configurations: the paper's settings, strictness, stages in order, epochs, names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.training_configs import CONFIGS, taming_values, tiny_values

from ldmsid_core.errors import ConfigError
from ldmsid_core.taming.configs import DecoderTamingConfig, UNetTamingConfig
from ldmsid_core.training.config import (
    changed_settings,
    find_training_config,
    load_training_config,
    parse_training_config,
)
from ldmsid_core.training.stage import StageConfig


def parse(values: dict[str, Any]) -> Any:
    """A configuration of JSON values."""
    return parse_training_config(values, source="c.json")


def test_the_papers_settings() -> None:
    config = load_training_config(find_training_config(Path("paper_sd21")))
    unet, decoder = config.stages
    assert config.host and config.taming == "both" and config.bands == "dwt"
    assert config.unet_modules == UNetTamingConfig() and config.unet_modules.kind == "released"
    assert config.decoder_modules == DecoderTamingConfig()
    assert (unet.kind, unet.optimiser, unet.learning_rate, unet.weight_decay) == (
        "unet_taming", "adamw", 5e-5, 0.01,
    )  # fmt: skip
    assert (unet.batch, unet.accumulation, unet.crop, unet.epochs) == (6, 4, 512, 100)
    assert (decoder.kind, decoder.optimiser, decoder.learning_rate) == (
        "decoder_taming", "adam", 5e-5,
    )  # fmt: skip
    assert decoder.adam_betas == (0.5, 0.9) and decoder.weight_decay == 0.0
    assert (decoder.batch, decoder.accumulation, decoder.epochs) == (1, 8, 30)
    terms = decoder.loss
    assert (terms.l1, terms.perceptual, terms.areas, terms.edges) == (1.0, 1.0, 0.0, 0.0)


def test_every_bundled_configuration_survives_being_saved() -> None:
    for path in CONFIGS.glob("*.json"):
        config = load_training_config(path)
        assert parse(json.loads(config.to_json())) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hosts": "x"}, "unknown setting hosts"),
        ({"taming": "all"}, "both or unet or decoder"),
        ({"bands": "fft"}, "dwt or rescale"),
        ({"clip": [0.1, 1.0]}, r"clip from -16\.\.0 to 1\.\.16, found 0\.1 to 1"),
        ({"prediction_type": "x0"}, "epsilon or v_prediction, found 'x0'"),
        ({"stages": []}, "different names"),
        ({"stages": {"vae": {}}}, "stages as a list"),
        ({"stages": [{"steps": 1}]}, "expected a kind"),
        ({"stages": [{"kind": "gan", "steps": 1}]}, "found 'gan'"),
        ({"host": "x"}, "no stages unet, vae with the host 'x'"),
        ({"generation": {"disk_megabytes": -1}}, "disk_megabytes"),
        ({"generation": {"drift": -0.1}}, "drift from 0 to 2, found -0.1"),
        ({"pool": {"encoded": 0}}, "pool.encoded above 0"),
        ({"pool": {"epoch_samples": -1}}, "epoch_samples"),
        ({"pool": {"mosaic": 1.5}}, r"mosaic in 0\.\.1, found 1\.5"),
    ],
)
def test_bad_runs_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(tiny_values(**change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"surprise": 1}, "decoder_taming: unknown setting surprise"),
        ({"loss": {"lpips": 1.0}}, "loss: unknown setting lpips"),
        ({"loss": {"areas": 0.0, "edges": 0.0}}, "one above 0"),
        ({"loss": {"ssim": -1.0}}, "loss weights >= 0"),
        ({"precision": "fp8"}, "no, bf16, fp16"),
        ({"schedule": "linear"}, "cosine, constant"),
        ({"optimiser": "sgd"}, "adamw, adam"),
        ({"epochs": 1}, "exactly one of steps and epochs"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"accumulation": 0}, "accumulation at least 1"),
        ({"adam_betas": [0.9]}, "two adam_betas"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm above 0"),
        ({"checkpointing": 1}, "checkpointing as bool"),
        ({"name": "../x"}, "letters and digits"),
        ({"name": "unet_taming"}, "different names"),
    ],
)
def test_bad_stages_are_named(change: dict[str, Any], words: str) -> None:
    values = taming_values("embedded")
    values["stages"][1].update(change)
    with pytest.raises(ConfigError, match=words):
        parse(values)


def test_stages_that_do_not_belong_together() -> None:
    values = tiny_values()
    values["stages"].reverse()
    with pytest.raises(ConfigError, match="in the order vae, unet"):
        parse(values)
    values = taming_values("embedded")
    values["stages"].pop()
    with pytest.raises(ConfigError, match="a stage decoder_taming for taming 'both'"):
        parse(values)
    assert parse({**values, "taming": "unet"}).of_kind("unet_taming")[0][0] == 0
    with pytest.raises(ConfigError, match="no prediction_type with the host 'embedded'"):
        parse(taming_values("embedded", prediction_type="v_prediction"))
    values = taming_values("")
    with pytest.raises(ConfigError, match=r"Expected stages vae and unet \(unet with"):
        parse(values)
    values = tiny_values()
    values["stages"][0]["sample_every"] = 5
    with pytest.raises(ConfigError, match="stages of a host draw no sample sheets"):
        parse(values)
    values = tiny_values()
    values["stages"][3]["loss"] = {"ssim": 1.0}
    with pytest.raises(ConfigError, match="only decoder_taming and regression have a loss"):
        parse(values)


def test_a_half_left_out_has_no_stages() -> None:
    config = parse(taming_values("embedded", taming="decoder"))
    assert not config.of_kind("unet_taming") and len(config.of_kind("decoder_taming")) == 1


def test_epochs_become_steps() -> None:
    config = StageConfig(epochs=30, batch=1, accumulation=8)
    # 30 * 1865 / 16 = 3496.9 on two processes.
    found = config.counted_in_steps(1865, 2, "s")
    assert (found.steps, found.epochs) == (3497, 0)
    with pytest.raises(ConfigError, match="Stage s counts in epochs"):
        config.counted_in_steps(None, 1, "s")
    plain = StageConfig(steps=3)
    assert plain.counted_in_steps(None, 1, "s") is plain


def test_changed_settings_are_named_with_their_stage() -> None:
    before = parse(taming_values("embedded"))
    values = taming_values("embedded", seed=4)
    values["stages"][1]["learning_rate"] = 1.0
    assert changed_settings(before, parse(values)) == ["seed", "decoder_taming.learning_rate"]
    values["stages"][1]["name"] = "other"
    assert changed_settings(before, parse(values)) == ["seed", "stages"]


def test_a_file_goes_before_a_bundled_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_training_config(Path("tiny")) == CONFIGS / "tiny.json"
    Path("tiny").write_text("{}")
    assert find_training_config(Path("tiny")) == Path("tiny")
    assert find_training_config(Path("none")) == Path("none")
