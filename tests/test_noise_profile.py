"""Noise profiles: interpolation, strict files, what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldmsid_core.errors import ConfigError, OutputError
from ldmsid_core.raw.noise import SensorLevels, SensorNoise, a7s2_noise
from ldmsid_core.raw.noise_laws import LogLine, NoiseLaw
from ldmsid_core.raw.noise_profile import IsoEntry, NoiseProfile
from ldmsid_core.raw.noise_profile_file import load_noise_profile, save_noise_profile
from ldmsid_core.raw.noise_tables import A7S2_TABLE

BIAS = (0.5, -0.25, 0.125, 0.0)
LINE = LogLine(0.5, 0.2, 0.1)
LAW = NoiseLaw((0.5, 8.0), LINE, LINE, LINE, (-0.2, 0.1), 0.005)


def entry(iso: float, **change: Any) -> IsoEntry:
    noise, gaussian = a7s2_noise(iso), a7s2_noise(iso, read_kind="gaussian")
    values = IsoEntry(
        iso, noise.shot_gain, "measured", noise.read_scale, noise.read_shape,
        gaussian.read_deviation, noise.row_noise, BIAS, 2, 3,
    )  # fmt: skip
    return replace(values, **change)


def a7s2_profile(**change: Any) -> NoiseProfile:
    values = NoiseProfile(
        make="SONY", model="ILCE-7SM2", levels=SensorLevels((512, 510, 514, 512), 16383),
        entries=tuple(entry(iso) for iso in sorted(A7S2_TABLE)), gain_steps=(1600.0,),
        method="dark frames and flat frames",
    )  # fmt: skip
    return replace(values, **change)


@pytest.mark.parametrize("iso", [100, 130, 800, 1600, 1601, 1800, 2000, 7777, 25600])
def test_interpolates_as_the_bundled_table(iso: float) -> None:
    found, wanted = a7s2_profile().noise(iso), a7s2_noise(iso)
    assert found.shot_gain == pytest.approx(wanted.shot_gain, rel=1e-12)
    assert replace(found, shot_gain=1.0, colour_bias=(0.0,) * 4) == replace(wanted, shot_gain=1.0)
    # The weights of an interpolation sum to 1 within a rounding.
    assert found.colour_bias == pytest.approx(BIAS, rel=1e-12)


def test_nothing_is_interpolated_across_a_gain_step() -> None:
    across = a7s2_profile(gain_steps=())
    assert a7s2_profile().noise(1700).read_scale == pytest.approx(1.4357)
    assert 1.4357 < across.noise(1700).read_scale < 3.2284
    two = a7s2_profile(entries=(entry(400), entry(3200)))
    assert two.noise(1600).read_scale == pytest.approx(1.1817)
    assert two.noise(1601).read_scale == pytest.approx(2.0418)
    with pytest.raises(ConfigError, match="gain stage of ISO 800"):
        replace(two, gain_steps=(400.0, 1600.0)).noise(800)


def test_read_kinds() -> None:
    gaussian = a7s2_profile(read_kind="gaussian")
    wanted = a7s2_noise(800, read_kind="gaussian")
    assert gaussian.noise(800).read_kind == "gaussian"
    assert gaussian.noise(800).read_scale == wanted.read_scale
    assert gaussian.noise(800, read_kind="tukey-lambda").read_scale == a7s2_noise(800).read_scale
    assert a7s2_profile().noise(800, read_kind="gaussian") == gaussian.noise(800)


@pytest.mark.parametrize("profile", [a7s2_profile(), a7s2_profile(entries=(), law=LAW)])
def test_round_trip(tmp_path: Path, profile: NoiseProfile) -> None:
    path = tmp_path / "below" / "a7s2.json"
    save_noise_profile(profile, path)
    assert load_noise_profile(path) == profile
    assert [p.name for p in path.parent.iterdir()] == ["a7s2.json"]


def test_round_trip_without_names_and_gain(tmp_path: Path) -> None:
    bare = entry(800, shot_gain=None, gain_source="missing")
    profile = a7s2_profile(make=None, model=None, entries=(bare,), gain_steps=())
    save_noise_profile(profile, tmp_path / "p.json")
    assert load_noise_profile(tmp_path / "p.json") == profile
    assert profile.name == "an unnamed camera"


def test_existing_profiles_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        save_noise_profile(a7s2_profile(), path)
    assert path.read_text() == "mine"
    save_noise_profile(a7s2_profile(), path, overwrite=True)
    assert load_noise_profile(path) == a7s2_profile()


def test_law_profiles_draw_around_their_centre() -> None:
    profile = a7s2_profile(entries=(), law=LAW, gain_steps=())
    draws = [profile.draw(800, np.random.default_rng(seed)) for seed in range(400)]
    assert {round(noise.shot_gain, 9) for noise in draws} == {4.0}
    logs = np.log([noise.read_scale for noise in draws])
    # 5 standard errors of 400 draws of deviation 0.1.
    assert logs.mean() == pytest.approx(math.log(profile.noise(800).read_scale), abs=5 * 0.1 / 20)
    assert isinstance(draws[0], SensorNoise)


@pytest.mark.parametrize("iso", [99, 25601, float("nan"), float("inf")])
def test_iso_outside_the_calibration(iso: float) -> None:
    with pytest.raises(ConfigError, match=r"100 to 25600, which SONY ILCE-7SM2 .* found"):
        a7s2_profile().noise(iso)


def test_entries_without_gain_are_not_used() -> None:
    bare = entry(100, shot_gain=None, gain_source="missing")
    profile = a7s2_profile(entries=(bare, entry(800), entry(1600)))
    assert profile.iso_range == (800, 1600)
    with pytest.raises(ConfigError, match="800 to 1600"):
        profile.noise(100)
    with pytest.raises(ConfigError, match="--gain"):
        a7s2_profile(entries=(bare,)).noise(100)


def edited(tmp_path: Path, *place: str | int, value: Any, profile: NoiseProfile) -> Path:
    """A saved profile with one value changed, or taken out."""
    path = tmp_path / "p.json"
    save_noise_profile(profile, path, overwrite=True)
    values = json.loads(path.read_text())
    inside = values
    for step in place[:-1]:
        inside = inside[step]
    if value is ...:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("surprise",), 1, "the profile, found surprise"),
        (("entries", 0, "surprise"), 1, "entry 1, found surprise"),
        (("method",), ..., "Expected method in the profile"),
        (("entries", 1, "row_noise"), ..., "Expected row_noise in entry 2"),
        (("format",), "something", "Expected format"),
        (("version",), 2, "Expected version 1, found 2"),
        (("version",), True, "Expected version 1, found True"),
        (("version",), ..., "found None"),
        (("entries", 0, "read_scale"), float("nan"), "finite number as read_scale of entry 1"),
        (("entries", 0, "shot_gain"), float("inf"), "finite number as shot_gain"),
        pytest.param(("entries", 0, "shot_gain"), 10**400, "finite number", id="huge"),
        pytest.param(("entries", 0, "dark_frames"), 10**400, "whole number", id="huge count"),
        (("entries", 0, "shot_gain"), -1.0, "shot_gain > 0"),
        (("entries", 0, "shot_gain"), None, "exactly where gain_source is missing"),
        (("entries", 0, "gain_source"), "guessed", "guessed"),
        (("entries", 0, "read_shape"), -0.5, "read_shape > -0.5"),
        (("entries", 0, "row_noise"), "1", "finite number as row_noise"),
        (("entries", 0, "row_noise"), [1.0, 2.0], "finite number as row_noise"),
        (("entries", 0, "colour_bias"), [1.0], "4 numbers as colour_bias"),
        (("entries", 0, "colour_bias"), None, "4 numbers as colour_bias"),
        (("entries", 0, "dark_frames"), 1.5, "whole number as dark_frames"),
        (("entries", 0, "iso"), 800.0, "rising ISO"),
        (("entries",), 3, "list as entries"),
        (("entries",), [], "either entries or a law"),
        (("entries",), [7], "entry 1 as an object"),
        (("law",), 7, "law as an object"),
        (("black_level",), [512, 512, 512], "four black levels"),
        (("black_level",), [512.5, 512, 512, 512], "whole numbers"),
        (("white_level",), 100, "below the white level"),
        (("read_noise",), "student", "student"),
        (("gain_steps",), [float("nan")], "gain_steps"),
        (("gain_steps",), 1600, "gain_steps"),
        (("make",), 5, "text as make"),
    ],
)
def test_bad_profiles_are_one_clear_error(
    tmp_path: Path, place: tuple[Any, ...], value: Any, words: str
) -> None:
    path = edited(tmp_path, *place, value=value, profile=a7s2_profile())
    with pytest.raises(ConfigError, match=words) as caught:
        load_noise_profile(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("law", "read", "spread"), -1.0, "spread"),
        (("law", "read", "power"), 1.0, "law, read, found power"),
        (("law", "row"), ..., "row in law"),
        (("law", "shot_gain"), [2.0, 1.0], "shot_gain"),
        (("law", "shot_gain"), [1.0], "2 numbers as shot_gain"),
        (("law", "read_shape"), [float("nan"), 1.0], "finite number as read_shape"),
    ],
)
def test_bad_laws_are_one_clear_error(
    tmp_path: Path, place: tuple[Any, ...], value: Any, words: str
) -> None:
    path = edited(tmp_path, *place, value=value, profile=a7s2_profile(entries=(), law=LAW))
    with pytest.raises(ConfigError, match=words):
        load_noise_profile(path)


def test_files_that_are_no_profiles(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    with pytest.raises(ConfigError, match=r"Cannot read the noise profile .*p\.json"):
        load_noise_profile(path)
    for content in (b"{oops", b"\xff\xfe", b"[" * 100_000, b" " * ((1 << 20) + 1)):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="ldmsid calibrate"):
            load_noise_profile(path)
    for content in (b"[]", b"7", b"{}"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="Expected format"):
            load_noise_profile(path)
