"""The baseline: its shape and size, its training, its file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from helpers.shards import CROP, QUIET, pair_shards
from helpers.training_configs import tiny_values
from helpers.training_runs import losses_in
from PIL import Image
from torch.nn import functional

from ldmsid_core.cli import main
from ldmsid_core.errors import CheckpointError, ConfigError, NonFiniteError, OutputError
from ldmsid_core.hosts.host import load_host
from ldmsid_core.model_files import EMBEDDED
from ldmsid_core.safetensors_file import read_safetensors, write_safetensors
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.taming.header import InputRecipe
from ldmsid_core.training.ablation import run_ablations
from ldmsid_core.training.config import (
    TrainingConfig,
    find_training_config,
    load_training_config,
    parse_training_config,
)
from ldmsid_core.training.darkness import DarknessConfig
from ldmsid_core.training.images import ImagePool
from ldmsid_core.training.pairs import DarkImagePairs
from ldmsid_core.training.regress import model_parameters, train_regression
from ldmsid_core.training.regression import (
    RegressionNet,
    build_regression,
    parameter_count,
    regression_widths,
)
from ldmsid_core.training.regression_file import (
    RegressionHeader,
    load_regression,
    save_regression,
)

WIDTHS = (4, 8, 16, 32, 64)


def values(**changes: Any) -> dict[str, Any]:
    """A small baseline on drawn images."""
    stage = {
        "kind": "regression", "steps": 4, "batch": 2, "crop": 64, "warmup": 0, "precision": "no",
        "learning_rate": 1e-3,
    }  # fmt: skip
    return {
        "stages": [stage],
        "regression": {"parameters": parameter_count(WIDTHS)},
        "pool": {"window": 2, "side": 96, "photograph_share": 0.0},
        **changes,
    }


def parse(given: dict[str, Any]) -> TrainingConfig:
    return parse_training_config(given, source="c.json")


def test_the_published_widths_have_the_published_size() -> None:
    # Counted by hand for 32..512 with four planes in and, unlike there, three colours out:
    # 9 a b + b a convolution, 4 a b + b a transposed one.
    by_hand = 0
    for inside, outside in ((4, 32), (32, 64), (64, 128), (128, 256), (256, 512)):
        by_hand += 9 * inside * outside + outside + 9 * outside * outside + outside
    for inside, outside in ((512, 256), (256, 128), (128, 64), (64, 32)):
        by_hand += 4 * inside * outside + outside
        by_hand += 9 * inside * outside + outside + 9 * outside * outside + outside
    by_hand += 32 * 3 + 3
    widths = (32, 64, 128, 256, 512)
    network = build_regression(widths, seed=0)
    assert parameter_count(widths) == sum(p.numel() for p in network.parameters()) == by_hand
    assert regression_widths(by_hand) == widths


@pytest.mark.parametrize("wanted", [8_000, 50_000, 1_234_567, 17_135_851, 1_000_000_000])
def test_the_size_asked_for_is_met(wanted: int) -> None:
    widths = regression_widths(wanted)
    # A channel more or less at the coarsest of five levels changes so large a share, twice.
    assert parameter_count(widths) == pytest.approx(wanted, rel=2.5 / widths[-1])
    assert all(abs(2 * fine - coarse) <= 2 for fine, coarse in pairwise(widths))


def test_the_bundled_baseline_is_as_large_as_the_embedded_model() -> None:
    config = load_training_config(find_training_config(Path("tiny_regression")))
    host, taming = load_host(EMBEDDED.host), load_taming(EMBEDDED.taming)
    assert taming.unet is not None and taming.decoder is not None
    modules = (host.unet, host.vae, taming.unet, taming.decoder)
    embedded = sum(p.numel() for module in modules for p in module.parameters())
    assert model_parameters(config) == embedded
    assert model_parameters(replace(config, host="embedded")) == embedded
    assert parameter_count(regression_widths(embedded)) == pytest.approx(embedded, rel=0.002)
    tiny = load_training_config(find_training_config(Path("tiny")))
    assert (config.unet_modules, config.decoder_modules) == (
        tiny.unet_modules, tiny.decoder_modules,
    )  # fmt: skip
    assert config.darkness == tiny.darkness and config.data == tiny.data


def test_the_picture_lies_on_the_planes() -> None:
    network = build_regression(WIDTHS, seed=0)
    planes = torch.rand(1, 4, 32, 48, generator=torch.Generator().manual_seed(1)) * 2.0 - 1.0
    with torch.no_grad():
        plain = network(planes)
        changed = planes.clone()
        changed[:, :, 20, 40] += 0.5
        moved = (network(changed) - plain).abs().sum(dim=1)[0]
        # Nearest to a change the answer is largest, and whole-cell shifts commute with the network.
        assert divmod(int(moved.argmax()), 48)[0] in range(18, 23)
        # Wider than the network sees, so that no border matters.
        wide = functional.pad(planes, (128,) * 4)
        still, shifted = network(wide), network(torch.roll(wide, (16, 16), (2, 3)))
        inner = (..., slice(128, 160), slice(128, 176))
        # Float32 sums in another order.
        torch.testing.assert_close(
            torch.roll(shifted, (-16, -16), (2, 3))[inner], still[inner], atol=1e-5, rtol=1e-4
        )
        picture = network.picture(planes[:, :, :21, :37])
        assert picture.shape == (1, 3, 21, 37) and picture.dtype == torch.float32
        assert 0.0 <= float(picture.min()) <= float(picture.max()) <= 1.0
        network.out.bias.fill_(float("inf"))
        with pytest.raises(NonFiniteError, match="baseline"):
            network.picture(planes)


def test_skips_join_each_level() -> None:
    """Without the coarser levels' part the finest skip alone still carries the planes through."""
    network = build_regression(WIDTHS, seed=0)
    with torch.no_grad():
        for enlarge in network.enlarge:
            enlarge.weight.zero_()
            enlarge.bias.zero_()
    planes = torch.zeros(1, 4, 32, 32, requires_grad=True)
    network(planes)[0, :, 16, 16].sum().backward()
    assert planes.grad is not None
    seen = planes.grad.abs().sum(dim=1)[0] > 0
    # Four 3x3 convolutions at full size: 9x9 pixels around.
    assert seen.nonzero().min(dim=0).values.tolist() == [12, 12]
    assert seen.nonzero().max(dim=0).values.tolist() == [20, 20]


def error_of(network: RegressionNet) -> float:
    """Mean absolute error on images that no run of this file draws."""
    pool = ImagePool(seed=77, window=4, side=96, renew_every=4, photograph_share=0.0)
    image, planes = DarkImagePairs(pool, DarknessConfig(), stream=9).batch(0, count=8, crop=64)
    with torch.no_grad():
        return float((network.picture(planes) - image).abs().mean())


def test_a_run_learns_resumes_and_writes_its_file(tmp_path: Path) -> None:
    longer = values()
    longer["stages"][0].update(steps=60, save_steps=40, sample_every=60, learning_rate=2e-3)
    config = parse(longer)
    done = train_regression(config, tmp_path / "a", options=QUIET)
    assert done.paths == (tmp_path / "a" / "regression.safetensors",)
    assert len(losses_in(tmp_path / "a" / "regression.csv")) == 60
    whole = done.file.read_bytes()
    loaded = load_regression(done.file)
    header = loaded.header
    assert header.widths == WIDTHS and header.input_recipe == InputRecipe("as shot")
    assert header.training["parameters"] == header.training["parameters_wanted"]
    assert header.training["steps"] == {"regression": 60} and header.licence == "Apache-2.0"
    fresh = build_regression(WIDTHS, seed=config.seed)
    assert error_of(loaded.network) < 0.6 * error_of(fresh)
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    with Image.open(tmp_path / "a" / "samples" / "regression_0000060.png") as sheet:
        assert sheet.size == (3 * 64, 2 * 64)
    (tmp_path / "a" / "regression.state.pt").unlink()  # step 40 is left
    again = train_regression(config, tmp_path / "a", options=QUIET)
    assert again.file.read_bytes() == whole
    with pytest.raises(ConfigError, match="regression"):
        other = replace(config, regression=replace(config.regression, parameters=99_999))
        train_regression(other, tmp_path / "a", options=QUIET)


def test_the_same_command_trains_it_on_the_same_shards(tmp_path: Path) -> None:
    data = {"kind": "pairs", "folder": str(pair_shards(tmp_path)), "white_balance": "none"}
    given = values(data=data)
    given.pop("pool")
    given["stages"][0].update(crop=CROP, steps=0, epochs=1)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(given))
    arguments = ["train", str(path), "-o", str(tmp_path / "run"), "--quiet", "--cpu"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(tmp_path / "run" / "regression.safetensors")]
    header = load_regression(Path(done.stdout.strip())).header
    assert header.input_recipe == InputRecipe("none") and header.training["data"] == "pairs"
    assert len(losses_in(tmp_path / "run" / "regression.csv")) == 2  # four pairs by two


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"taming": "unet"}, "no taming with regression stages"),
        ({"warm_start": "embedded"}, "no warm_start"),
        ({"generation": {"steps": 3}}, "no generation"),
        ({"bands": "rescale"}, "no bands"),
        ({"host": "embedded"}, "no host with regression stages of stated parameters"),
        ({"decoder_modules": {"widths": [32, 32, 32]}}, "no decoder_modules"),
        ({"regression": {"parameters": 10}}, "parameters of 0 or at least"),
        ({"regression": {"width": 10}}, "regression: unknown setting width"),
    ],
)
def test_bad_baselines_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(values(**change))


def test_baselines_stand_alone(tmp_path: Path) -> None:
    given = tiny_values()
    given["stages"].append(values()["stages"][0])
    with pytest.raises(ConfigError, match="found decoder_taming, unet, unet_taming, vae"):
        parse(given)
    with pytest.raises(ConfigError, match="without regression stages"):
        parse(tiny_values(regression={"parameters": 10**6}))
    given = values()
    given["stages"][0]["checkpointing"] = True
    with pytest.raises(ConfigError, match="no checkpointing"):
        parse(given)
    with pytest.raises(ConfigError, match="stages of taming for ablations"):
        run_ablations(parse(values()), tmp_path, options=QUIET)


def test_files_are_read_strictly(tmp_path: Path) -> None:
    header = RegressionHeader(InputRecipe("none"), WIDTHS, {"seed": 1}, "CC0")
    network, path = build_regression(WIDTHS, seed=3), tmp_path / "r.safetensors"
    save_regression(path, header, network, dtype=torch.float32)
    loaded = load_regression(path)
    assert loaded.header == header and loaded.name == "r.safetensors"
    pairs = zip(network.parameters(), loaded.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(OutputError, match="exists already"):
        save_regression(path, header, network, dtype=torch.float32)

    state, metadata = read_safetensors(path)
    good = json.loads(metadata["ldmsid_regression"])
    assert good == json.loads(json.dumps(asdict(header)))

    def refused(words: str, changed: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        text = {"ldmsid_regression": json.dumps(changed)} if changed else {}
        write_safetensors(path, tensors, text, overwrite=True)
        with pytest.raises((CheckpointError, ConfigError), match=words):
            load_regression(path)

    refused("no baseline|has none", {}, state)
    refused("version 1, found 2", {**good, "format_version": 2}, state)
    refused("unknown setting depth", {**good, "depth": 5}, state)
    refused("Expected 5 widths", {**good, "widths": [4, 8]}, state)
    refused("Expected 5 widths", {**good, "widths": [4, 8, 16, 32, 0]}, state)
    refused(r"instead of \(5,", {**good, "widths": [5, 8, 16, 32, 64]}, state)
    refused("out.bias is missing", good, {k: v for k, v in state.items() if k != "out.bias"})
    refused("more is .* instead of absent", good, {**state, "more": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="has none; choose a file that `ldmsid train`"):
        load_regression(EMBEDDED.taming)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_regression(tmp_path / "none.safetensors")
