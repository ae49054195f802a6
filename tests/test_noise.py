"""Sensor noise: moments against the published table, structure, determinism."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats

from ldmsid_core.errors import ConfigError
from ldmsid_core.raw.cfa import CFA_PATTERNS, CfaPattern
from ldmsid_core.raw.noise import (
    SensorLevels,
    SensorNoise,
    a7s2_noise,
    add_sensor_noise,
    tukey_lambda_deviation,
)
from ldmsid_core.raw.packing import pack_bayer

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


@pytest.mark.parametrize("iso", sorted(GAUSSIAN))
def test_the_gaussian_kind_has_the_published_deviation(iso: int) -> None:
    gaussian = a7s2_noise(iso, read_kind="gaussian")
    assert gaussian.read_deviation == GAUSSIAN[iso]
    # Stated of the two kinds: they agree within 1.1 % of the Tukey-lambda deviation.
    assert gaussian.read_deviation == pytest.approx(a7s2_noise(iso).read_deviation, rel=0.011)


def test_gaussian_read_noise_is_normal_and_no_tukey_lambda() -> None:
    noise = SensorNoise(1.0, 3.0, 0.0, 0.0, "gaussian")
    found = noisy(0.0, noise, size=150).flatten().numpy()
    # 22 500 samples: the 1 % critical value is 1.63 / sqrt(n); the logistic one of shape 0 and
    # equal deviation is 0.022 away.
    assert stats.kstest(found, stats.norm(scale=3.0).cdf).statistic < 1.63 / 150
    logistic = stats.logistic(scale=3.0 / stats.logistic.std()).cdf
    assert stats.kstest(found, logistic).statistic > 1.63 / 150


def test_kinds_of_read_noise_mix_in_a_batch_without_changing_each_other() -> None:
    tukey, gaussian = a7s2_noise(800), a7s2_noise(800, read_kind="gaussian")
    signal = torch.full((2, 20, 30), 10.0)

    def drawn(*noises: SensorNoise) -> torch.Tensor:
        generator = torch.Generator().manual_seed(2)
        return add_sensor_noise(signal, list(noises), generator=generator)

    mixed = drawn(tukey, gaussian)
    assert torch.equal(mixed[0], drawn(tukey, tukey)[0])
    assert torch.equal(mixed[1], drawn(gaussian, gaussian)[1])


def test_noise_is_drawn_in_the_order_that_seeded_training_relies_on() -> None:
    noises = [a7s2_noise(100), a7s2_noise(2500), SensorNoise(1.0, 2.0, 0.0, 0.5)]
    signal = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0)) * 300
    found = add_sensor_noise(signal, noises, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(9)
    gain = torch.tensor([n.shot_gain for n in noises])[:, None, None]
    shot = gain * torch.poisson(signal / gain, generator=generator)
    p = torch.rand(signal.shape, generator=generator).clamp(1e-7, 1 - 1e-7)
    rows = torch.randn(signal.shape[:2], generator=generator)
    for number, noise in enumerate(noises):
        log_p, log_rest = torch.log(p[number]), torch.log1p(-p[number])
        read = log_p - log_rest
        if noise.read_shape:
            shape = torch.tensor(noise.read_shape)
            read = (torch.exp(shape * log_p) - torch.exp(shape * log_rest)) / shape
        row = rows[number][:, None] * torch.tensor(noise.row_noise)
        wanted = shot[number] + torch.tensor(noise.read_scale) * read + row
        assert torch.equal(found[number], wanted)


def packed_noise(noise: SensorNoise, size: tuple[int, int], *, seed: int) -> torch.Tensor:
    """Planes R, G1, B, G2 of a sensor without light."""
    generator = torch.Generator().manual_seed(seed)
    mosaic = add_sensor_noise(torch.zeros(1, *size), [noise], generator=generator)
    return pack_bayer(mosaic, cfa="RGGB")[0]


def test_packed_planes_share_the_noise_of_their_sensor_rows() -> None:
    size = 300
    noise = SensorNoise(1.0, 0.0, 0.0, 4.0, "gaussian")
    planes = packed_noise(noise, (2 * size, 16), seed=1)
    red, green1, blue, green2 = planes
    assert torch.equal(red, green1) and torch.equal(green2, blue)
    assert float((planes - planes[:, :, :1]).abs().max()) == 0.0
    # The two rows of a tile, and neighbouring tiles, are independent: for 300 pairs the
    # correlation has a standard error of 1 / sqrt(300) = 0.058.
    assert abs(float(torch.corrcoef(torch.stack([red[:, 0], blue[:, 0]]))[0, 1])) < 5 * 0.058
    assert abs(float(torch.corrcoef(torch.stack([red[1:, 0], red[:-1, 0]]))[0, 1])) < 5 * 0.058


def test_packed_row_noise_under_read_noise_correlates_as_its_share() -> None:
    noise = SensorNoise(1.0, 3.0, 0.0, 2.0, "gaussian")
    planes = packed_noise(noise, (3000, 120), seed=4)
    means = planes.mean(dim=2)
    share = 2.0**2 / (2.0**2 + 3.0**2 / 60)  # of the variance of a plane's row mean
    found = torch.corrcoef(means)
    # 1500 rows: standard error (1 - r**2) / sqrt(1500) within a row, 1 / sqrt(1500) across.
    for same in ((0, 1), (2, 3)):
        assert float(found[same]) == pytest.approx(share, abs=5 * (1 - share**2) / 1500**0.5)
    for other in ((0, 2), (0, 3), (1, 2), (1, 3)):
        assert abs(float(found[other])) < 5 / 1500**0.5


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_colour_bias_reaches_its_own_plane(cfa: CfaPattern) -> None:
    bias = (1.0, -2.0, 3.0, -4.0)
    noise = SensorNoise(1.0, 0.0, 0.0, 0.0, colour_bias=bias)
    mosaic = add_sensor_noise(
        torch.zeros(1, 6, 8), [noise], generator=torch.Generator().manual_seed(1), cfa=cfa
    )
    planes = pack_bayer(mosaic, cfa=cfa)[0]
    assert [float(plane.unique()) for plane in planes] == list(bias)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.0, 1.0, 0.0, 1.0), "shot_gain > 0"),
        ((1.0, float("nan"), 0.0, 1.0), "finite"),
        ((1.0, 1.0, 0.0, float("inf")), "finite"),
        ((1.0, 1.0, 0.1, 1.0, "gaussian"), "read_shape 0"),
        ((1.0, 1.0, 0.0, 1.0, "student"), "student"),
        ((1.0, 1.0, 0.0, 1.0, "gaussian", (1.0, 2.0)), "colour_bias"),
    ],
)
def test_impossible_noise(values: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SensorNoise(*values)


@pytest.mark.parametrize(
    ("black", "white"), [((64, 64, 64, 2000), 1023), ((-1, 0, 0, 0), 255), ((0, 0, 0, 0), 70000)]
)
def test_impossible_levels(black: tuple[int, int, int, int], white: int) -> None:
    with pytest.raises(ConfigError, match="black"):
        SensorLevels(black, white)
