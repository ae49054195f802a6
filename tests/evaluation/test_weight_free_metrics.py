"""Metrics without weights against hand-made cases and plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ldmsid_core.errors import ConfigError
from ldmsid_core.evaluation.gmsd import C, gmsd_y
from ldmsid_core.evaluation.metrics import delta_e_2000, luma, psnr_rgb, ssim_rgb, ssim_y
from ldmsid_core.evaluation.ms_ssim import (
    SMALLEST_SIDE,
    WEIGHTS,
    halved,
    ms_ssim_y,
    similarity_terms,
)
from ldmsid_core.evaluation.ruler import WEIGHT_FREE, Ruler, choose_metrics

Picture = NDArray[np.float32]


def picture(height: int, width: int, *, seed: int = 0) -> Picture:
    """Smooth shapes with a little grain."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [0.5 + 0.3 * np.sin(x / (9 + 3 * c)) * np.cos(y / (7 + 2 * c)) for c in range(3)]
    return (np.stack(waves, -1) + random.normal(0, 0.02, (height, width, 3))).astype(np.float32)


def noisy(truth: Picture, deviation: float, *, seed: int = 1) -> Picture:
    added = np.random.default_rng(seed).normal(0, deviation, truth.shape)
    return np.clip(truth + added, 0, 1).astype(np.float32)


@pytest.mark.parametrize("metric", WEIGHT_FREE, ids=lambda m: m.key)
def test_equal_is_best_and_more_noise_is_worse(metric: object) -> None:
    truth = np.clip(picture(192, 200), 0, 1)
    values = [metric.measure(noisy(truth, d), truth) for d in (0.02, 0.08, 0.2)]  # type: ignore[attr-defined]
    best = metric.measure(truth, truth)  # type: ignore[attr-defined]
    expected = {"psnr_rgb": math.inf, "gmsd_y": 0.0, "delta_e_2000": 0.0}.get(metric.key, 1.0)  # type: ignore[attr-defined]
    assert best == pytest.approx(expected, abs=1e-9)
    ordered = [best, *values]
    assert ordered == sorted(ordered, reverse=metric.higher_is_better)  # type: ignore[attr-defined]
    assert len(set(ordered)) == 4


def test_luma_is_bt601_full_range() -> None:
    colours = np.eye(3, dtype=np.float32)[None]
    assert luma(colours)[0].tolist() == pytest.approx([0.299, 0.587, 0.114])
    assert luma(np.ones((1, 1, 3), np.float32))[0, 0] == pytest.approx(1.0)


def test_psnr_by_hand() -> None:
    truth = np.full((16, 16, 3), 0.5, np.float32)
    one_channel = truth.copy()
    one_channel[..., 1] += np.float32(0.3)
    # MSE 0.09 / 3 = 0.03.
    assert psnr_rgb(one_channel, truth) == pytest.approx(-10 * math.log10(0.03), abs=1e-4)


def test_ssim_of_flat_pictures_is_the_brightness_term() -> None:
    a, b = (np.full((16, 16, 3), v, np.float32) for v in (0.4, 0.6))
    expected = (2 * 0.4 * 0.6 + 1e-4) / (0.4**2 + 0.6**2 + 1e-4)
    # float32 pictures.
    assert ssim_y(a, b) == pytest.approx(expected, abs=1e-6)
    assert ssim_rgb(a, b) == pytest.approx(expected, abs=1e-6)


def test_ssim_y_sees_luma_alone_and_ssim_rgb_every_channel() -> None:
    truth = picture(64, 64)
    other = truth.copy()
    # Luma stays: what red gains, blue loses 0.299 / 0.114 times.
    pattern = np.random.default_rng(3).normal(0, 0.02, truth.shape[:2]).astype(np.float32)
    other[..., 0] += pattern
    other[..., 2] -= pattern * np.float32(0.299 / 0.114)
    assert ssim_y(other, truth) == pytest.approx(1.0, abs=1e-5)  # float32 rounding
    assert ssim_rgb(other, truth) < 0.9


def test_delta_e_of_known_pairs() -> None:
    """Sharma, Wu and Dalal (2005) give ΔE of black against white as 100."""
    black, white = np.zeros((12, 12, 3), np.float32), np.ones((12, 12, 3), np.float32)
    assert delta_e_2000(black, white) == pytest.approx(100.0, abs=0.01)  # of the white point
    half = black.copy()
    half[:6] = 1.0
    assert delta_e_2000(black, half) == pytest.approx(50.0, abs=0.01)


def _loop_terms(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """SSIM and its contrast-structure part, window by window."""
    place = np.arange(11) - 5
    line = np.exp(-(place**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    whole, structure = [], []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (p[top : top + 11, left : left + 11] for p in (x, y))
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            cov = (window * (a - ma) * (b - mb)).sum()
            cs = (2 * cov + 0.03**2) / (va + vb + 0.03**2)
            structure.append(cs)
            whole.append(cs * (2 * ma * mb + 0.01**2) / (ma**2 + mb**2 + 0.01**2))
    return float(np.mean(whole)), float(np.mean(structure))


def test_similarity_terms_against_a_loop() -> None:
    truth = luma(picture(20, 24))
    found = truth + np.random.default_rng(2).normal(0, 0.1, truth.shape)
    assert similarity_terms(found, truth) == pytest.approx(_loop_terms(found, truth), abs=1e-10)


def test_ms_ssim_is_the_weighted_product_over_five_scales() -> None:
    assert sum(WEIGHTS) == pytest.approx(1.0, abs=2e-4)  # published with four decimals
    truth = picture(178, 181)
    found = noisy(truth, 0.1)
    x, y = luma(found), luma(truth)
    product = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        whole, structure = similarity_terms(x, y)
        product *= (whole if scale == 4 else structure) ** weight
        x, y = (p[: p.shape[0] // 2 * 2, : p.shape[1] // 2 * 2] for p in (x, y))
        x, y = ((p[::2, ::2] + p[1::2, ::2] + p[::2, 1::2] + p[1::2, 1::2]) / 4 for p in (x, y))
    assert ms_ssim_y(found, truth) == pytest.approx(product, abs=1e-10)


def test_ms_ssim_of_small_and_of_inverted_pictures() -> None:
    small = picture(SMALLEST_SIDE - 1, 400)
    assert ms_ssim_y(small, small) is None
    enough = picture(SMALLEST_SIDE, SMALLEST_SIDE)
    assert ms_ssim_y(enough, enough) == pytest.approx(1.0)
    assert ms_ssim_y(1 - enough, enough) == 0.0  # negative correlation has no power of 0.2856


def test_halved_leaves_an_odd_row_out() -> None:
    plane = np.array([[1.0, 3, 9], [5, 7, 9], [9, 9, 9]])
    assert halved(plane).tolist() == [[4.0]]


def _loop_gmsd(found: Picture, truth: Picture) -> float:
    def gradients(image: Picture) -> NDArray[np.float64]:
        y = 255 * luma(image)
        small = (y[::2, ::2] + y[1::2, ::2] + y[::2, 1::2] + y[1::2, 1::2]) / 4
        padded = np.pad(small, 1)
        result = np.zeros_like(small)
        for r in range(small.shape[0]):
            for c in range(small.shape[1]):
                block = padded[r : r + 3, c : c + 3]
                across = (block[:, 0].sum() - block[:, 2].sum()) / 3
                down = (block[0].sum() - block[2].sum()) / 3
                result[r, c] = math.hypot(across, down)
        return result

    a, b = gradients(found), gradients(truth)
    similarity = (2 * a * b + 170) / (a * a + b * b + 170)
    return float(np.sqrt(((similarity - similarity.mean()) ** 2).mean()))


def test_gmsd_against_a_loop() -> None:
    truth = picture(32, 40)
    found = noisy(truth, 0.1)
    assert C == 170
    assert gmsd_y(found, truth) == pytest.approx(_loop_gmsd(found, truth), abs=1e-10)


def test_best_of_several_follows_the_direction_of_each_metric() -> None:
    truth = picture(192, 192).clip(0, 1)
    good, bad = noisy(truth, 0.02), noisy(truth, 0.2)
    ruler = Ruler(WEIGHT_FREE)
    assert ruler.measure([bad, good], truth) == ruler.measure([good], truth)
    assert ruler.measure([bad], truth) != ruler.measure([good], truth)


def test_values_beyond_unit_range_are_clipped_first() -> None:
    truth = np.ones((16, 16, 3), np.float32)
    ruler = Ruler(choose_metrics("psnr_rgb"))
    assert ruler.measure([truth * 2], truth) == {"psnr_rgb": math.inf}


def test_choice_of_metrics() -> None:
    assert [m.key for m in choose_metrics("gmsd_y, psnr_rgb")] == ["psnr_rgb", "gmsd_y"]
    assert choose_metrics(None) == WEIGHT_FREE
    with pytest.raises(ConfigError, match=r"among psnr_rgb.*found 'vmaf'"):
        choose_metrics("psnr_rgb,vmaf")


@pytest.mark.parametrize("measure", [ssim_y, gmsd_y, ms_ssim_y, delta_e_2000])
def test_metrics_of_luma_ignore_where_the_picture_comes_from(
    measure: Callable[[Picture, Picture], float],
) -> None:
    """A mirrored pair has the same score as the pair."""
    truth = picture(192, 192)
    found = noisy(truth, 0.05)
    mirrored = measure(found[:, ::-1].copy(), truth[:, ::-1].copy())
    # Sums in another order.
    assert mirrored == pytest.approx(measure(found, truth), abs=1e-8)
