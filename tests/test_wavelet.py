"""The Haar pyramid against PyWavelets, a plain loop, and its own promises."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch
from helpers.oracle import haar_loop
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmsid_core.errors import ShapeError
from ldmsid_core.wavelet import (
    haar_dwt2,
    haar_idwt2,
    merge_bands,
    pad_to_multiple,
    split_bands,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_against_pywavelets() -> None:
    x = draw(2, 4, 32, 48)
    ll, detail = haar_dwt2(x)
    approximation, (horizontal, vertical, diagonal) = pywt.dwt2(x.double().numpy(), "haar")
    wanted = np.concatenate([-vertical, -horizontal, diagonal], axis=1)
    # Sums of four float32 numbers.
    assert np.abs(ll.numpy() - approximation).max() < 1e-6
    assert np.abs(detail.numpy() - wanted).max() < 1e-6


def test_against_a_plain_loop() -> None:
    x = draw(1, 4, 6, 10).double()
    ll, detail = haar_dwt2(x)
    for plane in range(4):
        wanted = haar_loop(x[0, plane])
        found = (ll[0, plane], detail[0, plane], detail[0, 4 + plane], detail[0, 8 + plane])
        for mine, theirs in zip(found, wanted, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-12)


def test_blocks_of_rows_join_without_seams() -> None:
    x = draw(1, 4, 600, 512)
    ll, detail = haar_dwt2(x)
    first, first_detail = haar_dwt2(x[:, :, 298:302])
    assert torch.equal(ll[:, :, 149:151], first)
    assert torch.equal(detail[:, :, 149:151], first_detail)


def test_energy_is_kept_and_inverse_is_exact() -> None:
    x = draw(1, 4, 64, 32).double()
    ll, detail = haar_dwt2(x)
    assert float(ll.pow(2).sum() + detail.pow(2).sum()) == pytest.approx(float(x.pow(2).sum()))
    assert torch.allclose(haar_idwt2(ll, detail), x, atol=1e-12)


def test_a_flat_image_doubles_at_each_level() -> None:
    bands = split_bands(torch.ones(1, 4, 64, 64))
    assert [float(ll.mean()) for ll in bands.ll] == [2.0, 4.0, 8.0]
    assert all(float(detail.abs().max()) == 0.0 for detail in bands.detail)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150))
def test_any_size_is_split_and_merged_back(height: int, width: int) -> None:
    x = draw(1, 4, height, width)
    bands = split_bands(x)
    assert all(side % 8 == 0 for side in bands.structure_input.shape[-2:])
    assert torch.allclose(merge_bands(bands), x, atol=1e-5)


def test_padding_mirrors_without_repeating_the_edge() -> None:
    x = torch.arange(3.0).reshape(1, 1, 1, 3).expand(1, 1, 3, 3)
    assert pad_to_multiple(x, 8)[0, 0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ShapeError, match="3x4"):
        haar_dwt2(torch.zeros(1, 4, 3, 4))
    with pytest.raises(ShapeError, match=r"\(B, 4, H, W\)"):
        split_bands(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ShapeError, match="detail"):
        haar_idwt2(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))
