"""Statistics of norms against numpy in float64, however large the mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ldmsid_core.decoding import norms
from ldmsid_core.decoding.layers import Affine, normalise
from ldmsid_core.decoding.norms import FixedNorms, FrameNorms, PooledNorms, moments


def by_numpy(x: Tensor, groups: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = x.double().numpy().reshape(groups, -1)
    return values.mean(axis=1), values.var(axis=1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("strip", [1, 40, 1 << 17])
@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (30, 2), (1000, 0.5), (-5, 1e-3)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_moments(
    monkeypatch: pytest.MonkeyPatch,
    strip: int,
    mean: float,
    deviation: float,
    layout: torch.memory_format,
) -> None:
    monkeypatch.setattr(norms, "_STRIP", strip)
    x = (draw(1, 12, 19, 23) * deviation + mean).contiguous(memory_format=layout)
    x[:, ::2] += deviation  # Channels of a group differ.
    found = moments(x, 4)
    wanted = by_numpy(x, 4)
    assert found.mean.dtype == found.variance.dtype == torch.float32
    np.testing.assert_allclose(found.mean.numpy(), wanted[0], rtol=1e-6, atol=1e-6 * deviation)
    # A mean in float32 is off by 6e-8 of itself; its square enters the variance between channels.
    slack = 10 * (6e-8 * abs(mean)) ** 2 + 6e-7 * abs(mean) * deviation
    np.testing.assert_allclose(found.variance.numpy(), wanted[1], rtol=1e-5, atol=slack)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from((1, 2, 4, 8)))
def test_moments_of_any_size(height: int, width: int, groups: int) -> None:
    x = draw(1, 8, height, width, seed=height) * 3 + 2
    found, wanted = moments(x, groups), by_numpy(x, groups)
    np.testing.assert_allclose(found.mean.numpy(), wanted[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.variance.numpy(), wanted[1], rtol=1e-4, atol=1e-5)


def test_a_flat_tensor_has_no_variance() -> None:
    found = moments(torch.full((1, 8, 5, 7), 3.0), 2)
    assert torch.equal(found.mean, torch.full((2,), 3.0))
    assert (found.variance >= 0).all() and (found.variance < 1e-9).all()


def test_moments_of_half_precision_are_those_of_its_values() -> None:
    x = (draw(1, 8, 64, 64) * 2 + 20).bfloat16()
    found, wanted = moments(x, 2), by_numpy(x, 2)
    np.testing.assert_allclose(found.mean.numpy(), wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found.variance.numpy(), wanted[1], rtol=1e-4)


def test_a_norm_with_its_own_statistics_is_group_norm() -> None:
    x, weight, bias = draw(1, 12, 9, 7) * 4 + 3, draw(12, seed=1), draw(12, seed=2)
    found = FrameNorms().next([x], 4)
    affine = Affine(
        found.mean.repeat_interleave(3), found.variance.repeat_interleave(3), weight, bias, 1e-6
    )
    wanted = functional.group_norm(x, 4, weight, bias, 1e-6)
    torch.testing.assert_close(normalise(x, affine), wanted, atol=1e-5, rtol=1e-5)


def test_pooled_statistics_are_those_of_all_pieces_side_by_side() -> None:
    pieces = [draw(1, 8, 6, 10, seed=i) * (i + 1) + i for i in range(3)]
    pooled = PooledNorms(torch.full((3,), 1 / 3, dtype=torch.float64))
    found = pooled.next(pieces, 4)
    wanted = by_numpy(torch.cat(pieces, dim=3).permute(1, 0, 2, 3), 4)
    np.testing.assert_allclose(found.mean.numpy(), wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found.variance.numpy(), wanted[1], rtol=1e-5)
    again = pooled.next(pieces, 2)
    assert pooled.seen == [found, again]
    fixed = FixedNorms(pooled.seen)
    assert fixed.next(pieces, 4) is found and fixed.next(pieces, 2) is again


def test_a_piece_counts_by_its_weight() -> None:
    first, second = draw(1, 8, 6, 10), draw(1, 8, 6, 10, seed=1) * 3 + 2
    weights = torch.tensor([0.75, 0.25], dtype=torch.float64)
    found = PooledNorms(weights).next([first, second], 4)
    wanted = by_numpy(torch.cat([first, first, first, second], dim=3).permute(1, 0, 2, 3), 4)
    np.testing.assert_allclose(found.mean.numpy(), wanted[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.variance.numpy(), wanted[1], rtol=1e-5)
