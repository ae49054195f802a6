"""`--regression` and `--ablations`: more learned routes in the table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from helpers.tiny_model import write_model
from PIL import Image

from ldmsid_core.cli import main
from ldmsid_core.errors import CheckpointError, ConfigError
from ldmsid_core.evaluation.metrics import psnr_rgb
from ldmsid_core.evaluation.pictures import read_picture
from ldmsid_core.pipeline import recipe_planes
from ldmsid_core.raw.dng import DngHeader, write_dng
from ldmsid_core.raw.loader import load_raw
from ldmsid_core.raw.packed_raw import apply_orientation
from ldmsid_core.taming.header import InputRecipe
from ldmsid_core.training.ablation import read_ablations
from ldmsid_core.training.regression import build_regression
from ldmsid_core.training.regression_file import RegressionHeader, save_regression

WIDTHS = (4, 8, 16, 32, 64)
RECIPE = InputRecipe("none")
NAMES = {"model": "LDM-SID", "regression": "U-Net regression"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def write_list(folder: Path, *, entries: int = 2) -> Path:
    """A list of ablations: the model itself, and with another taming on the same host."""
    write_model(folder / "model")
    write_model(folder / "other", input_recipe=InputRecipe("as shot", bands="rescale"))
    host = "../model/host.safetensors"
    listed = [
        {"name": "both", "bands": "dwt", "tamed": "both", "host": host,
         "taming": "../model/taming.safetensors"},
        {"name": "rescale", "bands": "rescale", "tamed": "both", "host": host,
         "taming": str((folder / "other" / "taming.safetensors").resolve())},
    ]  # fmt: skip
    path = folder / "runs" / "ablations.json"
    path.parent.mkdir()
    path.write_text(json.dumps(listed[:entries]))
    return path


def write_baseline(folder: Path) -> Path:
    path = folder / "regression.safetensors"
    header = RegressionHeader(RECIPE, WIDTHS)
    save_regression(path, header, build_regression(WIDTHS, seed=2), dtype=torch.float32)
    return path


def write_raws(folder: Path) -> None:
    """A level file and an upright one, of sizes that no network likes, with truths of noise."""
    rng = np.random.default_rng(4)
    for name, orientation in (("level", 1), ("upright", 6)):
        mosaic = rng.integers(512, 900, (2 * 70, 2 * 84)).astype(np.uint16)
        (folder / "raws").mkdir(exist_ok=True)
        write_dng(folder / "raws" / f"{name}.dng", mosaic, DngHeader(orientation=orientation))
        size = (84, 70) if orientation == 6 else (70, 84)
        (folder / "truth").mkdir(exist_ok=True)
        truth = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        Image.fromarray(truth).save(folder / "truth" / f"{name}.png")


def scores(out: Path) -> dict[tuple[str, str], float]:
    with (out / "per_image.csv").open(newline="") as stream:
        return {(r["image"], r["route"]): float(r["psnr_rgb"]) for r in csv.DictReader(stream)}


def test_raws_get_the_baseline_and_the_variants(tmp_path: Path) -> None:
    listed, baseline = write_list(tmp_path), write_baseline(tmp_path)
    write_raws(tmp_path)
    model = tmp_path / "model"
    common = [
        "--raws", tmp_path / "raws", "--truth", tmp_path / "truth", "--ratios", 20, "--quiet",
        "--host", model / "host.safetensors", "--taming", model / "taming.safetensors",
        "--steps", 1, "--metrics", "psnr_rgb", "--device", "cpu", "--dtype", "fp32",
    ]  # fmt: skip
    plain = run(*common, "-o", tmp_path / "plain")
    done = run(*common, "-o", tmp_path / "out", "--regression", baseline, "--ablations", listed)
    assert plain.exit_code == done.exit_code == 0, plain.output + done.output
    said = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert said["routes"] == [
        "LDM-SID", "U-Net regression", "ablation both", "ablation rescale", "amplification",
        "BayesShrink", "non-local means", "LibRaw FBDD",
    ]  # fmt: skip
    notes = " ".join(said["notes"])
    assert "ablation rescale: bands rescale, taming of both" in notes and "Chen et al." in notes
    found = scores(tmp_path / "out")
    for name in ("level", "upright"):
        raw = load_raw(tmp_path / "raws" / f"{name}.dng")
        with torch.no_grad():
            planes = recipe_planes(raw, RECIPE, exposure_ratio=20.0)
            image = build_regression(WIDTHS, seed=2).picture(planes)
        turned = apply_orientation(image, raw.orientation)[0].permute(1, 2, 0).numpy()
        truth = read_picture(tmp_path / "truth" / f"{name}.png")
        stored = ((turned * 255.0).round() / 255.0).astype(np.float32)
        assert found[name, NAMES["regression"]] == pytest.approx(psnr_rgb(stored, truth), abs=1e-6)
        # The first variant is the model's own file; the second sees other bands.
        assert found[name, "ablation both"] == found[name, NAMES["model"]]
        assert found[name, "ablation rescale"] != found[name, NAMES["model"]]
    before = scores(tmp_path / "plain")
    assert before == {key: found[key] for key in before}


@pytest.mark.slow
def test_photographs_get_them_too(tmp_path: Path) -> None:
    listed, baseline = write_list(tmp_path, entries=1), write_baseline(tmp_path)
    model = tmp_path / "model"
    done = run(
        "--ratios", 100, "--host", model / "host.safetensors",
        "--taming", model / "taming.safetensors", "--steps", 1, "--metrics", "psnr_rgb",
        "--regression", baseline, "--ablations", listed, "-o", tmp_path / "out", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out" / "scores.json").read_text())
    routes = [
        "amplification", "BayesShrink", "non-local means", "LDM-SID", "U-Net regression",
        "ablation both",
    ]  # fmt: skip
    assert [row["route"] for row in rows] == routes * 4
    assert " | ".join(routes) in done.stdout
    own = [row["psnr"] for row in rows if row["route"] == "ablation both"]
    assert own == [row["psnr"] for row in rows if row["route"] == "LDM-SID"]
    said = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert said["settings"]["regression"] == "regression.safetensors"
    assert said["settings"]["ablations"] == str(listed)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ("no", ConfigError, "Expected JSON"),
        ([], ConfigError, "found none; run `ldmsid ablate`"),
        ({"both": 1}, ConfigError, "found none; run `ldmsid ablate`"),
        ([3], ConfigError, "alone, found 3"),
        ({"more": 1}, ConfigError, "bands, host, name, tamed, taming alone"),
        ({"bands": "fft"}, ConfigError, "found 'fft' and 'both'"),
        ({"tamed": "all"}, ConfigError, "found 'dwt' and 'all'"),
        ({"name": 3}, ConfigError, "name as str"),
        ({"taming": "gone.safetensors"}, CheckpointError, "gone.safetensors does not exist"),
        ({"name": "rescale"}, ConfigError, "different names"),
    ],
)
def test_lists_that_do_not_serve(
    tmp_path: Path, changed: Any, error: type[Exception], words: str
) -> None:
    path = write_list(tmp_path)
    good = json.loads(path.read_text())
    if isinstance(changed, str):
        path.write_text(changed)
    elif isinstance(changed, list) or "both" in changed:
        path.write_text(json.dumps(changed))
    else:
        path.write_text(json.dumps([{**good[0], **changed}, good[1]]))
    with pytest.raises(error, match=words):
        read_ablations(path)


def test_bad_files_are_one_clear_line(tmp_path: Path) -> None:
    listed, baseline = write_list(tmp_path), write_baseline(tmp_path)
    write_raws(tmp_path)
    raws = ["--raws", tmp_path / "raws", "--truth", tmp_path / "truth", "--quiet"]
    for arguments, words in (
        ([*raws, "--regression", tmp_path / "model" / "taming.safetensors"],
         "Expected a regression baseline"),
        ([*raws, "--regression", tmp_path / "none"], "none does not exist"),
        ([*raws, "--ablations", tmp_path / "none"], "Cannot read the list of ablations"),
        (["--regression", tmp_path / "none"], "none does not exist"),
        ([tmp_path / "truth", "--truth", tmp_path / "truth", "--regression", baseline],
         "Expected no --regression with folders of results"),
        ([tmp_path / "truth", "--truth", tmp_path / "truth", "--ablations", listed],
         "Expected no --ablations with folders of results"),
    ):  # fmt: skip
        done = run(*arguments)
        lines = done.stderr.splitlines()
        assert done.exit_code == 1 and len(lines) == 1 and words in lines[0], done.output
