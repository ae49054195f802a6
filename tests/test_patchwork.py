"""The small picture that stands for a frame."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from ldmsid_core.patchwork import PATCH, Patchwork, patchwork_of, spread
from ldmsid_core.tiling import plan_tiles

SIDES = st.integers(1, 60).map(lambda n: PATCH * n)


@limits(deadline=None, max_examples=200)
@given(SIDES, SIDES, st.integers(1, 16).map(lambda n: PATCH * n))
def test_patches_lie_in_the_frame_and_are_about_one_tile(
    height: int, width: int, tile: int
) -> None:
    layout = plan_tiles(height, width, tile=tile, overlap=0)
    found = patchwork_of(layout)
    for starts, length in ((found.rows, height), (found.columns, width)):
        gaps = [b - a for a, b in pairwise(starts)]
        assert starts[0] >= 0 and starts[-1] + PATCH <= length
        assert all(gap >= PATCH for gap in gaps), "patches overlap"
        assert not gaps or (starts[0], starts[-1]) == (0, length - PATCH)
        assert max(gaps, default=0) - min(gaps, default=0) <= 1, "patches are not even"
    patches = len(found.rows) * len(found.columns)
    possible = (height // PATCH) * (width // PATCH)
    wanted = min(max(layout.tile_height * layout.tile_width // PATCH**2, 16), 64)
    assert patches <= wanted and (patches > wanted // 2 or patches == possible)
    assert (found.height, found.width) == (PATCH * len(found.rows), PATCH * len(found.columns))
    assert len(found.layout().tiles()) == 1


def test_usual_frames() -> None:
    a7s2 = patchwork_of(plan_tiles(184, 272, tile=72, overlap=16))
    assert (a7s2.height, a7s2.width) == (64, 64)
    narrow = patchwork_of(plan_tiles(16, 1000, tile=64, overlap=16))
    assert (narrow.height, narrow.width) == (16, 64)
    assert spread(10, 1) == (5,) and spread(10, 3) == (0, 5, 10)


def test_patches_are_those_of_the_frame() -> None:
    found = Patchwork((0, 10), (3, 20, 40))
    x = torch.randn(2, 3, 18, 50, generator=torch.Generator().manual_seed(0))
    small = found.cut(x)
    assert small.shape == (2, 3, 16, 24)
    for i, top in enumerate(found.rows):
        for j, left in enumerate(found.columns):
            own = small[..., i * 8 : (i + 1) * 8, j * 8 : (j + 1) * 8]
            assert torch.equal(own, x[..., top : top + 8, left : left + 8])


def test_a_small_frame_stands_for_itself() -> None:
    layout = plan_tiles(32, 32, tile=24, overlap=8)
    x = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(patchwork_of(layout).cut(x), x)
