"""Estimators of noise: against scipy, and against the noise that was put in."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.calibration import BLACK, TINT, counts_of
from scipy import stats

from ldmsid_core.errors import ConfigError
from ldmsid_core.raw import noise_fit
from ldmsid_core.raw.cfa import packed_places
from ldmsid_core.raw.noise import SensorNoise, a7s2_noise, tukey_lambda_deviation
from ldmsid_core.raw.noise_fit import (
    DarkNoise,
    fit_tukey_lambda,
    measure_dark,
    measure_gain,
    photon_transfer,
)
from ldmsid_core.raw.sensor_frame import Counts


def packed(noise: SensorNoise, light: float = 0.0, *, seed: int, side: int = 512) -> Counts:
    mosaic = counts_of(noise, light, seed=seed, size=(side, side))
    return np.stack([mosaic[y::2, x::2] for y, x in packed_places("RGGB")])


@pytest.mark.parametrize("shape", [-0.2, -0.07, 0.0, 0.14, 0.3])
def test_the_shape_is_scipys_and_the_scale_its_slope(shape: float) -> None:
    samples = 3.0 * stats.tukeylambda.rvs(shape, size=5000, random_state=1)
    scale, found = fit_tukey_lambda(samples)
    # Both maximise the same correlation, we to 1e-4 and scipy to its own tolerance.
    assert found == pytest.approx(stats.ppcc_max(samples, brack=(-0.3, 0.4)), abs=2e-4)
    slope = stats.probplot(samples, sparams=(found,), dist="tukeylambda")[1][0]
    # scipy's line has an intercept; ours goes through zero, as centred noise does.
    assert scale == pytest.approx(slope, rel=1e-3)


def test_the_fit_finds_the_shape_and_scale_that_were_put_in() -> None:
    shapes = []
    for seed in range(20):
        samples = 2.0 * stats.tukeylambda.rvs(-0.08, size=10_000, random_state=seed)
        scale, shape = fit_tukey_lambda(samples)
        shapes.append(shape)
        # A scale trades off with its shape; their product with the deviation is what is firm:
        # rel 5 * sqrt((kurtosis + 2) / 4 n), excess kurtosis 2.3 at this shape.
        deviation = scale * stats.tukeylambda.std(shape)
        wanted = 2.0 * stats.tukeylambda.std(-0.08)
        assert deviation == pytest.approx(wanted, rel=5 * math.sqrt(4.3 / 40_000))
    # The mean of 20 fits scatters by their own standard deviation / sqrt(20).
    assert np.mean(shapes) == pytest.approx(-0.08, abs=5 * np.std(shapes) / math.sqrt(20))
    assert np.std(shapes) < 0.02


@pytest.mark.parametrize("iso", [100, 800, 3200, 25600])
def test_dark_frames_give_back_the_table(iso: int) -> None:
    noise, frames, side = a7s2_noise(iso), 3, 512
    found = measure_dark([packed(noise, seed=s, side=side) for s in range(frames)])
    pixels, rows = frames * side * side, frames * side
    kurtosis = float(stats.tukeylambda.stats(noise.read_shape, moments="k"))
    # Variance of n samples: rel sqrt((kurtosis + 2) / n); half of that for a deviation.
    error = math.sqrt((kurtosis + 2.0) / pixels) / 2.0
    # Rounding is a twelfth only as far as the noise is wide: 1e-3 of it at ISO 100.
    assert found.read_deviation == pytest.approx(noise.read_deviation, rel=5 * error + 1e-3)
    # A row's mean varies by row**2 + read**2 / side; the deviation of n: rel 1 / sqrt(2 n).
    of_mean = noise.row_noise**2 + (noise.read_deviation**2 + 1 / 12) / side
    assert found.row_noise**2 == pytest.approx(
        noise.row_noise**2, abs=5 * of_mean * math.sqrt(2.0 / rows)
    )
    # A plane's mean: half the rows, a quarter of the pixels, of each frame.
    error = math.sqrt(noise.row_noise**2 / (rows / 2) + noise.read_deviation**2 / (pixels / 4))
    assert found.black == pytest.approx((BLACK,) * 4, abs=5 * error)
    # Fits of a million samples scatter by about 1e-3; counts as coarse as the noise add 3e-3.
    assert found.read_shape == pytest.approx(noise.read_shape, abs=5e-3 + 3e-3)
    # Where a shape errs by 8e-3, its scale errs by twice as much of itself.
    assert found.read_scale == pytest.approx(noise.read_scale, rel=0.02)


def test_no_row_noise_is_found_where_there_is_none() -> None:
    noise = SensorNoise(1.0, 5.0, 0.0, 0.0, "gaussian")
    found = measure_dark([packed(noise, seed=1)])
    # The variance of 512 row means of 512 pixels errs by var / 512 * sqrt(2 / 512).
    assert found.row_noise**2 <= 5 * 25.1 / 512 * math.sqrt(2 / 512)


def test_hot_pixels_are_left_out_where_two_frames_show_them() -> None:
    noise = SensorNoise(1.0, 2.0, 0.0, 0.4, "gaussian")
    frames = [packed(noise, seed=s) for s in range(2)]
    clean = measure_dark(frames)
    hot = np.random.default_rng(0).random(frames[0].shape) < 1e-3
    spoilt = [np.where(hot, 3000, frame).astype(np.uint16) for frame in frames]
    found = measure_dark(spoilt)
    assert found.hot_share == pytest.approx(hot.mean())
    # 1 pixel in 1000 is gone: nothing else may change by more than that.
    assert found.read_deviation == pytest.approx(clean.read_deviation, rel=1e-3)
    assert found.black == pytest.approx(clean.black, abs=1e-2)
    assert found.row_noise == pytest.approx(clean.row_noise, rel=2e-2)
    assert measure_dark(spoilt[:1]).read_deviation > 10 * clean.read_deviation


def test_thinned_samples_come_from_even_and_odd_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd columns of each plane are three times as noisy; the fit sees both."""
    side = 64
    monkeypatch.setattr(noise_fit, "_MOST_SAMPLES", 4 * side * side * 2 // 3)
    sigma = np.where(np.arange(side) % 2, 9.0, 3.0)
    counts = np.random.default_rng(0).normal(512.0, sigma, (4, side, side)).round()
    found = measure_dark([counts.astype(np.uint16)])
    fitted = found.read_scale * tukey_lambda_deviation(found.read_shape)
    # A mixture is no Tukey-lambda, so the two differ; even columns alone would give 0.45.
    assert fitted == pytest.approx(found.read_deviation, rel=0.1)


def test_a_camera_that_clips_its_black_is_refused() -> None:
    with pytest.raises(ConfigError, match="no more than rounding"):
        measure_dark([np.full((4, 32, 32), 512, np.uint16)])


@pytest.mark.parametrize("iso", [100, 800, 3200])
def test_photon_transfer_gives_back_the_gain(iso: int) -> None:
    noise = a7s2_noise(iso)
    dark = measure_dark([packed(noise, seed=s) for s in range(2)])
    pairs = [
        (packed(noise, light, seed=10), packed(noise, light * 1.02, seed=20))
        for light in (600.0, 4000.0)
    ]
    found = measure_gain(pairs, dark)
    for light, (level, gain) in zip((600.0, 4000.0), found, strict=True):
        # The median of 256 blocks' variances of 1024 pixels, each known to sqrt(2 / 1023).
        error = 1.2533 * math.sqrt(2.0 / 1023 / 256)
        assert gain == pytest.approx(noise.shot_gain, rel=5 * error)
        assert light * min(TINT) < level < light * 1.02


def test_a_moved_edge_and_dust_do_no_harm() -> None:
    noise = a7s2_noise(800)
    dark = measure_dark([packed(noise, seed=s) for s in range(2)])
    first, second = packed(noise, 3000, seed=1), packed(noise, 3000, seed=2)
    plain = measure_gain([(first, second)], dark)[0][1]
    second[:, 64:96, 10:200] //= 2
    first[:, 200:203, 100:103] = 16383
    # A tenth of the blocks is off, which moves a median by a quarter of their spread of 4.4 %.
    assert measure_gain([(first, second)], dark)[0][1] == pytest.approx(plain, rel=0.02)


def test_levels_and_variances_by_hand() -> None:
    first = np.full((4, 4, 4), 110, np.uint16)
    second = first.copy()
    first[:, ::2], second[:, ::2] = 112, 108
    level, variance = photon_transfer((first, second), (100.0,) * 4)
    # Means above black 11 and 9, so the second is scaled by 11 / 9: rows 12 - 8 * 11 / 9 and
    # 10 - 10 * 11 / 9, that is 2 / 9 * 10 and -2 / 9 * 10; 16 of them have variance a**2 * 16 / 15.
    scale = 11 / 9
    assert variance == pytest.approx([(20 / 9) ** 2 * 16 / 15 / (1 + scale**2)] * 4)
    assert level == pytest.approx([(11 + scale**2 * 9) / (1 + scale**2)] * 4)


def test_flats_as_dark_as_the_noise_give_no_gain() -> None:
    noise = SensorNoise(0.1, 20.0, 0.0, 0.0, "gaussian")
    dark = DarkNoise((512.0,) * 4, 11.0, 0.14, 20.0, 0.0, 0.0)
    pair = packed(noise, 50, seed=1), packed(noise, 50, seed=2)
    assert measure_gain([pair], dark) == []
    below = packed(noise, 0, seed=1) - np.uint16(40)
    assert measure_gain([(below, below)], dark) == []
