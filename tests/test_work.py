"""Counting operations and bytes, the cost model, the choice of a tile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.tiny_model import UNET, build_modules
from torch import Tensor
from torch.nn import functional

from ldmsid_core.errors import ConfigError
from ldmsid_core.taming.attach import attach_unet_taming
from ldmsid_core.tiling import plan_tiles
from ldmsid_core.work import CostModel, Work, choose_tile, count_work, fit_cost, tiles_at_once

# Full size in bfloat16, as `benchmarks/work.py` finds it.
FULL = CostModel(4.0e9, 1.958e8, 9493.75, 160900.0, 17328.0)
# An A7S II frame.
FRAME = (184, 272)
PLENTY = 1 << 50


def convolution(device: str, dtype: torch.dtype) -> Tensor:
    x = torch.zeros(2, 6, 10, 12, device=device, dtype=dtype)
    return functional.conv2d(x, torch.zeros(8, 3, 3, 3, device=device, dtype=dtype), groups=2)


def product(device: str, dtype: torch.dtype) -> Tensor:
    a, b = (torch.zeros(shape, device=device, dtype=dtype) for shape in ((5, 7), (7, 11)))
    return a @ b


def attention(device: str, dtype: torch.dtype) -> Tensor:
    q, k, v = (torch.zeros(2, 4, n, 16, device=device, dtype=dtype) for n in (32, 24, 24))
    return functional.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("call", "multiply_adds"),
    [
        (convolution, 2 * 8 * 8 * 10 * 3 * 9),
        (product, 5 * 7 * 11),
        (attention, 2 * 4 * 32 * 24 * 16 * 2),
    ],
)
def test_operations_match_hand_counts(
    call: Callable[[str, torch.dtype], Tensor],
    multiply_adds: int,
    device: str,
    dtype: torch.dtype,
) -> None:
    assert count_work(lambda: call(device, dtype)).flops == 2 * multiply_adds
    with torch.no_grad():
        assert count_work(lambda: call(device, dtype)).flops == 2 * multiply_adds


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_peak_of_a_chain(device: str) -> None:
    given = torch.zeros(1000, device=device)

    def chain() -> None:
        first = given + 1  # 4000 bytes
        second = torch.cat([first, first])  # 12000
        del first  # 8000
        third = second[:500] + 0  # 10000
        del second  # 2000
        torch.cat([third] * 4)  # 2000 + 8000

    assert count_work(chain) == Work(0, 12000)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_views_and_in_place_operations_take_nothing(device: str) -> None:
    given = torch.zeros(10, 100, device=device)

    def call() -> None:
        given.view(100, 10).t().mul_(2.0)
        own = given.clone()  # 4000
        own.add_(1.0).relu_()
        torch.add(own, own, out=own)
        shown = own.transpose(0, 1)[3:7]
        del own
        assert shown.shape == (4, 10)
        functional.silu(shown, inplace=True)

    assert count_work(call).peak_bytes == 4000


def test_a_view_keeps_its_storage_alive() -> None:
    def call() -> None:
        corner = torch.zeros(1000)[:1]  # 4000
        _other = torch.zeros(500)  # 6000
        del corner
        _last = torch.zeros(500)  # 2000 + 2000

    assert count_work(call).peak_bytes == 6000


def test_attention_on_meta_keeps_no_matrix_of_tokens() -> None:
    tokens = torch.zeros(1, 2, 4096, 64, device="meta")
    found = count_work(lambda: functional.scaled_dot_product_attention(tokens, tokens, tokens))
    assert found.peak_bytes == 4 * tokens.numel()


def run_on(device: str) -> Callable[[int, int], Tensor]:
    unet, _, taming, _ = build_modules()
    unet.to(device), taming.to(device)

    def run(height: int, width: int) -> Tensor:
        latent = torch.zeros(1, 4, height, width, device=device)
        context = torch.zeros(1, 7, UNET["cross_attention_dim"], device=device)
        with attach_unet_taming(unet, taming) as predict:
            return predict(latent, torch.zeros(1, device=device), context, latent)

    return run


def test_three_tiny_runs_tell_the_cost_at_any_size() -> None:
    run, shape_only = run_on("cpu"), run_on("meta")
    cost = fit_cost(run)
    for height, width in ((24, 40), (72, 72)):
        direct = count_work(lambda h=height, w=width: shape_only(h, w))
        assert cost.flops(height * width) == pytest.approx(direct.flops, rel=1e-9)
        assert cost.bytes(height * width) == pytest.approx(direct.peak_bytes, rel=1e-9)
    assert count_work(lambda: run(24, 40)) == count_work(lambda: shape_only(24, 40))
    assert cost.flops_quadratic > 0


def test_what_modules_keep_after_a_first_run_is_not_working_memory() -> None:
    kept: list[Tensor] = []

    def run(height: int, width: int) -> Tensor:
        if not kept:
            kept.append(torch.zeros(1 << 20))
        return torch.zeros(height, width)

    cost = fit_cost(run, ((1, 1), (1, 2), (1, 3)))
    assert (cost.bytes_constant, cost.bytes_linear, cost.flops(100)) == (0.0, 4.0, 0)


def total(side: int, overlap: int, cost: CostModel) -> int:
    layout = plan_tiles(*FRAME, tile=side, overlap=overlap)
    return len(layout.tiles()) * cost.flops(layout.tile_height * layout.tile_width)


@pytest.mark.parametrize("overlap", [0, 8, 16, 32])
def test_the_cheapest_tile_by_brute_force(overlap: int) -> None:
    found = choose_tile(*FRAME, overlap=overlap, cost=FULL, free=PLENTY)
    sides = range(64, max(FRAME) + 8, 8)
    assert found is not None and found % 8 == 0
    assert total(found, overlap, FULL) == min(total(side, overlap, FULL) for side in sides)


def test_a_frame_of_twelve_megapixels_takes_15_tiles() -> None:
    assert choose_tile(*FRAME, overlap=16, cost=FULL, free=PLENTY) == 72
    assert len(plan_tiles(*FRAME, tile=72, overlap=16).tiles()) == 15


@pytest.mark.parametrize("side", [24, 40, 48, 64, 72])
def test_memory_limits_the_tile(side: int) -> None:
    free = FULL.bytes(side * side)
    found = choose_tile(*FRAME, overlap=16, cost=FULL, free=free)
    assert found is not None and FULL.bytes(found * found) <= free
    assert found >= 64 or side < 64


def test_sides_below_64_only_where_nothing_larger_fits() -> None:
    # Memory aside, small tiles are the cheapest by far under a quadratic cost.
    quadratic = CostModel(0.0, 0.0, 1.0, 0.0, 1.0)
    assert choose_tile(*FRAME, overlap=0, cost=quadratic, free=PLENTY) == 64
    assert choose_tile(*FRAME, overlap=0, cost=quadratic, free=64 * 64) == 64
    assert choose_tile(*FRAME, overlap=0, cost=quadratic, free=64 * 64 - 1) == 8
    assert choose_tile(*FRAME, overlap=0, cost=quadratic, free=4095, smallest=20) == 24


@pytest.mark.parametrize("frame", [(8, 8), (16, 16), (32, 48), (64, 64), (8, 64)])
def test_small_frames_stay_whole(frame: tuple[int, int]) -> None:
    assert choose_tile(*frame, overlap=16, cost=FULL, free=PLENTY) is None


def test_a_cheap_whole_frame_stays_whole() -> None:
    linear = CostModel(1e9, 1.0, 0.0, 0.0, 1.0)
    assert choose_tile(*FRAME, overlap=16, cost=linear, free=PLENTY) is None
    assert choose_tile(*FRAME, overlap=16, cost=linear, free=184 * 272 - 1) is not None


@pytest.mark.parametrize(("frame", "needed"), [(FRAME, 24 * 24), ((16, 16), 16 * 16)])
def test_a_refusal_names_both_numbers(frame: tuple[int, int], needed: int) -> None:
    message = f"at least {FULL.bytes(needed)} bytes.*found 1234"
    with pytest.raises(ConfigError, match=message):
        choose_tile(*frame, overlap=16, cost=FULL, free=1234)


@pytest.mark.parametrize(
    ("fit", "at_once"), [(0, 1), (1, 1), (4, 4), (6, 5), (14, 8), (15, 15), (99, 15)]
)
def test_tiles_of_a_call_are_about_as_many_each_time(fit: int, at_once: int) -> None:
    layout = plan_tiles(184, 272, tile=72, overlap=16)
    cost = CostModel(0.0, 0.0, 0.0, 0.0, 1.0)
    assert tiles_at_once(layout, cost=cost, free=fit * 72 * 72) == at_once


def test_no_call_takes_more_than_16_tiles() -> None:
    layout = plan_tiles(400, 400, tile=64, overlap=16)
    cost = CostModel(0.0, 0.0, 0.0, 0.0, 0.0)
    assert len(layout.tiles()) == 64 and tiles_at_once(layout, cost=cost, free=99) == 16
