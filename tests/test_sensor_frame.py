"""All counts of a file: visible planes, masked strips, files without light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.calibration import SIZE, counts_of, write_frame
from helpers.raws import PLANE_BLACK, write_test_dng

from ldmsid_core.errors import UnsupportedRawError
from ldmsid_core.raw.cfa import CFA_PATTERNS, CfaPattern, packed_places
from ldmsid_core.raw.dng import DngHeader, write_dng
from ldmsid_core.raw.loader import load_frame, load_raw
from ldmsid_core.raw.noise import a7s2_noise


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_a_frame_has_the_counts_and_levels_of_its_file(tmp_path: Path, cfa: CfaPattern) -> None:
    path = tmp_path / "a.dng"
    mosaic = write_test_dng(path, cfa=cfa, iso=800, make="M", model="N")
    frame, raw = load_frame(path), load_raw(path)
    assert np.array_equal(frame.counts, mosaic)
    wanted = np.stack([mosaic[row::2, column::2] for row, column in packed_places(cfa)])
    assert np.array_equal(frame.planes, wanted)
    assert (frame.black_level, frame.cfa) == (PLANE_BLACK, cfa)
    assert (frame.metadata, frame.white_level) == (raw.metadata, raw.white_level)
    black = np.array(PLANE_BLACK)[:, None, None]
    signal = (wanted - black) / (raw.white_level - black)
    # float32 against float64.
    assert raw.planes[0].numpy() == pytest.approx(signal, abs=1e-6)


@pytest.mark.parametrize(("top", "left"), [(0, 40), (24, 0), (24, 40)])
def test_the_largest_masked_strip_is_in_step_with_the_visible_area(
    tmp_path: Path, top: int, left: int
) -> None:
    # Each place of the tile has its own count, so a plane out of step would show.
    height, width = 120, 160
    mosaic = np.random.default_rng(0).integers(0, 3, (height, width)).astype(np.uint16)
    for number, (row, column) in enumerate(packed_places("RGGB")):
        mosaic[row::2, column::2] += 500 + 10 * number
    mosaic[top:, left:] += 1000
    area = (top, left, height, width)
    write_dng(tmp_path / "a.dng", mosaic, DngHeader(active_area=area, iso=800))
    masked = load_frame(tmp_path / "a.dng").masked_planes()
    # Two lines beside the visible area are left out: one row or column of each plane.
    beside = (4, (height - top) // 2, (left - 2) // 2) if left else None
    above = (4, (top - 2) // 2, (width - left) // 2)
    assert masked.shape == (beside or above)
    for number, plane in enumerate(masked):
        assert set(np.unique(plane) - 500 - 10 * number) == {0, 1, 2}


def test_a_frame_may_hold_no_light_but_not_nothing(tmp_path: Path) -> None:
    mosaic = np.minimum(counts_of(a7s2_noise(800), seed=0), 512).astype(np.uint16)
    write_dng(tmp_path / "dark.dng", mosaic, DngHeader())
    with pytest.raises(UnsupportedRawError, match="lens cap"):
        load_raw(tmp_path / "dark.dng")
    assert load_frame(tmp_path / "dark.dng").planes.max() == 512
    write_dng(tmp_path / "empty.dng", np.full(SIZE, 512, np.uint16), DngHeader())
    with pytest.raises(UnsupportedRawError, match="every pixel"):
        load_frame(tmp_path / "empty.dng")


def test_files_without_a_border(tmp_path: Path) -> None:
    path = write_frame(tmp_path / "a.dng", a7s2_noise(800), seed=0)
    with pytest.raises(UnsupportedRawError, match=r"masked border .* a\.dng"):
        load_frame(path).masked_planes()
