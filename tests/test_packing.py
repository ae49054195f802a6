"""Packing, levels and the planes a network sees."""

from __future__ import annotations

import pytest
import torch

from ldmsid_core.errors import ConfigError, ShapeError
from ldmsid_core.raw.cfa import CFA_PATTERNS, CfaPattern
from ldmsid_core.raw.packing import (
    check_exposure_ratio,
    network_planes,
    normalise,
    pack_bayer,
    unpack_bayer,
)

# Each letter at its place; G1 is the green on red's row.
BY_HAND = {
    "RGGB": [[1, 2], [4, 3]],
    "BGGR": [[3, 4], [2, 1]],
    "GRBG": [[2, 1], [3, 4]],
    "GBRG": [[4, 3], [1, 2]],
}


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_plane_order_by_hand(cfa: CfaPattern) -> None:
    packed = pack_bayer(torch.tensor([BY_HAND[cfa]]), cfa=cfa)
    assert packed[0, :, 0, 0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_pack_and_unpack(cfa: CfaPattern) -> None:
    mosaic = torch.arange(2 * 6 * 8).reshape(2, 6, 8)
    assert torch.equal(unpack_bayer(pack_bayer(mosaic, cfa=cfa), cfa=cfa), mosaic)


def test_normalise_per_plane_without_clipping() -> None:
    planes = torch.tensor([0.0, 200.0, 300.0, 1200.0]).reshape(1, 4, 1, 1)
    found = normalise(planes, black_level=(100, 200, 200, 200), white_level=1100)
    assert found.flatten().tolist() == pytest.approx([-0.1, 0.0, 1 / 9, 10 / 9])


def test_network_planes_balance_amplify_clip() -> None:
    planes = torch.tensor([0.1, 0.1, 0.1, -0.1]).reshape(1, 4, 1, 1)
    found = network_planes(planes, exposure_ratio=2.0, white_balance=(2.0, 1.0, 6.0))
    assert found.flatten().tolist() == pytest.approx([-0.2, -0.6, 1.0, -1.0])


def test_network_planes_keep_the_range_that_the_recipe_says() -> None:
    planes = torch.tensor([0.9, -0.1, -0.3, 0.2]).reshape(1, 4, 1, 1)
    found = network_planes(planes, exposure_ratio=2.0, clip=(-0.5, 1.5))
    assert found.flatten().tolist() == pytest.approx([2.0, -1.4, -2.0, -0.2])


@pytest.mark.parametrize("ratio", [0.99, 0.0, -3.0, float("nan"), float("inf"), 10001.0])
def test_impossible_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match="exposure ratio from 1 to 10000"):
        check_exposure_ratio(ratio)


def test_wrong_shapes_and_levels() -> None:
    with pytest.raises(ShapeError, match="even"):
        pack_bayer(torch.zeros(1, 3, 4), cfa="RGGB")
    with pytest.raises(ShapeError, match="B, 4"):
        unpack_bayer(torch.zeros(1, 3, 4, 4), cfa="RGGB")
    with pytest.raises(ConfigError, match="below the white level"):
        normalise(torch.zeros(1, 4, 1, 1), black_level=(5, 5, 5, 900), white_level=900)
