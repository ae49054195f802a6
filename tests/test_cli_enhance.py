"""`ldmsid enhance`: tiles, parts, estimates, starts and the authors' recipe, as users meet them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.raws import write_test_dng
from helpers.tiny_model import write_model
from numpy.typing import NDArray
from PIL import Image

from ldmsid_core.cli import main
from ldmsid_core.hosts import planner


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def model(tmp_path: Path) -> list[object]:
    files = write_model(tmp_path / "model")
    return [
        "--host", files.host, "--taming", files.taming, "--steps", 2, "--quiet", "--device", "cpu",
        "--dtype", "fp32", "--ratio", 5,
    ]  # fmt: skip


@pytest.fixture
def dng(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "shot.dng"
    write_test_dng(path, height=96, width=132, orientation=6)
    return path


def read(path: Path) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    with Image.open(path) as picture:
        picture.load()
        return np.asarray(picture), json.loads(picture.text["ldmsid"])  # type: ignore[attr-defined]


def only_line(result: Result, *words: object) -> None:
    """The command failed with one clear line that holds all words."""
    lines = result.stderr.strip().splitlines()
    assert result.exit_code != 0
    assert len(lines) == 1, result.stderr
    for word in words:
        assert str(word) in lines[0]


def test_a_dry_run_writes_nothing_and_says_what_it_takes(
    tmp_path: Path, model: list[object]
) -> None:
    path, out = tmp_path / "a.dng", tmp_path / "out"
    write_test_dng(path, height=256, width=512)
    out.mkdir()
    (out / "a.png").write_text("mine")
    result = call("enhance", path, "-o", out, "--dry-run", *model)
    assert result.exit_code == 0, result.stderr
    said = r"a\.dng: 256x128 pixels, 2 steps in one piece, exact decode, [\d.e+-]+ TFLOP, about "
    assert re.search(said + r"[\d.]+ GB of working memory \([\d.e+]+ GB free\), about \d+ s",
                     result.stdout), result.stdout  # fmt: skip
    options = ["--dry-run", "--json", "--tile", 128, "--overlap", 32, "--decode", "bounded"]
    (report,) = json.loads(call("enhance", path, "-o", out, *options, *model).stdout)
    assert (report["tiles"], report["tile"], report["decode"]) == (3, 128, "bounded")
    assert report["flops"] > 0 and report["seconds"] > 0
    assert 0 < report["peak_bytes"] < 10**9 and report["free_bytes"] > 0
    assert [p.read_text() for p in out.iterdir()] == ["mine"]
    assert call("enhance", path, "-o", tmp_path / "new", "--dry-run", *model).exit_code == 0
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("crop", ["0,0,48,66", "10,20,30,5", "47,65,1,1"])
def test_a_crop_is_that_part_of_the_upright_picture(
    tmp_path: Path, dng: Path, model: list[object], crop: str
) -> None:
    assert call("enhance", dng, "-o", tmp_path / "whole", *model).exit_code == 0
    result = call("enhance", dng, "-o", tmp_path / "part", "--crop", crop, *model, "--json")
    assert result.exit_code == 0, result.stderr
    whole, _ = read(tmp_path / "whole" / "shot.png")
    part, settings = read(tmp_path / "part" / "shot.png")
    left, top, width, height = (int(n) for n in crop.split(","))
    assert np.array_equal(part, whole[top : top + height, left : left + width])
    (report,) = json.loads(result.stdout)
    assert (report["width"], report["height"]) == (width, height)
    assert settings["crop"] == crop


@pytest.mark.parametrize("orientation", [2, 3, 5, 8])
def test_crops_of_every_orientation(tmp_path: Path, model: list[object], orientation: int) -> None:
    path = tmp_path / "a.dng"
    write_test_dng(path, height=96, width=132, orientation=orientation)
    for name, options in (("whole", []), ("part", ["--crop", "5,7,21,11"])):
        assert call("enhance", path, "-o", tmp_path / name, *options, *model).exit_code == 0
    whole, part = (read(tmp_path / name / "a.png")[0] for name in ("whole", "part"))
    assert whole.shape == ((48, 66, 3) if orientation < 5 else (66, 48, 3))
    assert np.array_equal(part, whole[7:18, 5:26])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tile", 100], "multiple of 64 pixels, found 100"),
        (["--tile", 128, "--overlap", 128], "below the tile of 128, found 128"),
        (["--overlap", 64], "Expected --tile with --overlap"),
        (["--crop", "40,0,20,20"], "inside the picture of 48x66 pixels, found 20x20 at 40,0"),
        (["--crop", "0,0,all,20"], "Expected a crop as x,y,width,height"),
        (["--crop", "0,0,0,20"], "width and height of at least 1"),
        (["--decode-tile", 256], "decode tile of at least 512 pixels"),
        (["--start", 0], "start above 0 and at most 1, found 0"),
        (["--start", 1.5], "start above 0 and at most 1, found 1.5"),
        (["--start", "nan"], "start above 0 and at most 1, found nan"),
        (["--start", 0.001], "at most 1 sampling steps from start 0.001, found 2"),
        (["--start", 0.5, "--sampler", "ddpm-released"], "start 1 with the sampler ddpm-released"),
        (["--recipe", "released", "--tile", 512], "released without --tile"),
        (["--recipe", "released", "--start", 0.5], "released without --start"),
        (["--recipe", "released", "--crop", "0,0,8,8"], "released without --crop"),
        (["--recipe", "released", "--dry-run"], "released without --dry-run"),
        (["--recipe", "released", "--sampler", "unipc"], "released without --sampler"),
        (["--recipe", "released", "--sampler", "dpmpp-2m"], "released without --sampler"),
        (["--recipe", "released", "--decode", "exact"], "released without --decode"),
    ],
)
def test_refusals(
    tmp_path: Path, dng: Path, model: list[object], options: list[object], words: str
) -> None:
    only_line(call("enhance", dng, "-o", tmp_path / "out", *options, *model), words)
    assert not list((tmp_path / "out").glob("*"))


def test_a_frame_larger_than_memory_is_refused_before_sampling(
    tmp_path: Path, model: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.dng"
    # 576x576 pixels are 72x72 latents: beyond those that are never planned.
    write_test_dng(path, height=1152, width=1152)
    monkeypatch.setattr(planner, "free_memory", lambda _device: 140_000_000)
    steps: list[int] = []
    monkeypatch.setattr("ldmsid_core.hosts.engine.sample_latent", lambda *_a, **_k: steps.append(1))
    result = call("enhance", path, "-o", tmp_path / "out", *model)
    only_line(result, "large.dng", "of free memory", "found 140000000")
    assert not steps and not list((tmp_path / "out").glob("*"))


def test_the_settings_are_kept_in_the_result(
    tmp_path: Path, dng: Path, model: list[object]
) -> None:
    options = {
        "tile": 128, "overlap": 32, "start": 0.5, "decode": "bounded", "decode_tile": 520,
        "sampler": "unipc", "seed": 7,
    }  # fmt: skip
    given = [x for k, v in options.items() for x in (f"--{k.replace('_', '-')}", v)]
    result = call("enhance", dng, "-o", tmp_path, "--tile-batch", 2, *given, *model)
    assert result.exit_code == 0, result.stderr
    _, settings = read(tmp_path / "shot.png")
    assert {name: settings[name] for name in options} == options
    assert settings["recipe"] == "default" and settings["crop"] is None


def test_a_later_start_begins_with_the_low_band(
    tmp_path: Path, dng: Path, model: list[object]
) -> None:
    for name, options in (("pure", []), ("late", ["--start", 0.2]), ("same", ["--start", 1.0])):
        assert call("enhance", dng, "-o", tmp_path / name, *options, *model).exit_code == 0
    pure, late, same = (read(tmp_path / n / "shot.png")[0] for n in ("pure", "late", "same"))
    assert np.array_equal(pure, same) and not np.array_equal(pure, late)


def test_the_released_recipe_of_a_small_frame_is_the_released_sampler(
    tmp_path: Path, model: list[object]
) -> None:
    path = tmp_path / "a.dng"
    # 128x192 pixels need no padding, neither to 32 nor to 64.
    write_test_dng(path, height=256, width=384)
    for name, options in (
        ("recipe", ["--recipe", "released"]),
        ("sampler", ["--sampler", "ddim-released", "--decode", "exact"]),
    ):
        result = call("enhance", path, "-o", tmp_path / name, *options, *model)
        assert result.exit_code == 0, result.stderr
    (found, settings), (wanted, _) = (read(tmp_path / n / "a.png") for n in ("recipe", "sampler"))
    assert found.shape == (128, 192, 3)
    # Bands are merged and split once more on the way, which rounds.
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1
    assert (settings["recipe"], settings["sampler"]) == ("released", "ddim-released")
    assert settings["steps"] == 2


def test_the_released_recipe_of_a_wide_frame_runs_in_tiles(
    tmp_path: Path, model: list[object]
) -> None:
    path = tmp_path / "wide.dng"
    write_test_dng(path, height=128, width=2200)
    result = call("enhance", path, "-o", tmp_path, "--recipe", "released", *model)
    assert result.exit_code == 0, result.stderr
    found, settings = read(tmp_path / "wide.png")
    assert found.shape == (64, 1100, 3) and found.std() > 0
    assert (settings["sampler"], settings["tile"], settings["overlap"]) == (
        "ddpm-released",
        512,
        256,
    )


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_costs_are_counted_for_the_first_file_alone(
    tmp_path: Path, dng: Path, model: list[object], more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = tmp_path / "second.dng"
    second.write_bytes(dng.read_bytes())
    counted: list[object] = []
    real = planner.decode_cost
    monkeypatch.setattr(planner, "decode_cost", lambda *a, **k: counted.append(a) or real(*a, **k))
    monkeypatch.setattr("ldmsid_core.frame_plan.SMALL_FRAME", 1)
    result = call("enhance", dng, second, "-o", tmp_path / "out", *more, *model)
    assert result.exit_code == 0, result.stderr
    assert len(counted) == 1
