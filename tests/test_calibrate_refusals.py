"""`ldmsid calibrate`: what does not belong together is one clear line and leaves no profile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.calibration import SIZE, counts_of, write_frame, write_set

from ldmsid_core.cli import main
from ldmsid_core.raw.dng import DngHeader, write_dng
from ldmsid_core.raw.noise import SensorNoise, a7s2_noise

NOISE = a7s2_noise(800)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    write_set(tmp_path, NOISE, levels=(600.0,))
    return tmp_path


def refuse(folder: Path, *words: object, arguments: tuple[object, ...] | None = None) -> None:
    """The command fails with one line that holds all words, and writes nothing."""
    if arguments is None:
        arguments = ("--dark", folder / "dark", "--flat", folder / "flat")
    result = call(folder, *arguments)
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 1, result.stdout
    assert len(lines) == 1, result.stderr
    for word in words:
        assert str(word) in lines[0]
    assert not (folder / "p.json").exists()


def call(folder: Path, *arguments: object) -> Result:
    command = ["calibrate", *arguments, "-o", folder / "p.json"]
    return CliRunner().invoke(main, [str(a) for a in command], catch_exceptions=False)


def test_frames_of_another_camera(frames: Path) -> None:
    write_frame(frames / "dark" / "x.dng", NOISE, seed=9, model="Other")
    refuse(frames, "one camera", "x.dng", "Maker Other", "Maker Model")


def test_frames_of_another_size(frames: Path) -> None:
    write_frame(frames / "flat" / "x.dng", NOISE, 600, seed=9, size=(128, 384))
    refuse(frames, "one size", "x.dng", "128")


def test_frames_of_another_layout_or_range(frames: Path) -> None:
    odd = write_frame(frames / "dark" / "x.dng", NOISE, seed=9, cfa="BGGR")
    refuse(frames, "one filter layout", "BGGR")
    odd.unlink()
    write_frame(frames / "dark" / "x.dng", NOISE, seed=9, white_level=4095)
    refuse(frames, "one levels", "4095")


def test_a_dark_frame_that_is_lit(frames: Path) -> None:
    write_frame(frames / "dark" / "x.dng", NOISE, 300, seed=9)
    refuse(frames, "x.dng", "without light", "counts", "lens cap")


def test_a_dark_frame_that_shows_something(frames: Path) -> None:
    mosaic = counts_of(NOISE, seed=9)
    mosaic[: SIZE[0] // 2] += np.uint16(20)
    header = DngHeader(iso=800, make="Maker", model="Model")
    write_dng(frames / "dark" / "x.dng", mosaic, header)
    refuse(frames, "x.dng", "something shows", "lens cap")


def test_a_dark_frame_below_its_stated_black(frames: Path) -> None:
    mosaic = counts_of(NOISE, seed=9) - np.uint16(100)
    header = DngHeader(iso=800, make="Maker", model="Model")
    write_dng(frames / "dark" / "x.dng", mosaic, header)
    refuse(frames, "x.dng", "-100", "stated black level")


def test_a_camera_that_cuts_its_noise_off_at_black(tmp_path: Path) -> None:
    mosaic = np.maximum(counts_of(NOISE, seed=9).astype(int) - 512, 0).astype(np.uint16)
    header = DngHeader(iso=800, black_level=(0, 0, 0, 0))
    write_dng(tmp_path / "x.dng", mosaic, header)
    refuse(tmp_path, "x.dng", "cut off at 0", arguments=("--dark", tmp_path / "x.dng"))


def test_saturated_flats(frames: Path) -> None:
    write_frame(frames / "flat" / "x.dng", NOISE, 16000, seed=9)
    refuse(frames, "below saturation", "x.dng", "expose it less")


def test_one_flat_only_and_flats_that_differ(frames: Path) -> None:
    first, second = sorted((frames / "flat").iterdir())
    second.unlink()
    refuse(frames, "in pairs", first.name)
    write_frame(frames / "flat" / "x.dng", NOISE, 1200, seed=9)
    refuse(frames, "same light", "all differ", first.name)


def test_a_flat_without_a_partner_is_left_out(frames: Path) -> None:
    write_frame(frames / "flat" / "x.dng", NOISE, 1200, seed=9)
    result = call(frames, "--dark", frames / "dark", "--flat", frames / "flat")
    assert result.exit_code == 0, result.stderr
    assert "x.dng was left out" in result.stdout


def test_flats_without_light(frames: Path) -> None:
    low = SensorNoise(0.765, 2.0, 0.0, 0.5, colour_bias=(-2.0,) * 4)
    for number in range(2):
        write_frame(frames / "flat" / f"{number}.dng", low, seed=number)
    refuse(frames, "Expected light in the flat frame", "below")
    dim = [write_frame(frames / "dim" / f"{n}.dng", NOISE, 8, seed=n) for n in range(2)]
    given = ("--dark", frames / "dark", "--flat", dim[0].parent)
    refuse(frames, "ISO 800", "expose them more", arguments=given)


def test_a_gain_that_changes_with_the_level_is_said(frames: Path) -> None:
    twice = SensorNoise(2 * NOISE.shot_gain, 1.9, 0.0, 0.5)
    for number in range(2):
        write_frame(frames / "flat" / f"x{number}.dng", twice, 3000, seed=number)
    result = call(frames, "--dark", frames / "dark", "--flat", frames / "flat")
    assert result.exit_code == 0, result.stderr
    assert "K differs between levels" in result.stdout


def test_frames_without_an_iso(tmp_path: Path) -> None:
    for number in range(2):
        write_frame(tmp_path / "dark" / f"{number}.dng", NOISE, seed=number, iso=None)
    given = ("--dark", tmp_path / "dark")
    refuse(tmp_path, "Expected an ISO", "0.dng", "--iso", arguments=given)
    assert call(tmp_path, *given, "--iso", 800).exit_code == 0
    assert '"iso": 800.0' in (tmp_path / "p.json").read_text()


def test_flats_of_an_iso_without_dark_frames(frames: Path) -> None:
    for number in range(2):
        write_frame(frames / "flat" / f"{number}.dng", NOISE, 600, seed=number, iso=1600)
    refuse(frames, "ISO 1600", "lens cap")


def test_a_file_named_twice(frames: Path) -> None:
    one = sorted((frames / "dark").iterdir())[0]
    given = ("--dark", one, "--flat", frames / "dark")
    refuse(frames, "each frame once", one.name, arguments=given)


def test_options_that_do_not_go_together(frames: Path) -> None:
    dark, flat = ("--dark", frames / "dark"), ("--flat", frames / "flat")
    refuse(frames, "either --dark or --masked", "neither", arguments=flat)
    both = (*dark, "--masked", frames / "dark")
    refuse(frames, "either --dark or --masked", "both", arguments=both)
    refuse(frames, "--gain", "2 flat frames", arguments=(*dark, *flat, "--gain", 1))
    for option in ("--gain", "--iso", "--gain-step"):
        refuse(frames, "above 0", option, arguments=(*dark, option, "nan"))
    write_frame(frames / "dark" / "x.dng", NOISE, seed=9, iso=1600)
    refuse(frames, "--gain", "2 ISOs", arguments=(*dark, "--gain", 1))


def test_names_that_are_no_frames(frames: Path) -> None:
    (frames / "empty").mkdir()
    refuse(frames, "empty", "RAW files", arguments=("--dark", frames / "empty"))
    refuse(frames, "none.dng", "does not exist", arguments=("--dark", frames / "none.dng"))
    flat = np.full(SIZE, 512, np.uint16)
    write_dng(frames / "flat.dng", flat, DngHeader(iso=800))
    refuse(frames, "flat.dng", "every pixel", arguments=("--dark", frames / "flat.dng"))


def test_existing_profiles_and_other_endings(frames: Path) -> None:
    (frames / "q.json").write_text("mine")
    given = ["--dark", str(frames / "dark"), "-o"]
    for name, words in (("q.json", "--overwrite"), ("q.txt", ".json")):
        result = CliRunner().invoke(main, ["calibrate", *given, str(frames / name)])
        assert result.exit_code == 1 and words in result.stderr
    assert (frames / "q.json").read_text() == "mine"
