"""LibRaw's development and the noise estimate on synthetic RAW files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.raws import tile_black, write_test_dng

from ldmsid_core.errors import ConfigError, ShapeError, UnsupportedRawError
from ldmsid_core.evaluation.noise_estimate import estimate_noise
from ldmsid_core.raw.cfa import CFA_PATTERNS, CfaPattern
from ldmsid_core.raw.develop import develop_amplified
from ldmsid_core.raw.develop_libraw import develop_fbdd
from ldmsid_core.raw.dng import DngHeader, write_dng
from ldmsid_core.raw.loader import load_raw
from ldmsid_core.raw.noise import SensorNoise, a7s2_noise, add_sensor_noise
from ldmsid_core.raw.packed_raw import apply_orientation


def grey_steps(path: Path, cfa: CfaPattern, **header: object) -> None:
    """Four dim quarters, grey under the file's white balance, black level per plane."""
    light = np.full((64, 96), 40.0)
    light[:32, 48:], light[32:, :48], light[32:, 48:] = 60, 20, 30
    gains = {"R": 2.05, "G": 1.0, "B": 1.65}
    black = tile_black(cfa)
    mosaic = np.empty_like(light)
    for place, letter in enumerate(cfa):
        spot = slice(place // 2, None, 2), slice(place % 2, None, 2)
        mosaic[spot] = light[spot] * 10 / gains[letter] + black[place]
    values = DngHeader(cfa=cfa, black_level=black, **header)  # type: ignore[arg-type]
    write_dng(path, mosaic.round().astype(np.uint16), values)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_libraw_agrees_with_our_development_without_noise(
    tmp_path: Path, cfa: CfaPattern, orientation: int
) -> None:
    path = tmp_path / "a.dng"
    grey_steps(path, cfa, orientation=orientation)
    upright = (48, 32) if orientation == 6 else (32, 48)
    raw = load_raw(path)
    expected = apply_orientation(develop_amplified(raw, exposure_ratio=20.0), raw.orientation)
    found = develop_fbdd(path, exposure_ratio=20.0)
    assert found.shape == expected.shape == (1, 3, *upright)
    # Counts are rounded to one in 100, and demosaicing blends at the steps alone.
    assert float((found - expected).abs().median()) < 0.01
    inner = (..., slice(4, 10), slice(4, 10))
    torch.testing.assert_close(found[inner], expected[inner], atol=0.02, rtol=0)


def test_libraw_denoises(tmp_path: Path) -> None:
    path = tmp_path / "a.dng"
    clean = torch.full((1, 128, 128), 200.0)
    noisy = add_sensor_noise(clean, [a7s2_noise(3200)], generator=torch.Generator().manual_seed(0))
    write_dng(path, (noisy[0] + 512).round().clamp(0).numpy().astype(np.uint16), DngHeader())
    naive = develop_amplified(load_raw(path), exposure_ratio=20.0)
    found = develop_fbdd(path, exposure_ratio=20.0)
    grain, left = (p[0, :, 8:-8, 8:-8].std(dim=(1, 2)) for p in (naive, found))
    # Half the grain of green stays; red and blue lose more.
    assert (left < 0.7 * grain).all(), (left, grain)


def test_libraw_refuses_what_is_no_raw(tmp_path: Path) -> None:
    (tmp_path / "a.dng").write_text("hello")
    with pytest.raises(UnsupportedRawError):
        develop_fbdd(tmp_path / "a.dng", exposure_ratio=2.0)
    with pytest.raises(UnsupportedRawError, match="does not exist"):
        develop_fbdd(tmp_path / "b.dng", exposure_ratio=2.0)
    write_test_dng(tmp_path / "c.dng")
    with pytest.raises(ConfigError, match="exposure ratio"):
        develop_fbdd(tmp_path / "c.dng", exposure_ratio=0.5)


def scene(noise: SensorNoise, *, low: float, high: float) -> np.ndarray:
    """Noisy planes of a ramp with texture, counts above black."""
    x = np.linspace(low, high, 384)
    mosaic = np.tile(x, (384, 1)) * (1 + 0.1 * np.sin(np.arange(384) / 20))[:, None]
    signal = torch.from_numpy(mosaic)[None]
    noisy = add_sensor_noise(signal, [noise], generator=torch.Generator().manual_seed(1))
    counts = noisy[0].round().numpy()
    return np.stack([counts[::2, ::2], counts[::2, 1::2], counts[1::2, 1::2], counts[1::2, ::2]])


@pytest.mark.parametrize(("iso", "low", "high"), [(1600, 0, 120), (6400, 5, 300), (400, 0, 60)])
def test_noise_is_found_from_the_picture(iso: float, low: float, high: float) -> None:
    truth = a7s2_noise(iso)
    found = estimate_noise(scene(truth, low=low, high=high))
    # 2304 blocks of 64 coefficients know the line to some percent; medians of Poisson and
    # Tukey-lambda variances lie a little low.
    assert found.shot_gain == pytest.approx(truth.shot_gain, rel=0.12)
    assert found.read_deviation == pytest.approx(truth.read_deviation, rel=0.15)
    assert (found.row_noise, found.read_kind) == (0.0, "gaussian")


def test_noise_of_flat_and_of_tiny_planes() -> None:
    flat = estimate_noise(np.zeros((4, 64, 64)))
    assert flat.read_deviation == 0.0 and 0 < flat.shot_gain <= 1e-3
    with pytest.raises(ShapeError, match="16x16"):
        estimate_noise(np.zeros((4, 15, 64)))
