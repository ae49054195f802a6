"""The exposure ratio: automatic, from an EXIF pair, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.raws import need_raw

from ldmsid_core.cli_evaluate import simulated_raw
from ldmsid_core.cli_synth import dark_counts
from ldmsid_core.errors import ConfigError
from ldmsid_core.raw.exposure import (
    AUTO_MAXIMUM,
    auto_exposure_ratio,
    reference_exposure_ratio,
)
from ldmsid_core.raw.loader import load_metadata, load_raw
from ldmsid_core.raw.packed_raw import PackedRaw, RawMetadata
from ldmsid_core.training.photographs import load_photograph


def dark_raw(ratio: float = 100.0, name: str = "coffee") -> PackedRaw:
    return simulated_raw(dark_counts(load_photograph(name), ratio=ratio, iso=1600, seed=0), name)


def with_planes(raw: PackedRaw, change: torch.Tensor) -> PackedRaw:
    return replace(raw, planes=raw.planes + change)


@pytest.mark.parametrize("ratio", [100.0, 250.0])
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_auto_is_near_the_truth_on_ordinary_photographs(name: str, ratio: float) -> None:
    # A factor of two is one stop: what photographs differ by in their own brightness.
    assert ratio / 2 < auto_exposure_ratio(dark_raw(ratio, name)) < min(AUTO_MAXIMUM, ratio * 2) + 1


def test_auto_ignores_hot_pixels_and_lamps() -> None:
    raw = dark_raw()
    plain = auto_exposure_ratio(raw)
    generator = torch.Generator().manual_seed(0)
    hot = (torch.rand(raw.planes.shape, generator=generator) < 1e-3).float()
    assert auto_exposure_ratio(with_planes(raw, hot)) == pytest.approx(plain, rel=0.03)
    lamps = torch.zeros_like(raw.planes)
    lamps[:, :, 20:70, 30:80] = 1.0
    lamps[:, :, 200:240, 400:460] = 1.0
    assert auto_exposure_ratio(with_planes(raw, lamps)) == pytest.approx(plain, rel=0.12)


def test_auto_never_darkens_and_never_exceeds_its_maximum() -> None:
    raw = dark_raw()
    assert auto_exposure_ratio(replace(raw, planes=torch.full_like(raw.planes, 0.9))) == 1.0
    assert auto_exposure_ratio(replace(raw, planes=torch.zeros_like(raw.planes))) == AUTO_MAXIMUM
    assert auto_exposure_ratio(replace(raw, planes=-torch.ones_like(raw.planes))) == AUTO_MAXIMUM


def test_auto_works_on_the_smallest_file() -> None:
    raw = replace(dark_raw(), planes=torch.full((1, 4, 1, 1), 0.001))
    assert 1.0 <= auto_exposure_ratio(raw) <= AUTO_MAXIMUM


def _with(raw: PackedRaw, **values: float) -> PackedRaw:
    return replace(raw, metadata=RawMetadata(**values))  # type: ignore[arg-type]


def test_reference_ratio_by_hand() -> None:
    raw = _with(dark_raw(), shutter_s=0.04, iso=1600, aperture=5.6)
    longer = RawMetadata(shutter_s=10.0, iso=800, aperture=4.0)
    wanted = (10.0 / 0.04) * (800 / 1600) * (5.6 / 4.0) ** 2
    assert reference_exposure_ratio(raw, longer, "L") == pytest.approx(wanted)


def test_what_both_files_lack_counts_as_equal() -> None:
    raw = _with(dark_raw(), shutter_s=0.025)
    assert reference_exposure_ratio(raw, RawMetadata(shutter_s=0.25), "L") == pytest.approx(10)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (RawMetadata(), "exposure time in the EXIF data of the reference LONG"),
        (RawMetadata(shutter_s=1.0), "ISO in the EXIF data of the reference LONG"),
        (RawMetadata(shutter_s=0.01, iso=100), "more exposure"),
        (RawMetadata(shutter_s=1e9, iso=100), "exposure ratio from 1"),
    ],
)
def test_unusable_references(reference: RawMetadata, words: str) -> None:
    raw = _with(dark_raw(), shutter_s=0.04, iso=100)
    with pytest.raises(ConfigError, match=words):
        reference_exposure_ratio(raw, reference, "LONG")


def test_real_pairs() -> None:
    short, middle = (
        need_raw(f"real/nikon_d5000_bracket_{n}.dng") for n in ("short_1-640s", "mid_1-160s")
    )
    ratio = reference_exposure_ratio(load_raw(short), load_metadata(middle), middle.name)
    assert ratio == pytest.approx(4.0, rel=1e-3)
    with pytest.raises(ConfigError, match="more exposure"):
        reference_exposure_ratio(load_raw(middle), load_metadata(short), short.name)
