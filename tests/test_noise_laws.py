"""Joint laws and the phone's law: sample moments against the published numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ldmsid_core.errors import ConfigError
from ldmsid_core.raw.noise import SensorNoise, add_sensor_noise, phone_noise
from ldmsid_core.raw.noise_laws import CAMERA_LAWS, LogLine, NoiseLaw

# K range; slope, intercept, spread of read scale, Gaussian deviation and row; shape range.
PUBLISHED = {
    "a7s2-law": [
        (0.09392, 6.01063), (0.46210, 0.56571, 0.26337), (0.54075, 1.21824, 0.26751),
        (0.52754, -0.59170, 0.29429), (-0.143, 0.129),
    ],
    "d850": [
        (0.41504, 26.56252), (0.47739, -0.09044, 0.23920), (0.56346, 0.79941, 0.21408),
        (0.44829, -1.79771, 0.23218), (-0.243, -0.100),
    ],
    "5d4": [
        (0.21819, 13.96413), (0.65588, 1.09269, 0.28605), (0.67713, 1.51219, 0.24641),
        (0.47128, -0.80790, 0.24362), (0.014, 0.200),
    ],
    "70d": [
        (0.40750, 26.07981), (0.48681, 1.46427, 0.38201), (0.56812, 1.99827, 0.24870),
        (0.72922, -0.93706, 0.25022), (-0.171, 0.143),
    ],
    "700d": [
        (0.44763, 28.64825), (0.59824, 1.53704, 0.38882), (0.65246, 2.07986, 0.25782),
        (0.62206, -0.77565, 0.24848), (-0.157, 0.129),
    ],
}  # fmt: skip
DRAWS = 4000


def drawn(name: str, kind: Any, seed: int = 0) -> list[SensorNoise]:
    rng = np.random.default_rng(seed)
    return [CAMERA_LAWS[name].sample(rng, read_kind=kind) for _ in range(DRAWS)]


def check_uniform(values: np.ndarray, low: float, high: float) -> None:
    """5 standard errors: of a mean s / sqrt(n); of a uniform's variance 0.0745 * w**2 / sqrt(n)."""
    width = high - low
    assert low <= values.min() and values.max() <= high
    assert values.mean() == pytest.approx(
        (low + high) / 2, abs=5 * width / math.sqrt(12 * len(values))
    )
    assert values.var() == pytest.approx(
        width**2 / 12, abs=5 * 0.0745 * width**2 / math.sqrt(len(values))
    )


def check_line(gains: np.ndarray, deviations: np.ndarray, line: tuple[float, ...]) -> None:
    """5 standard errors: mean of the rest s / sqrt(n), deviation s / sqrt(2 n), no slope left."""
    slope, intercept, spread = line
    rest = np.log(deviations) - slope * np.log(gains) - intercept
    assert rest.mean() == pytest.approx(0.0, abs=5 * spread / math.sqrt(len(rest)))
    assert rest.std() == pytest.approx(spread, abs=5 * spread / math.sqrt(2 * len(rest)))
    assert abs(np.corrcoef(rest, np.log(gains))[0, 1]) < 5 / math.sqrt(len(rest))


def test_every_published_camera_is_there() -> None:
    assert set(CAMERA_LAWS) == set(PUBLISHED)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
@pytest.mark.parametrize("kind", ["tukey-lambda", "gaussian"])
def test_draws_follow_the_published_law(name: str, kind: str) -> None:
    shot_gain, read, gaussian, row, shape = PUBLISHED[name]
    sensors = drawn(name, kind)
    gains = np.array([s.shot_gain for s in sensors])
    check_uniform(np.log(gains), math.log(shot_gain[0]), math.log(shot_gain[1]))
    scales = np.array([s.read_scale for s in sensors])
    check_line(gains, scales, gaussian if kind == "gaussian" else read)
    check_line(gains, np.array([s.row_noise for s in sensors]), row)
    shapes = np.array([s.read_shape for s in sensors])
    if kind == "gaussian":
        assert not shapes.any() and {s.read_kind for s in sensors} == {"gaussian"}
    else:
        check_uniform(shapes, *shape)


def test_same_generator_same_sensor() -> None:
    assert drawn("d850", "tukey-lambda", 3)[:5] == drawn("d850", "tukey-lambda", 3)[:5]
    assert drawn("d850", "tukey-lambda", 3)[:5] != drawn("d850", "tukey-lambda", 4)[:5]


def test_kinds_draw_the_same_sensors() -> None:
    pairs = zip(drawn("70d", "tukey-lambda"), drawn("70d", "gaussian"), strict=True)
    assert all(a.shot_gain == b.shot_gain and a.row_noise == b.row_noise for a, b in pairs)


def test_a_law_that_knows_isos_has_a_centre() -> None:
    line = LogLine(0.5, math.log(2.0), 0.1)
    law = NoiseLaw((0.5, 8.0), line, LogLine(0.5, math.log(4.0), 0.1), line, (-0.2, 0.1), 0.005)
    assert law.iso_range == pytest.approx((100.0, 1600.0))
    centre = law.centre(800)
    # K = 0.005 * 800 = 4, and 2 * 4**0.5 = 4.
    wanted = (centre.shot_gain, centre.read_scale, centre.row_noise, centre.read_shape)
    assert wanted == pytest.approx((4.0, 4.0, 4.0, -0.05))
    assert law.centre(800, read_kind="gaussian").read_scale == pytest.approx(8.0)
    assert law.sample(np.random.default_rng(0), iso=800).shot_gain == pytest.approx(4.0)
    for iso in (50, 3200, float("nan")):
        with pytest.raises(ConfigError, match="100 to 1600"):
            law.centre(iso)


def test_no_iso_is_known_of_the_published_laws() -> None:
    assert all(law.iso_range is None for law in CAMERA_LAWS.values())
    with pytest.raises(ConfigError, match="draw a sensor"):
        CAMERA_LAWS["d850"].centre(800)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shot_gain": (2.0, 1.0)}, "shot_gain"),
        ({"shot_gain": (0.0, 1.0)}, "shot_gain"),
        ({"read_shape": (-0.6, 0.0)}, "read_shape"),
        ({"read_shape": (0.1, float("nan"))}, "read_shape"),
        ({"gain_per_iso": 0.0}, "gain_per_iso"),
    ],
)
def test_impossible_laws(change: dict[str, Any], words: str) -> None:
    line = LogLine(0.5, 0.0, 0.1)
    values = {
        "shot_gain": (1.0, 2.0), "read": line, "read_gaussian": line, "row": line,
        "read_shape": (0.0, 0.1),
    }  # fmt: skip
    with pytest.raises(ConfigError, match=words):
        NoiseLaw(**{**values, **change})
    with pytest.raises(ConfigError, match="spread"):
        LogLine(0.5, 0.0, -0.1)


@pytest.mark.parametrize("iso", [100, 1600, 6400])
@pytest.mark.parametrize("signal", [0.0, 200.0])
def test_phone_noise_has_the_published_mean_and_variance(iso: int, signal: float) -> None:
    noise = phone_noise(iso)
    size = 600
    found = add_sensor_noise(
        torch.full((1, size, size), signal), [noise], generator=torch.Generator().manual_seed(iso)
    )
    gain = 0.0005995267 * iso + 0.00868861
    square = 7.11772e-7 * iso**2 + 6.514934e-4 * iso + 0.11492713
    variance = gain * signal + square
    n = size * size
    assert float(found.mean()) == pytest.approx(signal, abs=5 * math.sqrt(variance / n))
    # Shot noise of `signal / gain` electrons has the excess kurtosis gain / signal: below 0.02.
    assert float(found.var()) == pytest.approx(variance, rel=5 * math.sqrt(2.02 / n))
    assert noise.read_kind == "gaussian" and noise.row_noise == 0.0


@pytest.mark.parametrize("iso", [50, 12800, float("nan")])
def test_phone_iso_outside(iso: float) -> None:
    with pytest.raises(ConfigError, match="100 to 6400"):
        phone_noise(iso)
