"""Cameras to draw noise from: in training, and in `ldmsid synth`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner, Result

from ldmsid_core.cli import main
from ldmsid_core.cli_synth import dark_counts
from ldmsid_core.errors import ConfigError
from ldmsid_core.raw.loader import load_raw
from ldmsid_core.raw.noise import PHONE_LEVELS, SensorLevels, SensorNoise, a7s2_noise, phone_noise
from ldmsid_core.raw.noise_cameras import BUNDLED_CAMERAS, find_camera
from ldmsid_core.raw.noise_profile import IsoEntry, NoiseProfile
from ldmsid_core.raw.noise_profile_file import save_noise_profile
from ldmsid_core.raw.packing import network_planes, normalise, pack_bayer
from ldmsid_core.raw.simulate import (
    A7S2_WHITE_BALANCE,
    A7S2_XYZ_TO_CAMERA,
    CameraColour,
    expose_dark,
    scene_mosaic,
)
from ldmsid_core.taming.configs import config_from_dict
from ldmsid_core.training.darkness import DarknessConfig, darken
from ldmsid_core.training.photographs import load_photograph

LEVELS = SensorLevels((250, 254, 258, 262), 4095)
ENTRIES = (
    IsoEntry(400, 0.5, "measured", 1.0, 0.0, 1.8, 0.2, (1.0, 2.0, 3.0, 4.0), 2, 2),
    IsoEntry(1600, 2.0, "measured", 2.0, 0.0, 3.6, 0.4, (1.0, 2.0, 3.0, 4.0), 2, 2),
)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    save_noise_profile(NoiseProfile("Maker", "Model", LEVELS, entries=ENTRIES), path)
    return path


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def synth(*arguments: object) -> Result:
    command = ["synth", "astronaut", "--size", 64, *arguments]
    return CliRunner().invoke(main, [str(a) for a in command], catch_exceptions=False)


def test_bundled_cameras() -> None:
    rng = np.random.default_rng(0)
    assert find_camera("a7s2").draw(800, rng) == a7s2_noise(800)
    assert find_camera("phone").draw(800, rng) == phone_noise(800)
    assert {n: find_camera(n).levels for n in BUNDLED_CAMERAS} == {
        **dict.fromkeys(BUNDLED_CAMERAS, SensorLevels()),
        "phone": PHONE_LEVELS,
    }
    laws = [n for n in BUNDLED_CAMERAS if find_camera(n).iso_range is None]
    assert laws == ["a7s2-law", "d850", "5d4", "70d", "700d"]
    for name in laws:
        camera = find_camera(name)
        assert camera.draw(800, rng) != camera.draw(800, rng)


def test_unknown_cameras_and_profiles_without_gain(tmp_path: Path, profile: Path) -> None:
    with pytest.raises(ConfigError, match="d850, 5d4"):
        find_camera("d851")
    bare = replace(ENTRIES[0], shot_gain=None, gain_source="missing")
    save_noise_profile(
        NoiseProfile(None, None, LEVELS, entries=(bare,)), profile, overwrite=True
    )  # fmt: skip
    with pytest.raises(ConfigError, match="Expected K"):
        find_camera(str(profile))


def test_a_bundled_name_that_is_a_file_too_is_refused(
    profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(profile.parent)
    for name in ("phone", "a7s2", "d850"):
        profile.rename(name)
        with pytest.raises(
            ConfigError, match=rf"one camera {name}, .* write \./{name} for the file"
        ):
            find_camera(name)
        assert find_camera(f"./{name}").levels == LEVELS
        Path(name).rename(profile)
        Path(name).mkdir()  # a folder is no profile
        assert find_camera(name).levels != LEVELS


def test_levels_of_each_image_of_a_batch_are_its_own() -> None:
    noise = SensorNoise(1e-4, 0.0, 0.0, 0.0)
    mosaic = torch.full((2, 4, 4), 0.5)
    counts = expose_dark(
        mosaic, exposure_ratios=[2.0, 1.0], noises=[noise, noise], levels=[LEVELS, SensorLevels()],
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    # A quarter of each plane's range above its black; shot noise of 0.3 counts at most.
    wanted = [b + 0.25 * (4095 - b) for b in LEVELS.black]
    assert pack_bayer(counts, cfa="RGGB")[0].mean(dim=(1, 2)).tolist() == pytest.approx(
        wanted, abs=1.5
    )
    assert float(counts[1].mean()) == pytest.approx(512 + 0.5 * 15871, abs=3)
    bright = expose_dark(
        torch.ones(1, 4, 4), exposure_ratios=[1.0], noises=[SensorNoise(1.0, 9.0, 0.0, 0.0)],
        levels=[PHONE_LEVELS], generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert float(bright.max()) == 1023.0


def test_training_draws_as_it_always_did(image: torch.Tensor) -> None:
    config, seed = DarknessConfig(), (3, 1)
    rng = np.random.default_rng(seed)
    ratios, noises = [], []
    for _ in range(len(image)):
        dark = rng.random() < config.dark_share
        ranges = (
            (config.dark_exposure_ratio, config.dark_iso)
            if dark
            else (config.exposure_ratio, config.iso)
        )
        ratio, iso = (float(np.exp(rng.uniform(*np.log(bounds)))) for bounds in ranges)
        ratios.append(ratio)
        noises.append(a7s2_noise(iso))
    matrix, gains = np.asarray(A7S2_XYZ_TO_CAMERA), np.asarray(A7S2_WHITE_BALANCE)
    spread = config.matrix_spread * np.abs(matrix).max()
    matrices = matrix + rng.normal(0.0, spread, (len(image), 3, 3))
    wander = rng.normal(0.0, config.white_balance_spread, (len(image), 3)) * [1.0, 0.0, 1.0]
    balance = np.maximum(gains * np.exp(wander), 1.0)
    colour = CameraColour(torch.from_numpy(matrices).float(), torch.from_numpy(balance).float())
    counts = expose_dark(
        scene_mosaic(image, colour), exposure_ratios=ratios, noises=noises,
        generator=torch.Generator().manual_seed(int(rng.integers(2**62))),
    )  # fmt: skip
    planes = normalise(pack_bayer(counts, cfa="RGGB"), black_level=(512,) * 4, white_level=16383)
    wanted = [
        network_planes(
            planes[i : i + 1], exposure_ratio=ratios[i],
            white_balance=colour.white_balance[i].tolist(),
        )
        for i in range(len(image))
    ]  # fmt: skip
    assert torch.equal(darken(image, config, seed=seed), torch.cat(wanted))


def test_training_draws_from_the_named_cameras(image: torch.Tensor, profile: Path) -> None:
    names = ("a7s2", "phone", "d850", str(profile))
    config = DarknessConfig(cameras=names)
    planes = darken(image, config, seed=(1, 1))
    assert planes.shape == (6, 4, 16, 16)
    assert float(planes.min()) >= -1.0 and float(planes.max()) <= 1.0
    assert torch.equal(planes, darken(image, config, seed=(1, 1)))
    assert not torch.equal(planes, darken(image, config, seed=(1, 2)))
    assert not torch.equal(planes, darken(image, DarknessConfig(), seed=(1, 1)))
    parsed = config_from_dict(DarknessConfig, {"cameras": list(names)}, source="c.json")
    assert parsed == config


def test_the_levels_of_a_camera_reach_its_planes() -> None:
    grey = torch.full((1, 3, 32, 32), 0.5)
    kept = {
        "exposure_ratio": (1.0, 1.0), "dark_exposure_ratio": (1.0, 1.0), "iso": (100.0, 100.0),
        "dark_iso": (100.0, 100.0), "white_balance_spread": 0.0, "matrix_spread": 0.0,
    }  # fmt: skip
    seen = {
        name: darken(grey, DarknessConfig(cameras=(name,), **kept), seed=(0,))  # type: ignore[arg-type]
        for name in ("a7s2", "phone")
    }
    # The same scene at ratio 1: both sensors' planes have the same mean, within their noise.
    # The darkest plane's deviation is below 0.02 of the range for either: 1024 pixels.
    for a7s2, phone in zip(seen["a7s2"][0], seen["phone"][0], strict=True):
        assert float(a7s2.mean()) == pytest.approx(float(phone.mean()), abs=5 * 2 * 0.02 / 32)


def test_a_camera_of_ones_own_sees_its_own_colours() -> None:
    red = torch.zeros(1, 3, 16, 16)
    red[:, 0] = 1.0
    still = {
        "iso": (100.0, 100.0), "dark_iso": (100.0, 100.0), "exposure_ratio": (1.0, 1.0),
        "dark_exposure_ratio": (1.0, 1.0), "white_balance_spread": 0.0, "matrix_spread": 0.0,
    }  # fmt: skip
    # A camera whose colours are those of XYZ: rows sum to 1 for white, so X of red over X of white.
    own = DarknessConfig(
        **still, sensor="Own", xyz_to_camera=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        white_balance=(1.5, 1.0, 2.0),
    )  # type: ignore[arg-type]  # fmt: skip
    light = darken(red, own, seed=(0,))[0].mean(dim=(1, 2)) * 0.5 + 0.5
    x, y, z = 0.4124 / 0.9505, 0.2126, 0.0193 / 1.0891
    assert light.tolist() == pytest.approx([x, y, z, y], abs=0.01)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sensor": "Own"}, "xyz_to_camera and white_balance of the sensor 'Own'"),
        ({"xyz_to_camera": (1.0,) * 9, "white_balance": (1.0,) * 3}, "together"),
        (
            {"sensor": "Own", "xyz_to_camera": (1.0,) * 9, "white_balance": (1.0,) * 3},
            "can be inverted",
        ),
        (
            {
                "sensor": "Own",
                "xyz_to_camera": (1.0, 0, 0, 0, 1, 0, 0, 0, 1),
                "white_balance": (0.5, 1.0, 1.0),
            },
            "multipliers of 1 and more",
        ),
        ({"cameras": ("d851",)}, "d851"),
        ({"cameras": ("phone",), "dark_iso": (12800.0, 25600.0)}, "ISOs of phone within 12800"),
        ({"cameras": (3,)}, "names or paths"),
        ({"iso": (50.0, 200.0)}, "from 100 to 25600, found 50"),
        ({"dark_iso": (400.0, 51200.0)}, "from 100 to 25600, found 51200"),
    ],
)
def test_bad_cameras_are_refused_before_training(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DarknessConfig(**change)


def test_synth_without_a_camera_is_as_before(tmp_path: Path) -> None:
    assert synth("-o", tmp_path / "a.dng").exit_code == 0
    assert synth("-o", tmp_path / "b.dng", "--noise", "a7s2", "--iso", 1600).exit_code == 0
    assert (tmp_path / "a.dng").read_bytes() == (tmp_path / "b.dng").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.dng") as stored:
        said = json.loads(stored.pages[0].description)  # type: ignore[union-attr]
    assert said == {"photograph": "astronaut", "ratio": 250.0, "iso": 1600.0, "seed": 0}


def test_dark_counts_are_those_of_the_a7s2_unless_said() -> None:
    truth = load_photograph("astronaut")[:16, :16]
    plain = dark_counts(truth, ratio=100, iso=800, seed=1)
    named = (a7s2_noise(800), SensorLevels())
    assert np.array_equal(plain, dark_counts(truth, ratio=100, iso=1600, seed=1, sensor=named))


def test_synth_with_a_profile_has_its_levels_and_noise(tmp_path: Path, profile: Path) -> None:
    result = synth("-o", tmp_path / "a.dng", "--noise", profile, "--iso", 800, "--ratio", 10000)
    assert result.exit_code == 0, result.stderr
    raw = load_raw(tmp_path / "a.dng")
    assert (raw.black_level, raw.white_level) == (LEVELS.black, 4095)
    assert raw.metadata.iso == 800
    # Next to no light: each plane lies at its colour bias, 1024 pixels or more of deviation 3.
    means = raw.planes[0].mean(dim=(1, 2)) * (4095 - torch.tensor(LEVELS.black))
    assert means.tolist() == pytest.approx([1.0, 2.0, 3.0, 4.0], abs=5 * 3 / 32 + 0.4)


def test_synth_draws_a_sensor_where_no_iso_is_known(tmp_path: Path) -> None:
    gains = []
    for seed in (0, 1):
        path = tmp_path / f"{seed}.dng"
        assert synth("-o", path, "--noise", "70d", "--seed", seed).exit_code == 0
        assert load_raw(path).metadata.iso is None
        with tifffile.TiffFile(path) as stored:
            said = json.loads(stored.pages[0].description)  # type: ignore[union-attr]
        assert said["noise"] == "70d" and said["iso"] is None
        gains.append(said["shot_gain"])
    assert gains[0] != gains[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--noise", "d850", "--iso", 800), "leave --iso out"),
        (("--noise", "d851"), "found d851"),
        (("--noise", "phone", "--iso", 12800), "100 to 6400"),
        (("--iso", 50), "100 to 25600"),
    ],
)
def test_synth_refuses(tmp_path: Path, arguments: tuple[object, ...], words: str) -> None:
    result = synth("-o", tmp_path / "a.dng", *arguments)
    assert result.exit_code == 1 and words in result.stderr
    assert not list(tmp_path.iterdir())


def test_synth_refuses_an_iso_outside_the_profile(tmp_path: Path, profile: Path) -> None:
    result = synth("-o", tmp_path / "a.dng", "--noise", profile, "--iso", 3200)
    assert result.exit_code == 1 and "400 to 1600" in result.stderr
