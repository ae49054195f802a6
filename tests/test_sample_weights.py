"""Weights of sample tiles against scipy's solver, and what they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from ldmsid_core.decoding.sample_weights import Known, balanced, sample_weights
from ldmsid_core.tiling import Tile


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("evenness", [1e-3, 0.05, 1.0])
def test_balanced_is_the_least(evenness: float) -> None:
    differences = draw(7, 20) + 0.5
    matrix = differences.numpy()

    def cost(weights: np.ndarray) -> float:
        even = np.square(weights - 1 / 7).sum()
        return float(np.square(weights @ matrix).sum() + evenness * 7 * even)

    best = minimize(
        cost, np.full(7, 1 / 7), bounds=[(0, 1)] * 7, method="SLSQP", options={"ftol": 1e-14},
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
    )  # fmt: skip
    found = balanced(differences, evenness=evenness).numpy()
    # SLSQP stops where its cost changes by less than 1e-14.
    np.testing.assert_allclose(found, best.x, atol=1e-5)
    assert cost(found) <= best.fun + 1e-9


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 60), st.integers(0, 99))
def test_weights_are_shares(tiles: int, rows: int, seed: int) -> None:
    weights = balanced(3.0 * draw(tiles, rows, seed=seed))
    assert (weights >= 0).all() and float(weights.sum()) == pytest.approx(1.0, abs=1e-12)


def test_tiles_alike_count_alike() -> None:
    one = draw(1, 9)
    torch.testing.assert_close(balanced(one.expand(5, -1)), torch.full((5,), 0.2).double())


def test_a_tile_unlike_the_frame_counts_less() -> None:
    """Half of the frame is bright, but three of the four tiles lie there."""
    frame = 0.1 * draw(1, 4, 32, 64).float()
    frame[..., 32:] += 1.0
    tiles = [Tile(0, left, 16, 16, 0, 0) for left in (8, 32, 40, 48)]
    found = sample_weights([Known(frame, 1)], tiles)
    even = torch.full((4,), 0.25, dtype=torch.float64)
    means = torch.stack([tile.cut(frame).mean() for tile in tiles]).double()
    wanted = float(frame.mean())
    assert abs(float(found @ means) - wanted) < 0.3 * abs(float(even @ means) - wanted)
    assert float(found[0]) > float(found[1:].max())


def test_finer_tensors_are_cut_at_their_scale() -> None:
    coarse = draw(1, 3, 16, 24).float()
    fine = coarse.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    tiles = [Tile(0, 0, 8, 8, 0, 0), Tile(8, 16, 8, 8, 0, 0), Tile(4, 3, 8, 8, 0, 0)]
    torch.testing.assert_close(
        sample_weights([Known(fine, 4)], tiles), sample_weights([Known(coarse, 1)], tiles),
        atol=1e-5, rtol=0,  # moments are kept in float32
    )  # fmt: skip


def test_a_flat_frame_gives_even_weights() -> None:
    tiles = [Tile(0, 0, 8, 8, 0, 0), Tile(8, 8, 8, 8, 0, 0)]
    found = sample_weights([Known(torch.zeros(1, 4, 16, 16), 1)], tiles)
    torch.testing.assert_close(found, torch.full((2,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_spoiled_frame_is_left_to_whoever_looks_at_the_picture(value: float) -> None:
    frame = draw(1, 4, 16, 16).float()
    frame[0, 1, 3, 3] = value
    tiles = [Tile(0, left, 8, 8, 0, 0) for left in (0, 8)]
    assert sample_weights([Known(frame, 1)], tiles).tolist() == [0.5, 0.5]
