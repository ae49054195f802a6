"""The truth that LibRaw develops lies on the packed planes, pixel on pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.datasets import scene_picture, write_exposure
from helpers.raws import need_raw, random_mosaic
from numpy.typing import NDArray

from ldmsid_core.errors import UnsupportedRawError
from ldmsid_core.raw.cfa import CFA_PATTERNS, CfaPattern
from ldmsid_core.raw.develop_libraw import develop_truth
from ldmsid_core.raw.dng import DngHeader, write_dng
from ldmsid_core.raw.loader import load_raw


def peak_shift(first: NDArray[np.floating], second: NDArray[np.floating]) -> tuple[int, int]:
    """Rows and columns by which the second is displaced: peak of the phase correlation."""
    spectra = np.fft.fft2(first - first.mean()) * np.conj(np.fft.fft2(second - second.mean()))
    surface = np.fft.ifft2(spectra / np.maximum(np.abs(spectra), 1e-9)).real
    row, column = np.unravel_index(surface.argmax(), surface.shape)
    height, width = surface.shape
    return (int(row + height // 2) % height - height // 2,
            int(column + width // 2) % width - width // 2)  # fmt: skip


def shift_of_truth(path: Path) -> tuple[int, int]:
    raw = load_raw(path)
    height, width = raw.planes.shape[-2:]
    truth = develop_truth(path, height=height, width=width)
    assert truth.shape == (height, width, 3)
    assert truth.dtype == np.uint8
    return peak_shift(raw.planes[0].numpy().mean(0), truth.mean(axis=2))


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_each_layout_is_aligned(tmp_path: Path, cfa: CfaPattern) -> None:
    write_dng(tmp_path / "a.ARW", random_mosaic(96, 128), DngHeader(cfa=cfa))
    assert shift_of_truth(tmp_path / "a.ARW") == (0, 0)


@pytest.mark.parametrize("area", [(0, 0, 95, 127), (1, 3, 91, 120), (2, 4, 89, 121)])
def test_odd_areas_are_aligned(tmp_path: Path, area: tuple[int, int, int, int]) -> None:
    header = DngHeader(active_area=area, orientation=6)
    write_dng(tmp_path / "a.dng", random_mosaic(96, 128), header)
    assert shift_of_truth(tmp_path / "a.dng") == (0, 0)


def test_a_displaced_truth_would_show(tmp_path: Path) -> None:
    write_dng(tmp_path / "a.dng", random_mosaic(96, 128), DngHeader())
    planes = load_raw(tmp_path / "a.dng").planes[0].numpy().mean(0)
    truth = develop_truth(tmp_path / "a.dng", height=48, width=64).mean(axis=2)
    assert peak_shift(planes, np.roll(truth, (-1, 2), axis=(0, 1))) == (1, -2)


def test_real_file_is_aligned() -> None:
    assert shift_of_truth(need_raw("real/nikon_d5000_bracket_mid_1-160s.dng")) == (0, 0)


def test_colours_of_the_scene_come_back(tmp_path: Path) -> None:
    picture = np.full((32, 48, 3), (90, 140, 60), np.uint8)
    write_exposure(tmp_path / "a.dng", picture)
    truth = develop_truth(tmp_path / "a.dng", height=32, width=48)
    # LibRaw's tone curve is BT.709's, ours sRGB's: they differ by up to 12 of 255 in the mid-tones.
    assert np.abs(truth[8:24, 8:40].astype(int) - picture[8:24, 8:40]).max() <= 16


def test_exposure_is_not_brightened(tmp_path: Path) -> None:
    picture = scene_picture(32, 48)
    write_exposure(tmp_path / "bright.dng", picture)
    write_exposure(tmp_path / "dim.dng", picture // 2)
    bright, dim = (
        develop_truth(tmp_path / name, height=32, width=48).mean()
        for name in ("bright.dng", "dim.dng")
    )
    assert dim < 0.65 * bright


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    write_dng(tmp_path / "a.dng", random_mosaic(96, 128), DngHeader())
    with pytest.raises(UnsupportedRawError, match=r"64x46 .*64x48"):
        develop_truth(tmp_path / "a.dng", height=46, width=64)
    with pytest.raises(UnsupportedRawError, match="does not exist"):
        develop_truth(tmp_path / "b.dng", height=48, width=64)
