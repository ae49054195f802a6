"""Attention through matrices of scores is attention."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.decoders import build_decoder
from torch import Tensor
from torch.nn import functional

from ldmsid_core.decoding import wide_attention
from ldmsid_core.decoding.attention import self_attention
from ldmsid_core.decoding.layers import Layers
from ldmsid_core.decoding.modules import find_decoder
from ldmsid_core.decoding.norms import FrameNorms
from ldmsid_core.decoding.wide_attention import attend, attend_in_strips, gives_float32

WIDTH, QUERIES, KEYS = 512, 67, 93


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    made = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, 1, count, WIDTH, generator=made).to(dtype) for count in (QUERIES, KEYS, KEYS)
    )
    return 3.0 * query, key, value


@pytest.mark.parametrize("strip", [1, 2 * KEYS * 10, 1 << 23])
@pytest.mark.parametrize("biased", [False, True])
def test_strips_of_scores_are_attention(strip: int, biased: bool) -> None:
    given = inputs()
    bias = torch.linspace(-2.0, 2.0, KEYS) if biased else None
    if bias is not None:
        bias[5] = -torch.inf
    mask = None if bias is None else bias.expand(1, 1, QUERIES, KEYS)
    wanted = functional.scaled_dot_product_attention(*given, attn_mask=mask)
    found = attend_in_strips(*given, bias=bias, strip=strip)
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(attend(*given, bias=bias, strip=strip), wanted, atol=1e-5)


def test_columns_in_memory_are_taken_as_they_come() -> None:
    given = inputs()
    columns = [x.mT.contiguous().mT for x in given]
    assert not columns[0].is_contiguous()
    wanted = functional.scaled_dot_product_attention(*given)
    assert torch.allclose(attend_in_strips(*columns, strip=1 << 14), wanted, atol=1e-5)


def test_strips_leave_memory_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def noted(left: Tensor, right: Tensor) -> Tensor:
        counts.append(len(left))
        return left @ right

    monkeypatch.setattr(wide_attention, "_wide_product", noted)
    made = torch.ones(1, 1, 300, WIDTH)
    attend_in_strips(made, made, made, strip=2 * 300 * 150)
    assert counts == [128, 128, 44]


def test_windows_of_a_large_frame_may_go_through_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, _ = build_decoder()
    attention = find_decoder(copy.deepcopy(vae).to(torch.bfloat16)).attention
    made = torch.Generator().manual_seed(0)
    x = torch.randn(1, int(attention.norm.num_channels), 150, 140, generator=made).to(
        torch.bfloat16
    )
    layers = Layers(FrameNorms(), strip=1 << 25, attention_positions=1)
    with torch.no_grad():
        (wanted,) = self_attention([x.clone()], attention, layers)
        monkeypatch.setattr(wide_attention, "_FAST_WIDTH", 0)
        monkeypatch.setattr(wide_attention, "gives_float32", lambda _x: True)
        monkeypatch.setattr(wide_attention, "_wide_product", lambda a, b: a.float() @ b.float())
        (found,) = self_attention([x.clone()], attention, layers)
    added, error = wanted.float() - x.float(), found.float() - wanted.float()
    assert error.abs().max() > 0.0 and error.square().mean() < 1e-4 * added.square().mean()


def test_half_precision_keeps_scores_in_float32() -> None:
    given = inputs(torch.bfloat16)
    wanted = functional.scaled_dot_product_attention(*(x.double() for x in given))
    found = attend_in_strips(*given, strip=1 << 23)
    assert found.dtype == torch.bfloat16
    query, key, value = given
    rounded = (query @ key.mT * WIDTH**-0.5).softmax(dim=-1) @ value
    error, usual = (float((x.double() - wanted).square().mean().sqrt()) for x in (found, rounded))
    assert error < 0.5 * usual


def test_only_wide_heads_in_half_precision_take_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[torch.Size] = []

    def noted(query: Tensor, *rest: Tensor, bias: Tensor | None, strip: int) -> Tensor:
        taken.append(query.shape)
        return attend_in_strips(query, *rest, bias=bias, strip=strip)

    monkeypatch.setattr(wide_attention, "attend_in_strips", noted)
    attend(*inputs(torch.bfloat16), strip=1 << 20)
    assert not taken, "a CPU has no such products"
    monkeypatch.setattr(wide_attention, "gives_float32", lambda _x: True)
    monkeypatch.setattr(wide_attention, "_wide_product", lambda a, b: a.float() @ b.float())
    attend(*inputs(), strip=1 << 20)
    attend(*(x[..., :256] for x in inputs(torch.bfloat16)), strip=1 << 20)
    attend(*inputs(torch.bfloat16), strip=2 * KEYS * 255)
    assert not taken
    attend(*inputs(torch.bfloat16), strip=2 * KEYS * 256)
    assert taken == [(1, 1, QUERIES, WIDTH)]


def test_a_cpu_has_no_wide_products() -> None:
    assert not gives_float32(torch.zeros(1, dtype=torch.bfloat16))
