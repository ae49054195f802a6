"""Metrics, classical routes, tables and the score command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.tiny_model import write_model
from PIL import Image

from ldmsid_core.cli import main
from ldmsid_core.cli_evaluate import classical_results, evaluate_model, parse_ratios, simulated_raw
from ldmsid_core.cli_evaluate_models import ModelOptions
from ldmsid_core.cli_synth import dark_counts
from ldmsid_core.errors import ConfigError
from ldmsid_core.evaluation.classical import stabilise, unstabilise
from ldmsid_core.evaluation.metrics import psnr_rgb, ssim_rgb
from ldmsid_core.evaluation.table import ScoreTable
from ldmsid_core.raw.develop import develop_planes
from ldmsid_core.raw.noise import a7s2_noise, add_sensor_noise
from ldmsid_core.raw.simulate import (
    A7S2_WHITE_BALANCE,
    A7S2_XYZ_TO_CAMERA,
    CameraColour,
    linear_to_srgb,
    scene_mosaic,
    srgb_to_linear,
)
from ldmsid_core.training.photographs import load_photograph


def test_psnr_by_hand() -> None:
    truth = np.full((16, 16, 3), 0.5, np.float32)
    assert psnr_rgb(truth + np.float32(0.1), truth) == pytest.approx(20.0, abs=1e-3)
    assert ssim_rgb(truth, truth) == pytest.approx(1.0)


def test_stabilised_noise_has_variance_one_and_the_inverse_is_unbiased() -> None:
    noise = a7s2_noise(1600)
    for level in (20.0, 60.0, 400.0):
        clean = torch.full((1, 600, 600), level)
        noisy = add_sensor_noise(clean, [noise], generator=torch.Generator().manual_seed(0))
        stable = stabilise(noisy.double().numpy(), noise)
        assert stable.var() == pytest.approx(1.0, abs=0.12)
        mean = unstabilise(np.full((1, 1), stable.mean()), noise)
        assert float(mean[0, 0]) == pytest.approx(level, rel=0.04, abs=1.0)


def test_srgb_curve_round_trip_and_known_value() -> None:
    values = torch.linspace(0, 1, 101)
    assert torch.allclose(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-5)
    assert float(srgb_to_linear(torch.tensor(0.5))) == pytest.approx(0.21404, abs=1e-5)


def test_simulated_camera_and_development_are_inverse() -> None:
    photograph = load_photograph("coffee")[:64, :96]
    image = torch.from_numpy(photograph.copy()).permute(2, 0, 1)[None].float() / 255
    mosaic = scene_mosaic(image, CameraColour.a7s2())
    planes = torch.stack(
        [mosaic[:, 0::2, 0::2], mosaic[:, 0::2, 1::2], mosaic[:, 1::2, 1::2],
         mosaic[:, 1::2, 0::2]], dim=1,
    )  # fmt: skip
    found = develop_planes(
        planes, white_balance=A7S2_WHITE_BALANCE, xyz_to_camera=A7S2_XYZ_TO_CAMERA
    )
    # The planes sample the scene a quarter of a pixel apart, so only edges differ.
    assert float((found - image).abs().median()) < 0.01
    assert float((found.mean(dim=(2, 3)) - image.mean(dim=(2, 3))).abs().max()) < 0.01


def test_denoisers_beat_plain_amplification() -> None:
    photograph = load_photograph("coffee")[100:228, 200:328]
    raw = simulated_raw(dark_counts(photograph, ratio=100, iso=1600, seed=0), "coffee")
    pictures = classical_results(raw, a7s2_noise(1600), 100)
    truth = photograph.astype(np.float32) / np.float32(255)
    best = {k: max(psnr_rgb(p, truth) for p in found) for k, found in pictures.items()}
    assert set(best) == {"amplification", "BayesShrink", "non-local means"}
    assert best["BayesShrink"] > best["amplification"] + 2
    assert best["non-local means"] > best["amplification"] + 2


def test_table_means_are_per_ratio() -> None:
    rows = [
        {"photograph": p, "ratio": r, "route": "A", "psnr": v, "ssim": 0.5}
        for p, r, v in (("x", 100.0, 20.0), ("y", 100.0, 30.0), ("x", 300.0, 10.0))
    ]
    table = ScoreTable(rows)
    assert table.mean("A", 100.0, "psnr") == 25.0
    assert table.mean("A", 300.0, "psnr") == 10.0
    text = table.to_markdown()
    assert "**25.00 / 0.500**" in text and "| x300 | x | 10.00 / 0.500 |" in text


def test_ratios_are_parsed_strictly() -> None:
    assert parse_ratios("100,250") == [100.0, 250.0]
    with pytest.raises(ConfigError, match="such as 100,250,300"):
        parse_ratios("100;250")
    with pytest.raises(ConfigError, match="exposure ratio"):
        parse_ratios("0.1")


@pytest.mark.slow
def test_evaluate_writes_sheets_and_scores(tmp_path: Path) -> None:
    files = write_model(tmp_path / "model")
    table = evaluate_model(
        output=tmp_path / "out", ratios="100", quiet=True,
        models=ModelOptions(host=files.host, taming=files.taming, steps=1),
    )  # fmt: skip
    assert len(table.rows) == 4 * 4
    assert len(list((tmp_path / "out").glob("*_x100.png"))) == 4
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == table.rows


def test_score_command(tmp_path: Path) -> None:
    def call(*arguments: object) -> str:
        done = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    picture = load_photograph("coffee")[:64, :96]
    Image.fromarray(picture).save(tmp_path / "p.png")
    files = write_model(tmp_path / "model")
    call("synth", tmp_path / "p.png", "-o", tmp_path / "d.dng", "--ratio", 50)
    call("enhance", tmp_path / "d.dng", "-o", tmp_path, "--ratio", 50, "--host", files.host,
         "--taming", files.taming, "--steps", 1, "--quiet")  # fmt: skip
    arguments = ["score", tmp_path / "d.dng", tmp_path / "d.png", tmp_path / "d_truth.png"]
    scores = json.loads(call(*arguments, "--sheet", tmp_path / "s.png", "--json"))
    assert 5 < scores["amplified"]["psnr"] < 40 and "ssim" in scores["enhanced"]
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (3 * 96, 64)
    arguments[-1] = tmp_path / "s.png"
    wrong = CliRunner().invoke(main, [str(a) for a in arguments])
    assert wrong.exit_code == 1 and "Expected one size" in wrong.stderr
