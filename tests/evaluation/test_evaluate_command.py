"""`ldmsid evaluate` as a user calls it."""

from __future__ import annotations

import csv
import inspect
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
from ldmsid_core.cli_evaluate import evaluate_model
from ldmsid_core.cli_evaluate_measure import MeasureOptions
from ldmsid_core.cli_evaluate_results import route_names
from ldmsid_core.evaluation.metrics import psnr_rgb
from ldmsid_core.evaluation.pictures import read_picture
from ldmsid_core.training.photographs import load_photograph


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def good(*arguments: object) -> str:
    done = run(*arguments, "--quiet")
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_and_its_functions_have_the_same_defaults() -> None:
    (command,) = (c for name, c in main.commands.items() if name == "evaluate")
    options = {p.name: p.default for p in command.params}
    measured = MeasureOptions()
    assert (options["resamples"], options["sheets"]) == (measured.resamples, measured.sheets)
    wanted = inspect.signature(evaluate_model).parameters
    assert all(options[name] == wanted[name].default for name in ("ratios", "iso"))


def save(path: Path, seed: int, noise: float = 0.0, size: tuple[int, int] = (24, 32)) -> None:
    path.parent.mkdir(exist_ok=True)
    truth = np.random.default_rng(seed).uniform(50, 200, (*size, 3))
    added = np.random.default_rng(99).normal(0, noise, truth.shape)
    Image.fromarray((truth + added).clip(0, 255).round().astype(np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three truths; A has all results, B two of them and a surplus."""
    for seed, name in enumerate(("one", "two", "three")):
        save(tmp_path / "truth" / f"{name}_truth.png", seed)
        save(tmp_path / "A" / f"{name}.png", seed, 5)
    for seed, name in enumerate(("one", "two")):
        save(tmp_path / "B" / f"{name}.png", seed, 20)
    save(tmp_path / "B" / "four.png", 9)
    return tmp_path


def test_folders_are_compared_by_one_ruler(folders: Path) -> None:
    out = folders / "report"
    text = good(folders / "A", folders / "B", "--truth", folders / "truth", "-o", out)
    assert "B: 1 missing: three" in text and "B: 1 without a truth, not scored: four.png" in text
    assert "LPIPS: not computed, no weight file given; --lpips-weights FILE" in text
    with (out / "per_image.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["image"], r["route"]) for r in rows] == [
        ("one", "A"), ("one", "B"), ("three", "A"), ("two", "A"), ("two", "B"),
    ]  # fmt: skip
    assert rows[0]["scene"] == "one_truth"
    own = psnr_rgb(
        read_picture(folders / "A" / "one.png"), read_picture(folders / "truth" / "one_truth.png")
    )
    assert float(rows[0]["psnr_rgb"]) == own
    said = json.loads((out / "summary.json").read_text())
    assert said["routes"] == ["A", "B"] and said["pictures"] == 3
    part = said["parts"]["all"]
    both = [float(r["psnr_rgb"]) for r in rows if r["route"] == "A" and r["image"] != "three"]
    assert part["means"]["A"]["psnr_rgb"]["mean"] == pytest.approx(np.mean(both))
    assert part["differences"]["B - A"]["psnr_rgb"]["high"] < 0
    assert len(list((out / "sheets").iterdir())) == 3


def test_a_list_gives_pairs_ratios_and_groups(folders: Path) -> None:
    table = folders / "pairs.csv"
    table.write_text(
        "result,truth,ratio,group\none,one_truth,100,in\ntwo,two_truth,250,out\n"
        "three,three_truth,250,out\n"
    )
    said = json.loads(good(folders / "A", "--truth", folders / "truth", "--pairs", table,
                           "--json", "--metrics", "psnr_rgb,gmsd_y"))  # fmt: skip
    assert list(said["parts"]) == ["all", "x100", "x250", "group in", "group out"]
    counts = [p["means"]["A"]["gmsd_y"]["count"] for p in said["parts"].values()]
    assert counts == [3, 1, 2, 1, 2]
    assert list(said["metrics"]) == ["psnr_rgb", "gmsd_y"]


def _sixteen(folders: Path) -> None:
    save(folders / "A" / "two.png", 1, 5, size=(25, 32))


@pytest.mark.parametrize(
    ("break_it", "arguments", "message"),
    [
        (None, ["A", "--truth", "truth", "--metrics", "psnr"], "found 'psnr'"),
        (None, ["A", "A", "--truth", "truth"], "found A twice"),
        (None, ["A"], "Expected --truth with folders of results"),
        (None, ["A", "--raws", "B", "--truth", "truth"], "either RESULTS or --raws"),
        (None, ["absent", "--truth", "truth"], "absent cannot be read"),
        (None, ["A", "--truth", "empty"], "found none among 0 files"),
        (None, ["empty", "--truth", "truth"], "found none among 0 files"),
        (None, ["other", "--truth", "truth"], "found no match"),
        (None, ["--raws", "A", "--truth", "truth"], "Expected RAW files"),
        (None, ["A", "--truth", "truth", "--iso", 800], "Expected no --iso with folders"),
        (None, ["A", "--truth", "truth", "--steps", 3], "Expected no --steps with folders"),
        (None, ["A", "--truth", "truth", "--ratios", "100"], "Expected no --ratios with folders"),
        (None, ["A", "--truth", "truth", "--sheets", 3], "Expected --output with --sheets"),
        (None, ["A", "--truth", "truth", "--overwrite"], "Expected --output with --overwrite"),
        (None, ["--truth", "truth"], "Expected no --truth with the bundled photographs"),
        (None, ["--metrics", "psnr_rgb"], "Expected --output with --metrics"),
        (None, ["--raws", "A", "--truth", "truth", "--ratios", "1,2"], "Expected one ratio"),
        (None, ["A", "--truth", "truth", "--pairs", "absent.csv"], "absent.csv cannot be read"),
        (None, ["A", "--truth", "truth", "--lpips-weights", "absent.pth"], "does not exist"),
        (None, ["A", "--truth", "truth", "--nima-weights", "A/one.png"], "a TorchScript file"),
        (None, ["A", "--truth", "truth", "--clip-folder", "empty"], "cannot be read"),
        (_sixteen, ["A", "--truth", "truth"], "found 32x25 in A/two.png and 32x24 in truth/two_tr"),
        (lambda f: (f / "A" / "two.png").write_text("no"), ["A", "--truth", "truth"],
         "A/two.png cannot be read"),
        (lambda f: save(f / "truth" / "one.png", 0), ["A", "--truth", "truth"],
         "one truth for one"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(
    folders: Path, monkeypatch: pytest.MonkeyPatch, break_it: Any, arguments: list[object],
    message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(folders)
    (folders / "empty").mkdir()
    save(folders / "other" / "stranger.png", 0)
    if break_it is not None:
        break_it(folders)
    done = run(*arguments)
    lines = done.stderr.splitlines()
    assert done.exit_code == 1 and len(lines) == 1 and done.stdout == "", done.output
    assert lines[0].startswith("ldmsid: ") and message in lines[0], lines[0]


def test_lpips_weights_of_the_wrong_layout(folders: Path) -> None:
    torch.save({"net.slice1.0.weight": torch.zeros(2, 2)}, folders / "w.pth")
    done = run(folders / "A", "--truth", folders / "truth", "--lpips-weights", folders / "w.pth")
    assert done.exit_code == 1 and "found none in" in done.stderr


def test_an_older_report_stays(folders: Path) -> None:
    arguments = [folders / "A", "--truth", folders / "truth", "-o", folders / "out"]
    good(*arguments)
    before = (folders / "out" / "summary.json").read_bytes()
    done = run(*arguments)
    assert done.exit_code == 1 and "exists already" in done.stderr
    assert (folders / "out" / "summary.json").read_bytes() == before
    good(*arguments, "--overwrite")


def test_names_of_routes() -> None:
    names = route_names([Path("/x/a"), Path("/y/a"), Path("/z/b"), Path("/z/truth")])
    assert names == ["/x/a", "/y/a", "b", "/z/truth"]


def test_raws_run_all_routes_and_go_on_after_a_bad_file(tmp_path: Path) -> None:
    files = write_model(tmp_path / "model")
    raws, truth = tmp_path / "raws", tmp_path / "truth"
    raws.mkdir()
    truth.mkdir()
    for name, seed in (("a", 0), ("b", 1)):
        picture = load_photograph("coffee")[64 * seed : 64 * seed + 64, 100:196]
        Image.fromarray(picture).save(tmp_path / "p.png")
        made = CliRunner().invoke(main, ["synth", str(tmp_path / "p.png"), "-o",
                                         str(raws / f"{name}.dng"), "--ratio", "100"])  # fmt: skip
        assert made.exit_code == 0, made.output
        (raws / f"{name}_truth.png").rename(truth / f"{name}_truth.png")
    (raws / "broken.dng").write_text("no RAW")
    save(truth / "broken.png", 0)
    save(truth / "wide.png", 0)
    (raws / "wide.dng").write_bytes((raws / "a.dng").read_bytes())
    model = ["--host", files.host, "--taming", files.taming, "--steps", 1]
    out = tmp_path / "out"
    done = run("--raws", raws, "--truth", truth, "--ratios", 100, *model, "-o", out, "--quiet")
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 2
    assert "broken.dng" in done.stderr and "found 96x64 in" in done.stderr
    said = json.loads((out / "summary.json").read_text())
    assert said["routes"] == [
        "LDM-SID", "amplification", "BayesShrink", "non-local means", "LibRaw FBDD",
    ]  # fmt: skip
    assert said["pictures"] == 2 and "2 files failed" in " ".join(said["notes"])
    means = {r: m["psnr_rgb"]["mean"] for r, m in said["parts"]["x100"]["means"].items()}
    assert means["non-local means"] > means["amplification"] + 2
    assert means["LibRaw FBDD"] > means["amplification"] + 2

    enhanced = CliRunner().invoke(
        main, ["enhance", str(raws / "a.dng"), "-o", str(tmp_path / "own"), "--ratio", "100",
               "--quiet", *map(str, model)],
    )  # fmt: skip
    assert enhanced.exit_code == 0, enhanced.output
    again = json.loads(good(tmp_path / "own", "--truth", truth, "--json"))
    with (out / "per_image.csv").open(newline="") as stream:
        first = next(csv.DictReader(stream))
    assert (first["image"], first["route"]) == ("a", "LDM-SID")
    for key in ("psnr_rgb", "ssim_y", "gmsd_y", "delta_e_2000"):
        own = again["parts"]["all"]["means"]["own"][key]["mean"]
        assert own == pytest.approx(float(first[key]), rel=1e-9), key


@pytest.mark.slow
def test_the_bundled_photographs_get_a_report_too(tmp_path: Path) -> None:
    files = write_model(tmp_path / "model")
    out = tmp_path / "out"
    good("--ratios", 100, "--host", files.host, "--taming", files.taming, "--steps", 1, "-o", out,
         "--metrics", "psnr_rgb,ssim_rgb")  # fmt: skip
    rows = json.loads((out / "scores.json").read_text())
    said = json.loads((out / "summary.json").read_text())
    assert said["routes"][0] == "LDM-SID" and len(said["routes"]) == 4
    for route in said["routes"]:
        own = [row["psnr"] for row in rows if row["route"] == route]
        found = said["parts"]["x100"]["means"][route]["psnr_rgb"]["mean"]
        # The report clips to unit range first, as files do.
        assert found == pytest.approx(np.mean(own), abs=0.05)
