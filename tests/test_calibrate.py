"""`ldmsid calibrate`: frames with known noise give it back, on files as a camera writes them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.calibration import BLACK, SIZE, WHITE, counts_of, write_frame, write_set
from helpers.raws import need_raw

from ldmsid_core.cli import main
from ldmsid_core.raw.cfa import CfaPattern
from ldmsid_core.raw.dng import DngHeader, write_dng
from ldmsid_core.raw.noise import SensorNoise, a7s2_noise
from ldmsid_core.raw.noise_profile import IsoEntry
from ldmsid_core.raw.noise_profile_file import load_noise_profile

BIAS = (0.9, -0.6, 0.3, -1.2)
PIXELS, ROWS = 2 * SIZE[0] * SIZE[1], 2 * SIZE[0]  # of two dark frames


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def calibrate(folder: Path, *arguments: object) -> Result:
    sets = ["--dark", folder / "dark", "--flat", folder / "flat"]
    return call("calibrate", *sets, "-o", folder / "p.json", *arguments)


def only_line(result: Result, *words: object) -> None:
    """The command failed with one clear line that holds all words."""
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 1, result.stdout
    assert len(lines) == 1, result.stderr
    for word in words:
        assert str(word) in lines[0]


def check_entry(entry: IsoEntry, noise: SensorNoise, *, blocks: int = 96) -> None:
    """An entry of two dark frames and two flat levels against the noise that was put in."""
    # Blocks of 1024 pixels know a variance to sqrt(2 / 1023); medians of them, over one level.
    error = 1.2533 * math.sqrt(2.0 / 1023 / blocks)
    assert entry.shot_gain == pytest.approx(noise.shot_gain, rel=5 * error)
    # Excess kurtosis of the read noise is below 2 at these shapes.
    assert entry.read_deviation == pytest.approx(
        noise.read_deviation, rel=5 * math.sqrt(4.0 / PIXELS) / 2
    )
    of_mean = noise.row_noise**2 + (noise.read_deviation**2 + 1 / 12) / SIZE[1]
    assert entry.row_noise**2 == pytest.approx(
        noise.row_noise**2, abs=5 * of_mean * math.sqrt(2.0 / ROWS)
    )
    black = math.sqrt(
        noise.row_noise**2 / (ROWS / 2) + noise.read_deviation**2 / (PIXELS / 4)
    )  # fmt: skip
    assert entry.colour_bias == pytest.approx(noise.colour_bias, abs=5 * black)
    # Fits of 200 000 samples scatter by 2e-3 in the shape, and the scale by twice that.
    if noise.read_kind == "tukey-lambda":
        assert entry.read_shape == pytest.approx(noise.read_shape, abs=5 * 2e-3)
        assert entry.read_scale == pytest.approx(noise.read_scale, rel=5 * 4e-3)


@pytest.mark.parametrize("cfa", ["RGGB", "GBRG"])
def test_round_trip_of_one_iso(tmp_path: Path, cfa: CfaPattern) -> None:
    noise = SensorNoise(0.765, 1.9347, -0.0082, 0.5724, colour_bias=BIAS)
    write_set(tmp_path, noise, cfa=cfa)
    result = calibrate(tmp_path)
    assert result.exit_code == 0, result.stderr
    profile = load_noise_profile(tmp_path / "p.json")
    assert (profile.make, profile.model) == ("Maker", "Model")
    assert (profile.levels.black, profile.levels.white) == ((BLACK,) * 4, WHITE)
    assert profile.method == "dark frames and flat frames"
    (entry,) = profile.entries
    assert (entry.iso, entry.gain_source) == (800.0, "measured")
    assert (entry.dark_frames, entry.flat_pairs) == (2, 2)
    check_entry(entry, noise)
    shown = result.stdout.splitlines()
    assert shown[0] == "Maker Model: dark frames and flat frames"
    assert shown[2].split()[:3] == ["800", "2", "2"]
    assert f"{entry.shot_gain:.4f}" in shown[2]
    assert shown[-1] == str(tmp_path / "p.json")


def test_several_isos_in_one_run_are_told_apart_and_the_gain_step_is_seen(tmp_path: Path) -> None:
    for iso in (800, 1600, 2000):
        write_set(tmp_path, a7s2_noise(iso), iso=iso)
    result = calibrate(tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert [note for note in report["notes"] if "--gain-step 1600" in note]
    assert len(report["notes"]) == 1
    profile = load_noise_profile(tmp_path / "p.json")
    for entry, iso in zip(profile.entries, (800, 1600, 2000), strict=True):
        assert entry.iso == iso
        check_entry(entry, a7s2_noise(iso))
    again = calibrate(tmp_path, "--gain-step", 1600, "--overwrite", "--json")
    assert json.loads(again.stdout)["notes"] == []
    assert load_noise_profile(tmp_path / "p.json").gain_steps == (1600.0,)
    # In the gap the upper stage's read noise holds, and K follows the ISO.
    between = load_noise_profile(tmp_path / "p.json").noise(1800)
    assert between.read_scale == profile.entries[2].read_scale
    assert between.shot_gain == pytest.approx(a7s2_noise(1800).shot_gain, rel=0.03)


def test_gaussian_read_noise_and_a_fitted_law(tmp_path: Path) -> None:
    isos = (400, 800, 1600)
    for iso in isos:
        write_set(tmp_path, a7s2_noise(iso, read_kind="gaussian"), iso=iso)
    assert calibrate(tmp_path, "--read-noise", "gaussian", "--law").exit_code == 0
    profile = load_noise_profile(tmp_path / "p.json")
    assert profile.law is not None and profile.entries == ()
    assert profile.iso_range == pytest.approx((400, 1600))
    for iso in isos:
        wanted = a7s2_noise(iso, read_kind="gaussian")
        found = profile.noise(iso)
        assert found.read_kind == "gaussian"
        assert found.shot_gain == pytest.approx(wanted.shot_gain, rel=0.03)
        # The table bends by 2 % away from a straight line between these ISOs.
        assert found.read_scale == pytest.approx(wanted.read_scale, rel=0.04)
    assert profile.law.read_gaussian.spread < 0.05
    few = calibrate(tmp_path, "--law", "--gain-step", 800, "--overwrite")
    only_line(few, "one gain stage", "--law")


def test_without_flats_the_gain_is_missing_unless_given(tmp_path: Path) -> None:
    write_set(tmp_path, a7s2_noise(800), levels=())
    dark = ["calibrate", "--dark", tmp_path / "dark", "-o", tmp_path / "p.json"]
    result = call(*dark)
    assert result.exit_code == 0 and "K is missing" in result.stdout
    assert " missing " in result.stdout
    assert load_noise_profile(tmp_path / "p.json").entries[0].gain_source == "missing"
    result = call(*dark, "--gain", 0.8, "--overwrite")
    assert "K = 0.8 was given, not measured" in result.stdout
    (entry,) = load_noise_profile(tmp_path / "p.json").entries
    assert (entry.shot_gain, entry.gain_source) == (0.8, "given")
    assert "(given)" in result.stdout
    only_line(call(*dark, "--law", "--gain", 0.8, "--overwrite"), "at least 3 ISOs")


def write_bordered(path: Path, noise: SensorNoise, *, left: int = 61, light: float = 500.0) -> None:
    """A picture with a masked border: `left` dark columns and a dummy column at the edge."""
    height, width = 512, 320
    mosaic = counts_of(noise, seed=5, size=(height, width))
    lit = counts_of(noise, light, seed=5, size=(height, width))
    top = 9
    mosaic[top:, left:] = lit[top:, left:]
    mosaic[:, left - 1] += 300  # light creeps under the mask
    mosaic[:, :1] = 0  # a column that is no pixel
    area = (top, left, height, width)
    header = DngHeader(active_area=area, iso=800, make="Maker", model="Bordered")
    write_dng(path, mosaic, header)


@pytest.mark.parametrize("left", [61, 64])
def test_masked_border_of_one_picture(tmp_path: Path, left: int) -> None:
    noise = SensorNoise(0.765, 4.0, 0.0, 2.0, "gaussian")
    write_bordered(tmp_path / "shot.dng", noise, left=left)
    result = call("calibrate", "--masked", tmp_path / "shot.dng", "-o", tmp_path / "p.json")
    assert result.exit_code == 0, result.stderr
    assert "K is missing" in result.stdout and "hot pixels count" in result.stdout
    profile = load_noise_profile(tmp_path / "p.json")
    (entry,) = profile.entries
    assert profile.method == "masked border"
    # At least 56 columns of 502 rows are left.
    pixels = 502 * 56
    assert entry.read_deviation == pytest.approx(4.0, rel=5 / math.sqrt(2 * pixels))
    of_mean = 2.0**2 + 16.1 / 56
    assert entry.row_noise**2 == pytest.approx(4.0, abs=5 * of_mean * math.sqrt(2 / 502))
    error = math.sqrt(4.0 / 251 + 16.1 / (pixels / 4))
    assert entry.colour_bias == pytest.approx((0.0,) * 4, abs=5 * error)


def test_files_without_a_masked_border(tmp_path: Path) -> None:
    write_frame(tmp_path / "a.dng", a7s2_noise(800), 100, seed=0)
    found = call("calibrate", "--masked", tmp_path / "a.dng", "-o", tmp_path / "p.json")
    only_line(found, "masked border", "a.dng", "lens cap")
    mosaic = counts_of(a7s2_noise(800), 300, seed=0)
    mosaic[:, :64] = 0
    write_dng(tmp_path / "b.dng", mosaic, DngHeader(active_area=(0, 64, *SIZE), iso=800))
    found = call("calibrate", "--masked", tmp_path / "b.dng", "-o", tmp_path / "p.json")
    only_line(found, "b.dng", "every count is 0")


def test_masked_border_of_a_real_camera(tmp_path: Path) -> None:
    path = need_raw("real/canon_eos30d_iso100_IMG_0848.CR2")
    result = call("calibrate", "--masked", path, "-o", tmp_path / "p.json", "--gain", 0.3)
    assert result.exit_code == 0, result.stderr
    profile = load_noise_profile(tmp_path / "p.json")
    assert profile.name == "Canon EOS 30D" and profile.levels.white == 4095
    (entry,) = profile.entries
    assert entry.iso == 100
    measured = np.add(profile.levels.black, entry.colour_bias)
    # LibRaw takes black from the same border and rounds it down or up.
    assert measured == pytest.approx([128.0] * 4, abs=0.5)
    # Single columns of the border have deviations of 1.5 to 1.75 counts; together with their
    # different means a little more. A camera's row noise is well below its read noise.
    assert 1.5 < entry.read_deviation < 2.0
    assert 0.0 < entry.row_noise < 0.5 * entry.read_deviation
    assert profile.noise(100).shot_gain == pytest.approx(0.3)
