"""LPIPS as a loss: values, gradients, what never learns, files that are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from helpers.lpips_weights import random_state, written
from helpers.shards import QUIET, random_host, taming_config

from ldmsid_core.cli import main
from ldmsid_core.errors import CheckpointError, ConfigError
from ldmsid_core.evaluation.lpips import ALEX, VGG, Backbone, load_lpips
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.training.config import TrainingConfig
from ldmsid_core.training.perceptual import LpipsLoss, load_perceptual
from ldmsid_core.training.run import train_model


def pictures(count: int = 2, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches in model range."""
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.rand(count, 3, side, side, generator=generator) for _ in range(2))
    return first * 2.0 - 1.0, second * 2.0 - 1.0


@pytest.mark.parametrize("backbone", [ALEX, VGG])
def test_the_loss_is_the_metric_averaged_over_samples(tmp_path: Path, backbone: Backbone) -> None:
    path = written(tmp_path, random_state(backbone))
    measure, metric = LpipsLoss(path), load_lpips(path)
    found, wanted = pictures()
    each = [
        metric.distance(found[i : i + 1] * 0.5 + 0.5, wanted[i : i + 1] * 0.5 + 0.5)
        for i in range(2)
    ]
    # Float32, once more through unit range.
    assert float(measure(found, wanted)) == pytest.approx(sum(each) / 2, rel=1e-4)
    assert measure.name == backbone.name
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(measure(found.bfloat16().float(), wanted),
                           measure(found.bfloat16(), wanted))  # fmt: skip


def test_gradients_reach_the_result_alone(tmp_path: Path) -> None:
    measure = LpipsLoss(written(tmp_path, random_state(ALEX)))
    found, wanted = pictures()
    found.requires_grad_(True)
    wanted.requires_grad_(True)
    measure(found, wanted).backward()
    assert wanted.grad is None and found.grad is not None
    assert not any(t.requires_grad for t in measure._network.state.values())
    # Along its own gradient a loss falls at the rate of the gradient's square.
    step = 1e-3 / found.grad.norm()
    with torch.no_grad():
        down, up = (measure(found - sign * step * found.grad, wanted) for sign in (1, -1))
    assert float(up - down) == pytest.approx(2e-3 * float(found.grad.norm()), rel=0.02)


def test_silent_features_have_no_gradient_and_no_nan(tmp_path: Path) -> None:
    state = random_state(ALEX)
    for number in (0, 3, 6, 8, 10):
        state[f"features.{number}.bias"] -= 1e3
    found, wanted = pictures()
    found.requires_grad_(True)
    loss = LpipsLoss(written(tmp_path, state))(found, wanted)
    loss.backward()
    assert float(loss.detach()) == 0.0 and found.grad is not None and not found.grad.any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_network_follows_the_pictures(tmp_path: Path) -> None:
    measure = LpipsLoss(written(tmp_path, random_state(ALEX)))
    found, wanted = pictures()
    plain = float(measure(found, wanted))
    moved = measure(found.cuda(), wanted.cuda())
    # Sums of float32 in another order, TF32 off for convolutions or not.
    assert moved.device.type == "cuda" and float(moved) == pytest.approx(plain, rel=1e-2)


def decoder_config(host: Path, perceptual: float = 1.0) -> TrainingConfig:
    """Two steps of decoder taming alone."""
    config = taming_config(host, {})
    loss = replace(config.stages[1].loss, perceptual=perceptual)
    stage = replace(config.stages[1], loss=loss, batch=1)
    small = replace(config.pool, window=2, side=144, photograph_share=0.0)
    return replace(config, stages=(stage,), taming="decoder", pool=small)


def test_a_run_goes_on_with_the_network_it_began_with(tmp_path: Path) -> None:
    config = decoder_config(random_host(tmp_path))
    path = written(tmp_path, random_state(ALEX))
    network = load_perceptual(path, config)
    files = train_model(config, tmp_path / "run", options=QUIET, perceptual=network)
    assert load_taming(files.taming).header.training["perceptual"] == "network"
    before = files.taming.read_bytes()
    train_model(config, tmp_path / "run", options=QUIET, perceptual=LpipsLoss(path))
    assert files.taming.read_bytes() == before
    other = LpipsLoss(written(tmp_path, random_state(ALEX, 1), "other.safetensors"))
    for now, words in ((None, "found none"), (other, f"found the LPIPS file of sha256 "
                                                     f"{other.sha256[:12]}")):  # fmt: skip
        with pytest.raises(ConfigError, match=f"sha256 {network.sha256[:12]}.*{words}"):
            train_model(config, tmp_path / "run", options=QUIET, perceptual=now)
    plain = train_model(config, tmp_path / "plain", options=QUIET)
    assert load_taming(plain.taming).header.training["perceptual"] == "weight-free"
    assert plain.taming.read_bytes() != before
    with pytest.raises(ConfigError, match="Expected none for the loss"):
        train_model(config, tmp_path / "plain", options=QUIET, perceptual=network)


def test_files_and_configurations_that_do_not_serve(tmp_path: Path) -> None:
    def call(command: str, config: TrainingConfig, lpips: Path) -> Result:
        path = tmp_path / "c.json"
        path.write_text(config.to_json())
        arguments = [command, path, "-o", tmp_path / "run", "--lpips", lpips, "--quiet"]
        return CliRunner().invoke(main, [str(a) for a in arguments])

    good = written(tmp_path, random_state(ALEX))
    state: dict[str, Any] = random_state(ALEX)
    state.pop("lin2.model.1.weight")
    half = written(tmp_path, state, "half.safetensors")
    for perceptual, lpips, words in (
        (0.0, good, "Expected a stage whose loss has a perceptual term"),
        (1.0, half, "lin2.model.1.weight is missing"),
        (1.0, tmp_path / "none.pth", "none.pth does not exist"),
        (1.0, tmp_path / "c.json", "c.json"),
    ):
        config = decoder_config(tmp_path / "no_host.safetensors", perceptual)
        for command in ("train", "ablate"):
            done = call(command, config, lpips)
            lines = done.stderr.splitlines()
            assert done.exit_code == 1 and len(lines) == 1 and words in lines[0], done.output
            assert not (tmp_path / "run").exists()
    with pytest.raises(CheckpointError, match="missing"):
        load_perceptual(half, decoder_config(Path("x")))
    assert "perceptual" in json.loads(config.to_json())["stages"][0]["loss"]
