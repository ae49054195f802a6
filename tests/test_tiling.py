"""Tile plans: whole coverage, weights that add up, the released implementation's tiling."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import golden as g
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldmsid_core.errors import ConfigError, ShapeError
from ldmsid_core.tiling import (
    Tile,
    TileLayout,
    WindowName,
    merge_tiles,
    plan_tiles,
    released_window,
    stack_tiles,
)

# Weights are float64 quotients rounded to float32; a sum of some of them is off by a few bits.
MERGED = 2e-6


@st.composite
def layouts(draw: st.DrawFn) -> TileLayout:
    tile = draw(st.integers(1, 40))
    return plan_tiles(
        draw(st.integers(1, 90)),
        draw(st.integers(1, 90)),
        tile=tile,
        overlap=draw(st.integers(0, tile - 1)),
        window=draw(st.sampled_from(("smooth", "released"))),
        batch=draw(st.integers(1, 5)),
    )


@settings(deadline=None, max_examples=60)
@given(layouts(), st.integers(1, 3), st.integers(1, 3))
def test_tiles_of_an_image_merge_to_it(layout: TileLayout, batch: int, scale: int) -> None:
    generator = torch.Generator().manual_seed(layout.height)
    size = (batch, 2, scale * layout.height, scale * layout.width)
    image = torch.randn(size, generator=generator)
    found = merge_tiles(layout, lambda group: stack_tiles(group, image, scale=scale), scale=scale)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, image, atol=MERGED * 10, rtol=MERGED)


@settings(deadline=None, max_examples=60)
@given(layouts())
def test_tiles_cover_the_frame_and_keep_their_overlap(layout: TileLayout) -> None:
    for starts, length in ((layout.rows, layout.height), (layout.columns, layout.width)):
        size = min(layout.tile, length)
        assert starts[0] == 0 and starts[-1] == length - size
        assert list(starts) == sorted(set(starts))
        for before, after in pairwise(starts):
            assert before + size - after >= layout.overlap
    assert len(layout.tiles()) == len(layout.rows) * len(layout.columns)


@pytest.mark.parametrize(
    ("length", "starts"),
    [(7, (0,)), (16, (0,)), (17, (0, 1)), (28, (0, 12)), (29, (0, 6, 13)), (97, None)],
)
def test_as_few_tiles_as_keep_the_overlap(length: int, starts: tuple[int, ...] | None) -> None:
    found = plan_tiles(length, 8, tile=16, overlap=4).rows
    assert starts is None or found == starts
    assert len(found) == (1 if length <= 16 else -(-(length - 4) // 12))


def test_windows_are_symmetric_and_soft() -> None:
    layout = plan_tiles(28, 28, tile=16, overlap=4)
    first, last = layout.row_weights()
    assert torch.equal(first, last.flip(0))
    assert torch.equal(first[:12], torch.ones(12)) and (first[12:].diff() < 0).all()
    inner = plan_tiles(60, 1, tile=16, overlap=4).row_weights()[1]
    torch.testing.assert_close(inner, inner.flip(0))


def test_the_number_of_tiles_a_call_changes_nothing() -> None:
    layout = plan_tiles(33, 41, tile=16, overlap=5)
    image = torch.randn(2, 3, 33, 41, generator=torch.Generator().manual_seed(0))
    once = merge_tiles(layout, lambda group: stack_tiles(group, image).sin())
    for batch in (2, 5, 100):
        more = replace(layout, batch=batch)
        again = merge_tiles(more, lambda group: stack_tiles(group, image).sin())
        assert torch.equal(once, again)


def test_each_tile_is_computed_once_and_knows_its_place() -> None:
    seen: list[Tile] = []
    layout = plan_tiles(20, 28, tile=16, overlap=4, batch=4)

    def compute(group: tuple[Tile, ...]) -> Tensor:
        seen.extend(group)
        return torch.zeros(len(group), 1, 16, 16)

    merge_tiles(layout, compute)
    assert seen == list(layout.tiles())
    assert {(t.top, t.left) for t in seen} == {(0, 0), (0, 12), (4, 0), (4, 12)}


def test_an_error_in_a_tile_escapes() -> None:
    def stop(_group: tuple[Tile, ...]) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_tiles(plan_tiles(20, 20, tile=16, overlap=4), stop)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (-8, 0), (16, 16), (16, 20), (16, -1)])
def test_impossible_plans_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match=f"found tile {tile} and overlap {overlap}"):
        plan_tiles(32, 32, tile=tile, overlap=overlap)


def test_other_mistakes_are_named() -> None:
    layout = plan_tiles(20, 20, tile=16, overlap=4)
    with pytest.raises(ShapeError, match="found 0x20"):
        plan_tiles(20, 0, tile=16, overlap=4)
    window: WindowName = "square"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="found 'square'"):
        plan_tiles(20, 20, tile=16, overlap=4, window=window)
    with pytest.raises(ConfigError, match="found 0"):
        plan_tiles(20, 20, tile=16, overlap=4, batch=0)
    with pytest.raises(ShapeError, match=r"Expected 1 tiles of \(16, 16\)"):
        merge_tiles(layout, lambda group: torch.zeros(len(group), 1, 15, 16))


def test_golden_canvas_windows() -> None:
    vectors = g.load_golden("canvas")
    for name, wanted in vectors.tensors.items():
        if name.startswith("weights."):
            size = int(name.split(".")[1])
            rows, columns = (released_window(size, middle=middle) for middle in (0.5, 0.0))
            g.assert_close(rows[:, None] * columns[None, :], wanted, 1e-6, name)


def test_golden_canvas_toy() -> None:
    vectors = g.load_golden("canvas")
    case = vectors.cases["toy"]
    x, condition = vectors["toy.in.x"], vectors["toy.in.struct_x"]
    timestep = float(vectors["toy.in.t"])
    layout = plan_tiles(
        *x.shape[-2:], tile=case["tile_size"], overlap=case["tile_overlap"], window="released"
    )
    assert len(layout.tiles()) == case["tiles"]

    def toy(group: tuple[Tile, ...]) -> Tensor:
        latent, band = stack_tiles(group, x), stack_tiles(group, condition)
        height, width = latent.shape[-2:]
        row = torch.arange(height)[:, None] / height
        column = torch.arange(width)[None, :] / width
        return 0.7 * latent + 0.3 * band.tanh() + 0.1 * (row - 2 * column) + timestep / 10000

    for batch in (1, 4):
        found = merge_tiles(replace(layout, batch=batch), toy)
        g.assert_close(found, vectors["toy.out.eps"], 1e-6, "toy")
