"""Bands kept per file, the pictures made of them, and the camera's own preview."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from helpers.raws import need_raw, random_mosaic, write_test_dng
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ldmsid_core.band_views import detail_picture, low_band_picture
from ldmsid_core.errors import ConfigError, NonFiniteError, UnsupportedRawError
from ldmsid_core.pipeline import RawBands, finish_image, prepare_bands
from ldmsid_core.raw.develop import naive_picture
from ldmsid_core.raw.loader import load_embedded_preview, load_raw
from ldmsid_core.raw.packed_raw import PackedRaw, RawMetadata
from ldmsid_core.raw.simulate import A7S2_XYZ_TO_CAMERA
from ldmsid_core.taming.header import InputRecipe
from ldmsid_core.wavelet import SubBands

UNBALANCED, AS_SHOT = InputRecipe(white_balance="none"), InputRecipe(white_balance="as shot")
RECIPES = [UNBALANCED, AS_SHOT]
WHITE_BALANCE = (2.0, 1.0, 1.6)
# LibRaw's flip -> quarter turns to the left, as numpy counts them.
QUARTER_TURNS = {0: 0, 3: 2, 5: 1, 6: -1}
# Haar levels, a 3x3 matrix and the sRGB curve in float32, on values up to 8.
TOLERANCE = 1e-5


def make_raw(planes: Tensor, *, ratio: float = 1.0, orientation: int = 0) -> PackedRaw:
    return PackedRaw(
        planes=planes,
        cfa="RGGB",
        black_level=(512.0, 512.0, 512.0, 512.0),
        white_level=16383.0,
        white_balance=WHITE_BALANCE,
        white_balance_source="as shot",
        xyz_to_camera=A7S2_XYZ_TO_CAMERA,
        orientation=orientation,
        metadata=RawMetadata(),
        file_name="night.ARW",
        exposure_ratio=ratio,
    )


def grey_raw(light: float, *, size: tuple[int, int] = (45, 67), ratio: float = 1.0,
             orientation: int = 0) -> PackedRaw:  # fmt: skip
    """Every pixel, balanced and amplified, is grey of this linear light."""
    red, green, blue = WHITE_BALANCE
    levels = torch.tensor([light / red, light / green, light / blue, light / green]) / ratio
    planes = levels[None, :, None, None].expand(1, 4, *size).clone()
    return make_raw(planes, ratio=ratio, orientation=orientation)


def random_raw(size: tuple[int, int] = (45, 67), seed: int = 0, **changes: float) -> PackedRaw:
    generator = torch.Generator().manual_seed(seed)
    raw = make_raw(torch.rand((1, 4, *size), generator=generator))
    return replace(raw, **changes)  # type: ignore[arg-type]


def srgb(light: float) -> float:
    return 1.055 * light ** (1 / 2.4) - 0.055


def turned(image: Tensor, orientation: int) -> NDArray[np.float32]:
    return np.rot90(image.numpy(), QUARTER_TURNS[orientation], axes=(-2, -1))


def bands_of(raw: PackedRaw, recipe: InputRecipe = UNBALANCED) -> SubBands:
    return RawBands(raw).for_recipe(recipe)


def assert_same_bands(found: SubBands, wanted: SubBands) -> None:
    assert found.content_size == wanted.content_size
    pairs = zip((*found.ll, *found.detail), (*wanted.ll, *wanted.detail), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_identity_is_that_of_content_ratio_and_name(tmp_path: Path) -> None:
    write_test_dng(tmp_path / "a.dng")
    (tmp_path / "b.dng").write_bytes((tmp_path / "a.dng").read_bytes())
    raw = load_raw(tmp_path / "a.dng")
    identity = RawBands(raw).identity
    assert RawBands(load_raw(tmp_path / "a.dng")).identity == identity
    strided = raw.planes.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert RawBands(replace(raw, planes=strided)).identity == identity
    changed = raw.planes.clone()
    changed[0, 3, -1, -1] += 1e-4
    other = (replace(raw, planes=changed), replace(raw, exposure_ratio=1.5))
    others = {RawBands(found).identity for found in (*other, load_raw(tmp_path / "b.dng"))}
    assert len(others) == 3 and identity not in others


@pytest.mark.parametrize("recipe", RECIPES)
def test_bands_are_those_of_the_recipe_and_the_files_ratio(recipe: InputRecipe) -> None:
    raw = random_raw(exposure_ratio=1.5)
    found = RawBands(raw).for_recipe(recipe)
    assert_same_bands(found, prepare_bands(raw, recipe, exposure_ratio=1.5))
    assert not torch.equal(found.ll[0], prepare_bands(raw, recipe, exposure_ratio=1.0).ll[0])


def test_bands_are_split_once_per_recipe() -> None:
    kept = RawBands(random_raw())
    first, other = (kept.for_recipe(recipe) for recipe in RECIPES)
    assert kept.for_recipe(InputRecipe(white_balance="none")) is first
    assert kept.for_recipe(AS_SHOT) is other
    assert not torch.equal(first.ll[0], other.ll[0])
    assert RawBands(kept.raw).for_recipe(UNBALANCED) is not first


def test_bands_of_another_range_are_others() -> None:
    kept, wide = RawBands(random_raw(exposure_ratio=40.0)), replace(AS_SHOT, clip=(-1.0, 2.0))
    assert kept.for_recipe(AS_SHOT).ll[0].max() <= 2.0 < kept.for_recipe(wide).ll[0].max()


def test_a_ratio_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"found 0\.5"):
        RawBands(random_raw(exposure_ratio=0.5)).for_recipe(UNBALANCED)


@pytest.mark.parametrize("orientation", QUARTER_TURNS)
@pytest.mark.parametrize("size", [(45, 67), (64, 64), (2, 130)])
def test_pictures_are_upright_and_of_the_contents_size(
    size: tuple[int, int], orientation: int
) -> None:
    flat = random_raw(size)
    bands = bands_of(flat)
    raw = replace(flat, orientation=orientation)
    fine = detail_picture(bands, flat)
    if orientation in (5, 6):  # what is vertical upright was horizontal on the sensor
        fine = fine[:, [1, 0, 2]]
    for found, flat_one, step in (
        (naive_picture(raw), naive_picture(flat), 1),
        (detail_picture(bands, raw), fine, 2),
        (low_band_picture(bands, raw, UNBALANCED), low_band_picture(bands, flat, UNBALANCED), 8),
    ):
        height, width = (int(np.ceil(side / step)) for side in size)
        assert flat_one.shape == (1, 3, height, width)
        assert np.array_equal(found.numpy(), turned(flat_one, orientation))
        assert found.is_contiguous() and found.min() >= 0.0 and found.max() <= 1.0


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_flat_grey_file_is_grey_in_every_picture(recipe: InputRecipe) -> None:
    raw = grey_raw(0.2, ratio=4.0)
    bands = bands_of(raw, recipe)
    naive, low = naive_picture(raw), low_band_picture(bands, raw, recipe)
    for picture in (naive, low):
        assert torch.allclose(picture, torch.tensor(srgb(0.2)), atol=TOLERANCE)
    assert torch.allclose(detail_picture(bands, raw), torch.tensor(0.5), atol=TOLERANCE)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_flat_colour_is_developed_with_the_balance_once(recipe: InputRecipe) -> None:
    levels = torch.tensor([0.1, 0.2, 0.05, 0.4])[None, :, None, None]
    raw = replace(make_raw(levels.expand(1, 4, 20, 24).clone()), xyz_to_camera=None)
    wanted = torch.tensor([srgb(0.1 * 2.0), srgb(0.3), srgb(0.05 * 1.6)])[None, :, None, None]
    for picture in (naive_picture(raw), low_band_picture(bands_of(raw, recipe), raw, recipe)):
        assert torch.allclose(picture, wanted.expand_as(picture), atol=TOLERANCE)


def test_edges_show_in_the_colour_of_their_direction() -> None:
    step = 0.1
    vertical, horizontal, diagonal = (torch.zeros(1, 4, 32, 32) for _ in range(3))
    vertical[..., 9:] = step  # inside the fifth pair of columns
    horizontal[:, :, :9] = step
    diagonal[:, :, 0::2, 0::2] = diagonal[:, :, 1::2, 1::2] = step
    # Model range doubles the step and the Haar sum of a pair of edges is the step itself.
    raws = [make_raw(planes) for planes in (vertical, horizontal, diagonal)]
    wanted = torch.full((3, 1, 3, 16, 16), 0.5)
    wanted[0, 0, 0, :, 4] = 0.5 + 2.0 * step
    wanted[1, 0, 1, 4, :] = 0.5 - 2.0 * step
    wanted[2, 0, 2] = 0.5 + 2.0 * step
    for raw, picture in zip(raws, wanted, strict=True):
        assert torch.allclose(detail_picture(bands_of(raw), raw), picture, atol=TOLERANCE)


def test_an_edge_of_one_plane_shows_a_quarter_and_a_strong_one_is_clipped() -> None:
    planes = torch.zeros(1, 4, 16, 16)
    planes[:, 2, :, 9:] = 0.1
    raw = make_raw(planes)
    assert detail_picture(bands_of(raw), raw)[0, 0, 0, 4] == pytest.approx(0.55, abs=TOLERANCE)
    planes[..., 9:] = 1.0
    assert detail_picture(bands_of(raw), raw)[0, 0, 0, 4] == 1.0


@pytest.mark.parametrize("orientation", QUARTER_TURNS)
def test_finish_image_crops_scales_and_turns(orientation: int) -> None:
    raw = replace(random_raw(), orientation=orientation)
    decoded = torch.linspace(-1.5, 1.5, 3 * 64 * 128).reshape(1, 3, 64, 128)
    found = finish_image(decoded, raw, bands_of(raw))
    unit = np.clip((decoded.numpy() + 1.0) / 2.0, 0.0, 1.0)[:, :, :45, :67]
    wanted = np.rot90(unit, QUARTER_TURNS[orientation], axes=(-2, -1))
    assert found.is_contiguous()
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)  # one rounding of float32
    assert finish_image(decoded.bfloat16(), raw, bands_of(raw)).dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_finish_image_refuses_what_is_no_picture(value: float) -> None:
    raw = random_raw()
    decoded = torch.zeros(1, 3, 64, 128)
    decoded[0, 1, 20, 30] = value
    with pytest.raises(NonFiniteError, match=r"NaN or infinity for night\.ARW"):
        finish_image(decoded, raw, bands_of(raw))


def write_dng_with_preview(path: Path, *, orientation: int, kind: str) -> None:
    """A DNG whose first image is a black 96x64 picture with a white top left corner."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:24, :36] = 255
    matrix = [part for row in A7S2_XYZ_TO_CAMERA for v in row for part in (round(v * 1e4), 10000)]
    first = [
        (274, 3, 1, orientation, True), (50706, 1, 4, bytes((1, 4, 0, 0)), True),
        (50708, 2, 0, "LDM-SID test", True), (50721, 10, 9, matrix, True), (50778, 3, 1, 21, True),
    ]  # fmt: skip
    second = [
        (33421, 3, 2, (2, 2), True), (33422, 1, 4, bytes((0, 1, 1, 2)), True),
        (50714, 4, 1, 512, True), (50717, 4, 1, 16383, True),
    ]  # fmt: skip
    with tifffile.TiffWriter(path, byteorder="<") as file:
        file.write(picture, photometric="rgb", subifds=1, subfiletype=1, extratags=first,
                   metadata=None, rowsperstrip=64)  # fmt: skip
        file.write(random_mosaic(480, 640), photometric="cfa", subfiletype=0, extratags=second,
                   metadata=None)  # fmt: skip
    if kind == "jpeg":
        _replace_by_jpeg(path, picture)


def _replace_by_jpeg(path: Path, picture: NDArray[np.uint8]) -> None:
    """Put a JPEG, which tifffile alone cannot write, in place of the first pixels."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG")
    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages[0].tags  # type: ignore[union-attr]
        offset = file.pages[0].dataoffsets[0]  # type: ignore[union-attr]
        tags["Compression"].overwrite(7)
        tags["PhotometricInterpretation"].overwrite(6)
        tags["StripByteCounts"].overwrite((len(stream.getvalue()),))
    with path.open("r+b") as target:
        target.seek(offset)
        target.write(stream.getvalue())


def is_lit(picture: Image.Image) -> list[bool]:
    """Top left, top right, bottom left, bottom right."""
    right, bottom = picture.width - 6, picture.height - 6
    grey = picture.convert("L")
    return [int(grey.getpixel(p)) > 128  # type: ignore[arg-type]
            for p in ((5, 5), (right, 5), (5, bottom), (right, bottom))]  # fmt: skip


# TIFF orientation, size, lit corner: 3 half turn, 6 quarter turn right, 8 left.
UPRIGHT = [(1, (96, 64), 0), (3, (96, 64), 3), (6, (64, 96), 1), (8, (64, 96), 2)]


@pytest.mark.parametrize(
    ("kind", "orientation", "size", "corner"),
    [(kind, *case) for kind in ("jpeg", "pixels") for case in UPRIGHT],
)
def test_previews_are_upright(
    tmp_path: Path, kind: str, orientation: int, size: tuple[int, int], corner: int
) -> None:
    write_dng_with_preview(tmp_path / "a.dng", orientation=orientation, kind=kind)
    found = load_embedded_preview(tmp_path / "a.dng", max_side=200)
    assert found is not None and found.size == size
    assert is_lit(found) == [place == corner for place in range(4)]


def test_a_file_without_a_preview_has_none(tmp_path: Path) -> None:
    write_test_dng(tmp_path / "a.dng")
    assert load_embedded_preview(tmp_path / "a.dng", max_side=100) is None


@pytest.mark.parametrize("max_side", [64, 200])
def test_the_preview_of_a_camera_file(max_side: int) -> None:
    path = need_raw("real/canon_eos30d_iso100_IMG_0848.CR2")
    found = load_embedded_preview(path, max_side=max_side)
    assert found is not None and found.mode == "RGB"
    assert max(found.size) == max_side
    # The sensor is 3:2; one pixel of rounding.
    assert abs(found.width / 1.5 - found.height) <= 1
    assert np.ptp(np.asarray(found)) > 50


def test_what_is_no_camera_file_has_no_preview(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no camera wrote this")
    for name in ("notes.txt", "none.dng"):
        with pytest.raises(UnsupportedRawError, match=name):
            load_embedded_preview(tmp_path / name, max_side=100)
