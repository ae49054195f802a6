"""Sensor noise: moments against the published table, structure, determinism."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from ldmsid_core.errors import ConfigError
from ldmsid_core.raw.noise import (
    SensorNoise,
    a7s2_noise,
    add_sensor_noise,
    tukey_lambda_deviation,
)

# Published standard deviation of the Gaussian alternative, which the Tukey-lambda one matches
# within about 1 %.
GAUSSIAN = {800: 3.5476, 3200: 3.9194, 6400: 7.1164, 25600: 25.8530}


def noisy(signal: float, noise: SensorNoise, size: int = 1000, seed: int = 0) -> torch.Tensor:
    flat = torch.full((1, size, size), signal)
    return add_sensor_noise(flat, [noise], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("iso", sorted(GAUSSIAN))
def test_read_noise_has_the_published_deviation(iso: int) -> None:
    assert a7s2_noise(iso).read_deviation == pytest.approx(GAUSSIAN[iso], rel=0.015)


@pytest.mark.parametrize("shape", [-0.14, -0.01, 0.0, 0.05, 0.14])
def test_tukey_lambda_deviation_against_scipy(shape: float) -> None:
    assert tukey_lambda_deviation(shape) == pytest.approx(stats.tukeylambda.std(shape), rel=1e-3)


@pytest.mark.parametrize("iso", [100, 1600, 2000, 25600])
@pytest.mark.parametrize("signal", [0.0, 40.0, 2000.0])
def test_mean_and_variance(iso: int, signal: float) -> None:
    noise = a7s2_noise(iso)
    found = noisy(signal, noise)
    variance = noise.shot_gain * signal + noise.read_deviation**2 + noise.row_noise**2
    # A million samples; rows share one value, so the mean is known to row_noise / sqrt(1000).
    error = 5 * (variance / 1e6 + noise.row_noise**2 / 1000) ** 0.5
    assert float(found.mean()) == pytest.approx(signal, abs=error)
    assert float(found.var()) == pytest.approx(variance, rel=0.02)


def test_read_noise_follows_the_tukey_lambda_distribution() -> None:
    noise = SensorNoise(1.0, 3.0, -0.0752, 0.0)
    found = noisy(0.0, noise, size=150)
    distance = stats.kstest(
        found.flatten().numpy(), stats.tukeylambda(noise.read_shape, scale=noise.read_scale).cdf
    ).statistic
    # 22 500 samples: the 1 % critical value is 1.63 / sqrt(n).
    assert distance < 1.63 / 150


def test_row_noise_is_shared_by_a_sensor_row() -> None:
    rows = noisy(0.0, SensorNoise(1.0, 0.0, 0.1, 5.0), size=400)[0]
    assert float((rows - rows[:, :1]).abs().max()) == 0.0
    assert float(rows[:, 0].std()) == pytest.approx(5.0, rel=0.15)


def test_gain_stage_step_is_kept() -> None:
    assert a7s2_noise(1600).read_scale == pytest.approx(3.2284)
    assert a7s2_noise(1601).read_scale == pytest.approx(1.4357)
    assert a7s2_noise(600).read_scale == pytest.approx(1.62, abs=0.05)


def test_same_seed_same_noise() -> None:
    noise = a7s2_noise(1600)
    assert torch.equal(noisy(5.0, noise, 50, seed=3), noisy(5.0, noise, 50, seed=3))
    assert not torch.equal(noisy(5.0, noise, 50, seed=3), noisy(5.0, noise, 50, seed=4))


@pytest.mark.parametrize("iso", [50, 51200, float("nan")])
def test_iso_outside_the_calibration(iso: float) -> None:
    with pytest.raises(ConfigError, match="100 to 25600"):
        a7s2_noise(iso)
