"""Flips of packed planes against flipping the whole mosaic by hand."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from ldmsid_core.errors import ConfigError
from ldmsid_core.raw.cfa import CFA_PATTERNS, CfaPattern
from ldmsid_core.raw.packing import pack_bayer
from ldmsid_core.training.data.bayer_flips import (
    check_flips,
    flip_planes,
    flip_truth,
    spare_cells,
)

FLIPPED = [(False, False), (True, False), (False, True), (True, True)]


def mirror(mosaic: Tensor, flipped: tuple[bool, bool]) -> Tensor:
    return mosaic.flip([axis for axis, wanted in zip((0, 1), flipped, strict=True) if wanted])


def mirrored_layout(cfa: CfaPattern, flipped: tuple[bool, bool]) -> CfaPattern:
    rows = [cfa[:2], cfa[2:]]
    rows = rows[::-1] if flipped[0] else rows
    return cast(CfaPattern, "".join(row[::-1] if flipped[1] else row for row in rows))


def cut(mosaic: Tensor, flipped: tuple[bool, bool]) -> Tensor:
    """Without its outermost lines on the flipped axes."""
    rows, columns = (slice(1, -1) if wanted else slice(None) for wanted in flipped)
    return mosaic[rows, columns]


def cell_means(mosaic: Tensor) -> Tensor:
    height, width = mosaic.shape
    return mosaic.reshape(height // 2, 2, width // 2, 2).mean(dim=(1, 3))


@pytest.fixture
def mosaic() -> Tensor:
    return torch.rand(12, 16, generator=torch.Generator().manual_seed(1))


def test_mirrored_layout_by_hand() -> None:
    assert mirrored_layout("RGGB", (False, True)) == "GRBG"
    assert mirrored_layout("RGGB", (True, False)) == "GBRG"
    assert mirrored_layout("RGGB", (True, True)) == "BGGR"


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("flipped", FLIPPED)
def test_flipped_cells_are_the_mirrored_mosaic_packed_by_its_own_layout(
    mosaic: Tensor, cfa: CfaPattern, flipped: tuple[bool, bool]
) -> None:
    planes = pack_bayer(mosaic[None], cfa=cfa)[0]
    wanted = pack_bayer(mirror(mosaic, flipped)[None], cfa=mirrored_layout(cfa, flipped))[0]
    assert torch.equal(flip_planes(planes, flipped, flips="cells", cfa=cfa), wanted)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("flipped", FLIPPED)
def test_bayer_flips_are_the_cut_and_mirrored_mosaic_packed_by_the_old_layout(
    mosaic: Tensor, cfa: CfaPattern, flipped: tuple[bool, bool]
) -> None:
    planes = pack_bayer(mosaic[None], cfa=cfa)[0]
    wanted = pack_bayer(mirror(cut(mosaic, flipped), flipped)[None], cfa=cfa)[0]
    found = flip_planes(planes, flipped, flips="bayer", cfa=cfa)
    assert torch.equal(found, wanted)
    spare = spare_cells("bayer", flipped)
    assert tuple(found.shape[1:]) == (6 - spare[0], 8 - spare[1])


@pytest.mark.parametrize("flipped", FLIPPED)
def test_truth_follows_the_cells(mosaic: Tensor, flipped: tuple[bool, bool]) -> None:
    truth = cell_means(mosaic)[None].expand(3, -1, -1)
    wanted = cell_means(mirror(mosaic, flipped))
    assert torch.equal(flip_truth(truth, flipped, flips="cells")[1], wanted)


@pytest.mark.parametrize("flipped", FLIPPED)
def test_truth_of_bayer_flips_is_displaced_by_nothing(flipped: tuple[bool, bool]) -> None:
    # On a ramp the mean of two neighbours is exact, so any displacement would show.
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    ramp = 3.0 * x + 7.0 * y
    found = flip_truth(cell_means(ramp)[None], flipped, flips="bayer")[0]
    assert torch.equal(found, cell_means(mirror(cut(ramp, flipped), flipped)))


def test_spare_cells_and_names() -> None:
    assert spare_cells("cells", (True, True)) == (0, 0)
    assert spare_cells("bayer", (True, False)) == (1, 0)
    assert check_flips("bayer") == "bayer"
    with pytest.raises(ConfigError, match="none, cells, bayer, found 'both'"):
        check_flips("both")
