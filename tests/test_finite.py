"""Looking for NaN and infinity."""

from __future__ import annotations

import pytest
import torch

from ldmsid_core.finite import is_finite

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_numbers_are(dtype: torch.dtype) -> None:
    assert is_finite(torch.tensor([[-3.0, 0.0], [1.0, 2.0]]).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 7, 15])
def test_nan_is_found_wherever_it_is(dtype: torch.dtype, place: int) -> None:
    values = torch.linspace(-1.0, 1.0, 16)
    values[place] = torch.nan
    assert not is_finite(values.reshape(4, 4).to(dtype))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_infinity_is_found(value: float) -> None:
    values = torch.zeros(2, 3, 5)
    values[1, 2, 3] = value
    assert not is_finite(values)
    assert not is_finite(values.to(memory_format=torch.contiguous_format).transpose(0, 2))


def test_both_infinities_do_not_cancel() -> None:
    assert not is_finite(torch.tensor([torch.inf, -torch.inf]))


def test_whole_numbers_and_nothing_are_finite() -> None:
    assert is_finite(torch.tensor([1, 2, 3]))
    assert is_finite(torch.zeros(0, 4))
