"""Loading synthetic DNGs: every layout, margins, levels, orientation, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from helpers.raws import PLANE_BLACK, need_raw, random_mosaic, tile_black, write_test_dng

from ldmsid_core.errors import UnsupportedRawError
from ldmsid_core.raw.cfa import CFA_PATTERNS, CfaPattern, packed_places
from ldmsid_core.raw.dng import DngHeader, write_dng
from ldmsid_core.raw.loader import load_metadata, load_raw
from ldmsid_core.raw.packed_raw import apply_orientation
from ldmsid_core.raw.simulate import A7S2_XYZ_TO_CAMERA, srgb_to_camera_matrix


def _expected_planes(mosaic: np.ndarray, cfa: CfaPattern, white: int = 16383) -> np.ndarray:
    """A plain loop over pixels."""
    height, width = mosaic.shape
    planes = np.zeros((4, height // 2, width // 2))
    for plane, (row, column) in enumerate(packed_places(cfa)):
        black = PLANE_BLACK[plane]
        for y in range(height // 2):
            for x in range(width // 2):
                count = float(mosaic[2 * y + row, 2 * x + column])
                planes[plane, y, x] = (count - black) / (white - black)
    return planes


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_every_layout_with_a_black_level_per_plane(tmp_path: Path, cfa: CfaPattern) -> None:
    mosaic = write_test_dng(tmp_path / "a.dng", cfa=cfa)
    raw = load_raw(tmp_path / "a.dng")
    assert raw.cfa == cfa
    assert raw.black_level == PLANE_BLACK
    wanted = _expected_planes(mosaic, cfa)
    # One float32 rounding of a number below 1.
    assert np.abs(raw.planes[0].numpy() - wanted).max() < 1e-6


@pytest.mark.parametrize("margins", [(2, 4), (3, 5), (4, 3)])
def test_visible_area_with_odd_margins_and_sizes(tmp_path: Path, margins: tuple[int, int]) -> None:
    top, left = margins
    mosaic = random_mosaic(48, 64)
    # DNG counts the layout from the active area's corner: red where both offsets are even.
    mosaic[top % 2 :: 2, left % 2 :: 2] += 5000
    header = DngHeader(active_area=(top, left, 45, 61), black_level=(512,) * 4)
    write_dng(tmp_path / "a.dng", mosaic, header)
    raw = load_raw(tmp_path / "a.dng")
    # LibRaw moves odd corners to even ones, which may cost a row or a column on each side.
    assert (45 - top) // 2 - 1 <= raw.planes.shape[2] <= (45 - top) // 2
    assert (61 - left) // 2 - 1 <= raw.planes.shape[3] <= (61 - left) // 2
    red, *others = (float(plane.mean()) for plane in raw.planes[0])
    assert all(red > other + 0.2 for other in others)


def test_nothing_is_clipped(tmp_path: Path) -> None:
    mosaic = random_mosaic(32, 32)
    mosaic[0, 0], mosaic[1, 1] = 100, 16383
    write_dng(tmp_path / "a.dng", mosaic, DngHeader(white_level=12000))
    planes = load_raw(tmp_path / "a.dng").planes
    assert planes[0, 0, 0, 0] < 0
    assert planes[0, 2, 0, 0] > 1


@pytest.mark.parametrize(("tiff", "flip"), [(1, 0), (3, 3), (6, 6), (8, 5)])
def test_orientation_is_carried_not_applied(tmp_path: Path, tiff: int, flip: int) -> None:
    write_test_dng(tmp_path / "a.dng", orientation=tiff)
    raw = load_raw(tmp_path / "a.dng")
    assert raw.orientation == flip
    assert raw.planes.shape[2:] == (24, 32)


def test_apply_orientation_by_hand() -> None:
    image = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert apply_orientation(image, 0).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert apply_orientation(image, 3).tolist() == [[6, 5, 4], [3, 2, 1]]
    assert apply_orientation(image, 6).tolist() == [[4, 1], [5, 2], [6, 3]]
    assert apply_orientation(image, 5).tolist() == [[3, 6], [2, 5], [1, 4]]


def test_white_balance_falls_back_to_daylight(tmp_path: Path) -> None:
    write_test_dng(tmp_path / "a.dng")
    write_test_dng(tmp_path / "b.dng", white_balance=None)
    shot, none = load_raw(tmp_path / "a.dng"), load_raw(tmp_path / "b.dng")
    assert shot.white_balance_source == "as shot"
    assert shot.white_balance == pytest.approx((2.05, 1.0, 1.65), rel=1e-3)
    assert none.white_balance_source == "daylight"
    assert none.white_balance[1] == 1.0


def test_the_camera_matrix_of_an_unknown_camera_is_read_from_the_file(tmp_path: Path) -> None:
    write_test_dng(tmp_path / "a.dng")
    found = load_raw(tmp_path / "a.dng").xyz_to_camera
    assert found is not None
    wanted = srgb_to_camera_matrix(torch.tensor(A7S2_XYZ_TO_CAMERA))
    # The DNG holds four decimals, and rows whose scale does not matter.
    assert torch.allclose(srgb_to_camera_matrix(torch.tensor(found)), wanted, atol=2e-3)


def test_metadata_is_read(tmp_path: Path) -> None:
    write_test_dng(tmp_path / "a.dng", iso=1600, shutter_s=0.04, aperture=5.6, make="M", model="N")
    metadata = load_raw(tmp_path / "a.dng").metadata
    assert (metadata.make, metadata.model, metadata.iso) == ("M", "N", 1600)
    assert metadata.shutter_s == pytest.approx(0.04)
    assert metadata.aperture == pytest.approx(5.6)
    assert load_metadata(tmp_path / "a.dng") == metadata


def _write_without_bayer(path: Path, kind: str) -> None:
    values = random_mosaic(60, 72)
    version = (50706, 1, 4, bytes((1, 4, 0, 0)), True)
    model = (50708, 2, 0, "Test", True)
    common = {"metadata": None, "byteorder": "<"}
    if kind == "X-Trans":
        layout = bytes([1, 2, 1, 1, 0, 1, 0, 1, 0, 2, 1, 2, 1, 2, 1, 1, 0, 1] * 2)
        tags = [(33421, 3, 2, (6, 6), True), (33422, 1, 36, layout, True), version, model]
        tifffile.imwrite(path, values, photometric="cfa", extratags=tags, **common)
    elif kind == "monochrome":
        tifffile.imwrite(path, values, photometric=1, extratags=[version, model], **common)
        with tifffile.TiffFile(path, mode="r+b") as stored:
            stored.pages.first.tags["PhotometricInterpretation"].overwrite(34892)
    else:
        rgb = np.stack([values] * 3, axis=-1)
        tifffile.imwrite(path, rgb, photometric=34892, extratags=[version, model], **common)


@pytest.mark.parametrize("kind", ["X-Trans", "monochrome", "linear DNG"])
def test_other_sensors_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    _write_without_bayer(tmp_path / "other.dng", kind)
    with pytest.raises(UnsupportedRawError, match=r"other\.dng") as caught:
        load_raw(tmp_path / "other.dng")
    assert kind in str(caught.value)


@pytest.mark.parametrize("value", [0, 512, 4000])
def test_a_constant_mosaic_is_refused(tmp_path: Path, value: int) -> None:
    write_dng(tmp_path / "a.dng", np.full((64, 64), value, np.uint16), DngHeader())
    with pytest.raises(UnsupportedRawError, match=r"every pixel of .*a\.dng"):
        load_raw(tmp_path / "a.dng")


def test_nothing_above_black_is_refused(tmp_path: Path) -> None:
    write_dng(tmp_path / "a.dng", random_mosaic(64, 64, low=400, high=512), DngHeader())
    with pytest.raises(UnsupportedRawError, match="above the black level"):
        load_raw(tmp_path / "a.dng")


def test_an_empty_lower_part_is_refused(tmp_path: Path) -> None:
    mosaic = random_mosaic(64, 64)
    mosaic[40:] = 0
    write_dng(tmp_path / "a.dng", mosaic, DngHeader())
    with pytest.raises(UnsupportedRawError, match="truncated"):
        load_raw(tmp_path / "a.dng")


@pytest.mark.parametrize("value", [0, 40000])
def test_dead_rows_anywhere_are_refused(tmp_path: Path, value: int) -> None:
    mosaic = random_mosaic(64, 64)
    mosaic[20:40] = value
    write_dng(tmp_path / "a.dng", mosaic, DngHeader())
    with pytest.raises(UnsupportedRawError, match="20 of 64 rows"):
        load_raw(tmp_path / "a.dng")


def test_a_black_or_blown_out_part_is_accepted(tmp_path: Path) -> None:
    mosaic = random_mosaic(64, 64)
    mosaic[:20], mosaic[40:] = 16383, 512
    write_dng(tmp_path / "a.dng", mosaic, DngHeader(white_level=15520))
    assert load_raw(tmp_path / "a.dng").planes.max() > 1
    mosaic[40:] = 0
    write_dng(tmp_path / "b.dng", mosaic, DngHeader(black_level=(0,) * 4, white_level=15520))
    assert load_raw(tmp_path / "b.dng").planes.min() == 0


def test_a_file_too_small_for_its_pixels_is_refused(tmp_path: Path) -> None:
    write_dng(tmp_path / "a.dng", random_mosaic(2, 2), DngHeader())
    with tifffile.TiffFile(tmp_path / "a.dng", mode="r+b") as stored:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            stored.pages.first.tags[name].overwrite(4000)
    with pytest.raises(UnsupportedRawError, match=r"a\.dng"):
        load_raw(tmp_path / "a.dng")


def test_a_damaged_compressed_file_gives_one_line(tmp_path: Path) -> None:
    whole = need_raw("real/canon_eos30d_iso100_IMG_0848.CR2").read_bytes()
    (tmp_path / "cut.CR2").write_bytes(whole[: len(whole) // 2])
    code = "from ldmsid_core.cli import run; run()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "info", str(tmp_path / "cut.CR2")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1 and "cut.CR2" in done.stderr


def test_a_zero_filled_compressed_file_is_refused(tmp_path: Path) -> None:
    whole = need_raw("real/nikon_d5000_bracket_short_1-640s.dng").read_bytes()
    keep = len(whole) * 9 // 10
    (tmp_path / "a.dng").write_bytes(whole[:keep] + bytes(len(whole) - keep))
    with pytest.raises(UnsupportedRawError, match=r"a\.dng"):
        load_raw(tmp_path / "a.dng")


def test_a_dark_but_noisy_file_is_accepted(tmp_path: Path) -> None:
    mosaic = random_mosaic(64, 64, low=480, high=560)
    write_dng(tmp_path / "a.dng", mosaic, DngHeader(black_level=tile_black("RGGB")))
    assert load_raw(tmp_path / "a.dng").planes.abs().max() < 0.01


@pytest.mark.parametrize("keep", [0, 6, 200, 0.3, 0.9])
def test_a_cut_off_file_is_refused(tmp_path: Path, keep: float) -> None:
    write_test_dng(tmp_path / "a.dng", height=128, width=128)
    whole = (tmp_path / "a.dng").read_bytes()
    length = int(len(whole) * keep) if isinstance(keep, float) else keep
    (tmp_path / "a.dng").write_bytes(whole[:length])
    with pytest.raises(UnsupportedRawError, match=r"a\.dng"):
        load_raw(tmp_path / "a.dng")


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_header_never_escapes_as_another_error(tmp_path: Path, seed: int) -> None:
    write_test_dng(tmp_path / "a.dng")
    content = bytearray((tmp_path / "a.dng").read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, 600, 12):
        content[int(place)] = int(rng.integers(0, 256))
    (tmp_path / "a.dng").write_bytes(content)
    try:
        assert load_raw(tmp_path / "a.dng").planes.isfinite().all()
    except UnsupportedRawError as error:
        assert "a.dng" in str(error)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("photo.jpg", b"\xff\xd8\xff\xe0" + bytes(100), "JPEG"),
        ("photo.png", b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
        ("photo.ARW", b"\xff\xd8\xff\xe0" + bytes(100), "JPEG"),
        ("noise.dng", bytes(range(256)) * 40, "LibRaw"),
        ("empty.dng", b"", "empty"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnsupportedRawError, match=words):
        load_raw(tmp_path / name)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedRawError, match="does not exist"):
        load_raw(tmp_path / "none.dng")
    with pytest.raises(UnsupportedRawError, match="is a folder"):
        load_raw(tmp_path)
