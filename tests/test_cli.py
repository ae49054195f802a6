"""The command line as a user meets it: results, messages, exit codes, nothing lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.raws import write_test_dng
from helpers.tiny_model import write_model
from PIL import Image

from ldmsid_core.cli import main


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def model(tmp_path: Path) -> list[object]:
    files = write_model(tmp_path / "model")
    return ["--host", files.host, "--taming", files.taming, "--steps", 2, "--quiet"]


@pytest.fixture
def dng(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "shot.dng"
    write_test_dng(path, height=96, width=132, iso=1600, shutter_s=0.04, make="M", model="N")
    return path


def only_line(result: Result, *words: object) -> None:
    """The command failed with one clear line that holds all words."""
    lines = result.stderr.strip().splitlines()
    assert result.exit_code != 0
    assert len(lines) == 1, result.stderr
    for word in words:
        assert str(word) in lines[0]


def test_enhance_writes_the_picture_with_its_settings(
    tmp_path: Path, dng: Path, model: list[object]
) -> None:
    out = tmp_path / "out"
    result = call("enhance", dng, "-o", out, "--ratio", 20, "--seed", 4, *model, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)[0]
    assert (report["exposure_ratio"], report["ratio_mode"]) == (20.0, "by hand")
    with Image.open(out / "shot.png") as picture:
        picture.load()
        assert picture.size == (66, 48)
        settings = json.loads(picture.text["ldmsid"])  # type: ignore[attr-defined]
        assert picture.getexif()[271] == "M"
    assert settings["seed"] == 4 and settings["steps"] == 2
    assert settings["taming"] == "taming.safetensors" and settings["raw"] == "shot.dng"
    assert str(tmp_path) not in json.dumps(settings)


def test_auto_ratio_is_printed_and_stored(tmp_path: Path, dng: Path, model: list[object]) -> None:
    loud = [m for m in model if m != "--quiet"]
    result = call("enhance", dng, "-o", tmp_path, *loud)
    assert result.exit_code == 0
    auto = json.loads(call("info", dng, "--json").stdout)["auto_ratio"]
    with Image.open(tmp_path / "shot.png") as picture:
        stored = json.loads(picture.text["ldmsid"])  # type: ignore[attr-defined]
    assert stored["ratio_mode"] == "auto"
    assert stored["exposure_ratio"] == pytest.approx(auto)
    assert f"ratio {auto:.4g}" in result.stdout


@pytest.mark.parametrize("output_format", ["png16", "tiff16"])
def test_formats(tmp_path: Path, dng: Path, model: list[object], output_format: str) -> None:
    out = tmp_path / "out"
    assert call("enhance", dng, "-o", out, "--format", output_format, *model).exit_code == 0
    assert len(list(out.iterdir())) == 1


def test_folders_globs_and_equal_stems(tmp_path: Path, dng: Path, model: list[object]) -> None:
    (dng.parent / "shot.NEF").write_bytes(dng.read_bytes())
    (dng.parent / "notes.txt").write_text("no RAW")
    out = tmp_path / "out"
    result = call("enhance", dng.parent, dng.parent / "*.dng", "-o", out, *model, "--json")
    assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in out.iterdir()) == ["shot_NEF.png", "shot_dng.png"]


def test_one_bad_file_does_not_stop_the_others(
    tmp_path: Path, dng: Path, model: list[object]
) -> None:
    bad = dng.parent / "bad.dng"
    bad.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    arguments = [tmp_path / "empty", bad, tmp_path / "none.dng", dng]
    result = call("enhance", *arguments, "-o", out, *model)
    assert result.exit_code == 1
    assert [p.name for p in out.iterdir()] == ["shot.png"]
    nothing, first, second = result.stderr.strip().splitlines()
    assert "empty" in nothing
    assert "bad.dng" in first and "JPEG" in first
    assert "none.dng" in second and "does not exist" in second


def test_existing_results_are_kept(tmp_path: Path, dng: Path, model: list[object]) -> None:
    (tmp_path / "shot.png").write_text("mine")
    only_line(call("enhance", dng, "-o", tmp_path, *model), "shot.png", "--overwrite")
    assert (tmp_path / "shot.png").read_text() == "mine"
    assert call("enhance", dng, "-o", tmp_path, "--overwrite", *model).exit_code == 0
    assert (tmp_path / "shot.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("ratio", ["0.5", "nan", "1e9", "-2", "bright"])
def test_bad_ratios(tmp_path: Path, dng: Path, model: list[object], ratio: str) -> None:
    only_line(call("enhance", dng, "-o", tmp_path, f"--ratio={ratio}", *model), "ratio")


def test_bad_inputs_are_one_line(tmp_path: Path, dng: Path, model: list[object]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    only_line(call("enhance", empty, "-o", tmp_path, *model), empty, "RAW files in the folder")
    only_line(call("enhance", tmp_path / "*.nef", "-o", tmp_path, *model), "*.nef")
    only_line(call("enhance", dng, "-o", dng / "below", *model), "Cannot write into the folder")
    missing = tmp_path / "x.safetensors"
    only_line(call("enhance", dng, "-o", tmp_path, "--taming", missing), missing)
    only_line(call("enhance", dng, "-o", tmp_path, "--host", dng), dng, "safetensors")
    only_line(call("enhance", dng, "-o", tmp_path, "--device", "warp", *model), "warp")
    only_line(call("enhance", dng, "-o", tmp_path, "--device", "meta", *model), "meta")
    assert not (tmp_path / "new").exists()
    only_line(call("enhance", dng, "-o", tmp_path / "new", "--taming", missing), missing)
    assert not (tmp_path / "new").exists()
    both = ["--ratio", 5, "--reference", dng]
    only_line(call("enhance", dng, "-o", tmp_path, *both, *model), "either --ratio or --reference")


def test_reference(tmp_path: Path, dng: Path, model: list[object]) -> None:
    longer = tmp_path / "long.dng"
    write_test_dng(longer, iso=800, shutter_s=4.0)
    out = tmp_path / "out"
    result = call("enhance", dng, "-o", out, "--reference", longer, *model, "--json")
    report = json.loads(result.stdout)[0]
    assert report["ratio_mode"] == "reference"
    assert report["exposure_ratio"] == pytest.approx(50.0)
    only_line(call("enhance", longer, "-o", tmp_path, "--reference", dng, *model), "more exposure")


def test_taming_for_another_host(tmp_path: Path, dng: Path) -> None:
    files = write_model(tmp_path / "m", host_family="sd21-base")
    result = call("enhance", dng, "-o", tmp_path, "--host", files.host, "--taming", files.taming)
    only_line(result, "sd21-base", "host.safetensors")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interrupt_leaves_nothing_half_written(tmp_path: Path, dng: Path) -> None:
    files = write_model(tmp_path / "model")
    out = tmp_path / "out"
    command = [
        sys.executable, "-P", "-c", "from ldmsid_core.cli import main; main()", "enhance", str(dng),
        "-o", str(out), "--host", str(files.host), "--taming", str(files.taming), "--steps", "1000",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    shown = b""
    # In the middle of sampling, however long the start takes.
    while not re.search(rb"[1-9]\d*/1000", shown) and process.poll() is None:
        shown += os.read(process.stderr.fileno(), 4096)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    errors = (shown + rest).decode()
    assert process.returncode == 130, errors
    assert "interrupted" in errors and "Traceback" not in errors
    assert not list(out.iterdir())


def test_info(tmp_path: Path, dng: Path) -> None:
    values = json.loads(call("info", dng, "--json").stdout)
    assert (values["cfa"], values["iso"], values["packed_size"]) == ("RGGB", 1600, [48, 66])
    assert values["auto_ratio"] >= 1
    assert "shutter_s" in call("info", dng).stdout
    only_line(call("info", tmp_path / "none.dng"), "none.dng")


def test_synth_round_trip(tmp_path: Path) -> None:
    truth = np.random.default_rng(0).integers(0, 256, (40, 64, 3)).astype(np.uint8)
    Image.fromarray(truth).save(tmp_path / "photo.png")
    dng = tmp_path / "dark.dng"
    arguments = ["synth", tmp_path / "photo.png", "-o", dng, "--ratio", 100, "--iso", 800]
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "dark_truth.png") as picture:
        assert np.array_equal(np.asarray(picture), truth)
    values = json.loads(call("info", dng, "--json").stdout)
    assert values["packed_size"] == [40, 64] and values["iso"] == 800
    assert values["shutter_s"] == pytest.approx(0.1)
    assert values["white_balance"] == pytest.approx([2.05, 1.0, 1.65], rel=1e-3)
    only_line(call(*arguments), "exists already")
    before = dng.read_bytes()
    assert call(*arguments, "--overwrite").exit_code == 0
    assert dng.read_bytes() == before
    assert call(*arguments, "--overwrite", "--seed", 1).exit_code == 0
    assert dng.read_bytes() != before


def test_synth_bad_input(tmp_path: Path) -> None:
    only_line(call("synth", "nobody", "-o", tmp_path / "a.dng"), "nobody", "astronaut")
    only_line(call("synth", "coffee", "-o", tmp_path / "a.png"), "ends in .dng")
    only_line(call("synth", "coffee", "-o", tmp_path / "a.dng", "--iso", 5), "ISO")
    only_line(call("synth", "coffee", "-o", tmp_path / "a.dng", "--ratio", 0), "ratio")
    assert not list(tmp_path.iterdir())
