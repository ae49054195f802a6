"""Plans for a frame and a machine: what is chosen, refused, estimated and said."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ldmsid_core.decoding.bounded import (
    DEFAULT_TILE,
    SMALLEST_TILE,
    WINDOWS_ABOVE,
    statistics_tiles,
)
from ldmsid_core.decoding.cost import DecodeCost
from ldmsid_core.errors import ConfigError
from ldmsid_core.frame_plan import (
    Costs,
    FramePlan,
    estimate,
    make_plan,
    smaller_decode,
    with_margin,
    with_seconds,
)
from ldmsid_core.patchwork import patchwork_of
from ldmsid_core.tiling import plan_tiles
from ldmsid_core.work import CostModel, choose_tile

# Full size in bfloat16, as `benchmarks/work.py` finds it.
STEP = CostModel(4.0e9, 1.958e8, 9493.75, 160900.0, 17328.0)
DECODE = CostModel(1e6, 2e9, 2048.0, 1e6, 1e5)
HEAD = CostModel(1e6, 2e8, 2048.0, 1e6, 6e3)
DECODES = DecodeCost(DECODE, HEAD, 1024)
COSTS = Costs(STEP, DECODES)
# An A7S II frame: 2128 x 1424 padded to 64.
FRAME = (184, 272)
PLENTY = 1 << 50


def never() -> Costs:
    raise AssertionError("costs were asked for where nothing is to be chosen")


def planned(
    height: int, width: int, *, free: int = PLENTY, tile: int = 0, overlap: int = 16,
    batch: int = 1, decode: str = "auto", decode_tile: int = 0, asked: bool = True,
) -> FramePlan:  # fmt: skip
    return make_plan(
        height, width, tile=tile, overlap=overlap, batch=batch, decode=decode,
        decode_tile=decode_tile, costs=(lambda: COSTS) if asked else never, free=free,
    )  # fmt: skip


def test_with_plenty_of_memory() -> None:
    plan = planned(*FRAME)
    assert plan.layout == plan_tiles(*FRAME, tile=72, overlap=16)
    assert (plan.decode, plan.decode_tile) == ("exact", DEFAULT_TILE)


@pytest.mark.parametrize("size", [(8, 8), (8, 512), (64, 64), (24, 40)])
def test_small_frames_stay_whole_and_nothing_is_measured(size: tuple[int, int]) -> None:
    plan = planned(*size, asked=False)
    assert len(plan.layout.tiles()) == 1 and plan.decode == "exact"
    assert (plan.layout.tile_height, plan.layout.tile_width) == size
    tiled = planned(*size, decode="bounded", asked=False)
    assert (tiled.decode, tiled.decode_tile) == ("bounded", DEFAULT_TILE)


def test_what_is_asked_for_is_done_unmeasured() -> None:
    plan = planned(*FRAME, tile=48, overlap=8, batch=3, decode="bounded", decode_tile=80,
                   asked=False, free=1)  # fmt: skip
    assert plan.layout == plan_tiles(*FRAME, tile=48, overlap=8, batch=3)
    assert (plan.decode, plan.decode_tile) == ("bounded", 80)
    assert plan.decode_layout() == plan_tiles(*FRAME, tile=80, overlap=16)
    assert planned(*FRAME, tile=400, decode="exact", asked=False).decode == "exact"
    assert len(planned(*FRAME, tile=400, decode="exact", asked=False).layout.tiles()) == 1


def test_an_overlap_wider_than_a_small_frame_is_cut() -> None:
    assert planned(8, 8, asked=False).layout.overlap == 7


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("side", [32, 40, 64])
def test_memory_limits_the_tile(side: int, batch: int) -> None:
    free = with_margin(batch * STEP.bytes(side * side)) + 2
    plan = planned(*FRAME, batch=batch, free=free, decode="exact")
    tile = plan.layout.tile
    assert with_margin(batch * STEP.bytes(tile * tile)) <= free
    assert tile == choose_tile(*FRAME, overlap=16, cost=STEP, free=STEP.bytes(side * side))
    assert plan.layout.batch == batch


@pytest.mark.parametrize(
    ("free", "at_once"), [(PLENTY, 15), (2 * 10**9, 5), (10**9, 2), (10**8, 1)]
)
def test_memory_decides_how_many_tiles_a_call_takes(free: int, at_once: int) -> None:
    wanted = {"overlap": 16, "decode": "exact", "decode_tile": 0, "costs": lambda: COSTS}
    plan = make_plan(*FRAME, tile=72, batch=0, free=free, **wanted)  # type: ignore[arg-type]
    assert len(plan.layout.tiles()) == 15 and plan.layout.batch == at_once
    needed = with_margin(at_once * STEP.bytes(72 * 72))
    assert needed <= free // 2 or at_once == 1
    one = make_plan(64, 64, tile=64, batch=0, free=0, **wanted)  # type: ignore[arg-type]
    assert one.layout.batch == 1


def test_memory_decides_how_to_decode() -> None:
    needed = with_margin(DECODE.bytes(184 * 272))
    assert planned(*FRAME, free=needed).decode == "exact"
    less = planned(*FRAME, free=needed - 1)
    assert (less.decode, less.decode_tile) == ("bounded", DEFAULT_TILE)
    for side in (88, 72, SMALLEST_TILE):
        working = DECODES.bounded_bytes(*FRAME, side)
        found = planned(*FRAME, free=with_margin(working), tile=64)
        assert found.decode == "bounded"
        # Between two thirds and all of the sample's size, tiles cost the sample's memory.
        assert DECODES.bounded_bytes(*FRAME, found.decode_tile) <= working
        assert found.decode_tile >= side


def test_a_decode_that_fits_nowhere_is_refused_with_both_numbers() -> None:
    needed = with_margin(DECODES.bounded_bytes(*FRAME, SMALLEST_TILE))
    for free in (needed - 10**6, 100 * 10**6):
        words = f"at least {needed / 1e6:.0f} MB .*tiles of 512 pixels, found {free / 1e6:.0f} MB"
        with pytest.raises(ConfigError, match=words):
            planned(*FRAME, free=free, tile=64)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_step_that_fits_nowhere_is_refused_with_both_numbers(batch: int) -> None:
    """What it names is enough: so much free memory is accepted."""
    with pytest.raises(ConfigError, match=r"found 5000000;") as refused:
        planned(*FRAME, free=5_000_000, batch=batch, decode="exact")
    named = re.search(r"at least (\d+) bytes", str(refused.value))
    assert named is not None
    needed = int(named.group(1))
    # Below, the patches that stand for the frame would take more than a tile.
    assert needed == pytest.approx(with_margin(batch * STEP.bytes(32 * 32)), abs=2)
    layout = planned(*FRAME, free=needed, batch=batch, decode="exact").layout
    assert layout.tile == patchwork_of(layout).height == patchwork_of(layout).width == 32
    with pytest.raises(ConfigError):
        planned(*FRAME, free=needed - 1, batch=batch, decode="exact")


def test_smaller_layouts_down_to_one_cell_of_the_network() -> None:
    plan = planned(*FRAME, batch=3)
    sides = [plan.layout.tile]
    while (layout := plan.smaller_layout()) is not None:
        assert layout.batch == 1 and layout.tile % 8 == 0 and 0 <= layout.overlap <= layout.tile / 2
        assert (layout.height, layout.width, layout.window) == (*FRAME, "smooth")
        plan = replace(plan, layout=layout)
        sides.append(layout.tile)
    assert sides == [72, 32, 16, 8]


def test_half_of_a_whole_frame_is_half_of_its_longer_side() -> None:
    layout = planned(24, 104, asked=False).smaller_layout()
    assert layout is not None and (layout.tile, layout.tile_height) == (48, 24)
    assert planned(8, 8, asked=False).smaller_layout() is None


def test_smaller_decodes() -> None:
    way: tuple[str, int] | None = ("exact", 200)
    seen = []
    while (way := smaller_decode(*way)) is not None:
        seen.append(way)
    assert seen == [("bounded", 96), ("bounded", 64)]
    assert smaller_decode("bounded", 200) == ("bounded", 100)


def test_an_estimate_by_hand() -> None:
    step, decode = CostModel(10.0, 2.0, 1.0, 5.0, 3.0), CostModel(7.0, 1.0, 0.5, 1e6, 2e3)
    layout = plan_tiles(16, 40, tile=16, overlap=4, batch=2)
    assert len(layout.tiles()) == 3
    costs = Costs(step, DecodeCost(decode, decode, 0))
    exact = estimate(FramePlan(layout, "exact", 96), costs, steps=5, free=10**9)
    # Three tiles, and ten patches that stand for the frame.
    assert exact.step_flops == 3 * (10 + 2 * 256 + 256 * 256) + 10 + 2 * 640 + 640 * 640
    assert exact.decode_flops == 7 + 640 + 640 * 320
    assert exact.flops == 5 * exact.step_flops + exact.decode_flops
    # 1 MB + 640 positions of 2 kB are more than two tiles of a step; half as much again on top.
    assert exact.peak_bytes == round(1.5 * 2_280_000) + 150_000_000
    assert (exact.free_bytes, exact.seconds) == (10**9, None)

    cheap = CostModel(0.0, 0.0, 0.0, 0.0, 0.0)
    costs = Costs(step, DecodeCost(cheap, cheap, 0))
    # The ten patches are more than two of the tiles, and less than three.
    for batch, most in ((2, 5 + 3 * 640), (3, 3 * (5 + 3 * 256))):
        plan = FramePlan(replace(layout, batch=batch), "exact", 96)
        only = estimate(plan, costs, steps=5, free=10**9)
        assert only.peak_bytes == round(1.5 * most) + 150_000_000


def test_an_estimate_of_bounded_decoding_by_hand() -> None:
    step, whole = CostModel(0.0, 1.0, 0.0, 0.0, 0.0), CostModel(0.0, 3.0, 0.5, 0.0, 10.0)
    decode = DecodeCost(whole, CostModel(0.0, 1.0, 0.5, 0.0, 1.0), 2)
    layout = plan_tiles(100, 200, tile=64, overlap=16)
    found = estimate(FramePlan(layout, "bounded", 64), Costs(step, decode), steps=1, free=1)
    # Tiles of 64 at an overlap of 16: 2 rows of 4; 14 tiles of 24 stand for the frame, and fill 12
    # places of even rows and columns. Two operations a position after the head.
    sampled = 12 * 24 * 24
    assert found.decode_flops == 2 * (8 * 4096 + sampled) + 20000 + 20000 * 10000
    assert found.peak_bytes == round(1.5 * (81920 + 40000)) + 150_000_000


def test_attention_of_a_large_frame_is_counted_by_what_it_sees() -> None:
    nothing = CostModel(0.0, 0.0, 0.0, 0.0, 0.0)
    decode = DecodeCost(nothing, CostModel(0.0, 0.0, 1.0, 0.0, 0.0), 0)
    layout = plan_tiles(300, 400, tile=96, overlap=16)
    own = sum(96**4 for _ in layout.tiles()) + sum(
        (tile.height * tile.width) ** 2 for tile in statistics_tiles(300, 400, layout)
    )
    assert decode.bounded_flops(layout) == 120000 * WINDOWS_ABOVE - own


@pytest.mark.parametrize(
    ("height", "width", "side", "positions"),
    [
        (100, 200, 64, 8192), (1000, 1000, 64, 8192), (1000, 1000, 96, 15625),
        (1000, 1000, 200, 40000), (8, 100, 64, 800), (8, 1000, 64, 1024),
    ],
)  # fmt: skip
def test_memory_of_bounded_decoding(height: int, width: int, side: int, positions: int) -> None:
    """Most is held by a tile, by the tiles that stand for the frame, or by the head."""
    nothing, each = CostModel(0.0, 0.0, 0.0, 0.0, 0.0), CostModel(0.0, 0.0, 0.0, 0.0, 1.0)
    frame = height * width
    assert DecodeCost(each, nothing, 0).bounded_bytes(height, width, side) == positions
    assert DecodeCost(each, nothing, 3).bounded_bytes(height, width, side) == positions + 3 * frame
    assert DecodeCost(nothing, each, 0).bounded_bytes(height, width, side) == frame


def test_the_sentence() -> None:
    plan = planned(*FRAME, free=2 * 10**9, tile=64)
    found = estimate(plan, COSTS, steps=12, free=8_000_000_000)
    wanted = (
        r"2176x1472 pixels, 12 steps in 24 tiles of 512 pixels, bounded decode, "
        r"[\d.]+e?\+?\d* TFLOP, about [\d.]+ GB of working memory \(8 GB free\)"
    )
    assert re.fullmatch(wanted, found.sentence()), found.sentence()
    step_rate, decode_rate = found.step_flops * 2.0, found.decode_flops / 10.0
    timed = with_seconds(found, step_rate=step_rate, decode_rate=decode_rate)
    assert timed.seconds == pytest.approx(12 / 2 + 10)
    assert timed.sentence() == found.sentence() + ", about 16 s"
    assert replace(timed, seconds=119.0).sentence().endswith("about 119 s")
    assert replace(timed, seconds=150.0).sentence().endswith("about 2 min")
    small = estimate(planned(64, 48, asked=False), COSTS, steps=1, free=10**9)
    assert small.sentence().startswith("384x512 pixels, 1 step in one piece, exact decode, ")
