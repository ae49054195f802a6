"""A part of a picture: on the sensor, in latents, in tiles."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmsid_core.crop import (
    Crop,
    crop_on_sensor,
    cut_to_crop,
    latents_of,
    parse_crop,
    part_of_layout,
    tiles_outside,
)
from ldmsid_core.errors import ConfigError
from ldmsid_core.raw.packed_raw import apply_orientation
from ldmsid_core.tiling import LATENT_PIXELS, Tile, plan_tiles


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0,0,1,1", Crop(0, 0, 1, 1)),
        ("1000,600,512,256", Crop(1000, 600, 512, 256)),
        (" 1, 2 ,3 , 4", Crop(1, 2, 3, 4)),
    ],
)
def test_parse(text: str, wanted: Crop) -> None:
    assert parse_crop(text) == wanted


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,2,3,4", "1;2;3;4"])
def test_what_is_no_rectangle_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"x,y,width,height in whole pixels, found '{text}'"):
        parse_crop(text)


@pytest.mark.parametrize("text", ["-1,0,5,5", "0,-1,5,5", "0,0,0,5", "0,0,5,0", "0,0,-5,5"])
def test_sizes_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"width and height of at least 1, found '{text}'"):
        parse_crop(text)


@st.composite
def crops(draw: st.DrawFn, width: int, height: int) -> Crop:
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return Crop(left, top, draw(st.integers(1, width - left)), draw(st.integers(1, height - top)))


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(0, 7))
def test_on_the_sensor_for_every_orientation(data: st.DataObject, orientation: int) -> None:
    height, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    sensor = torch.arange(height * width).reshape(height, width)
    shown = apply_orientation(sensor, orientation)
    crop = data.draw(crops(shown.shape[1], shown.shape[0]))
    found = crop_on_sensor(crop, height=height, width=width, orientation=orientation)
    rows = slice(found.top, found.top + found.height)
    part = apply_orientation(sensor[rows, found.left : found.left + found.width], orientation)
    rows = slice(crop.top, crop.top + crop.height)
    assert torch.equal(part, shown[rows, crop.left : crop.left + crop.width])


@pytest.mark.parametrize(
    ("crop", "orientation", "size"),
    [
        (Crop(0, 0, 41, 1), 0, "40x20"),
        (Crop(30, 0, 11, 1), 3, "40x20"),
        (Crop(0, 20, 1, 1), 0, "40x20"),
        (Crop(0, 0, 21, 1), 5, "20x40"),
        (Crop(5, 39, 1, 2), 6, "20x40"),
    ],
)
def test_beyond_the_picture_is_refused_with_its_size(
    crop: Crop, orientation: int, size: str
) -> None:
    place = f"{crop.width}x{crop.height} at {crop.left},{crop.top}"
    with pytest.raises(ConfigError, match=f"inside the picture of {size} pixels, found {place}"):
        crop_on_sensor(crop, height=20, width=40, orientation=orientation)


def test_latents_by_hand() -> None:
    assert latents_of(Crop(0, 0, 1, 1), margin=0, height=9, width=9) == Tile(0, 0, 1, 1, 0, 0)
    assert latents_of(Crop(7, 8, 2, 8), margin=0, height=9, width=9) == Tile(1, 0, 1, 2, 0, 0)
    found = latents_of(Crop(320, 400, 17, 8), margin=16, height=100, width=60)
    assert found == Tile(34, 24, 33, 35, 0, 0)
    # A crop of a frame that was padded by mirroring still lies in it.
    assert latents_of(Crop(71, 3, 1, 1), margin=2, height=4, width=9) == Tile(0, 6, 3, 3, 0, 0)


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(0, 20))
def test_latents_hold_the_crop_and_no_more_than_the_margin(
    data: st.DataObject, margin: int
) -> None:
    height, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    crop = data.draw(crops(8 * width, 8 * height))
    found = latents_of(crop, margin=margin, height=height, width=width)
    for first, size, start, count, length in (
        (found.top, found.height, crop.top, crop.height, height),
        (found.left, found.width, crop.left, crop.width, width),
    ):
        last = first + size
        assert first >= 0 and last <= length
        assert first == 0 or 0 <= start - 8 * (first + margin) < 8
        assert last == length or 0 <= 8 * (last - margin) - (start + count) < 8


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_part_of_a_layout(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    tile = data.draw(st.integers(1, 40))
    layout = plan_tiles(
        height, width, tile=tile, overlap=data.draw(st.integers(0, tile - 1)),
        batch=data.draw(st.integers(1, 3)),
        window=data.draw(st.sampled_from(("smooth", "released"))),
    )  # fmt: skip
    crop = data.draw(crops(width, height))
    part = Tile(crop.top, crop.left, crop.height, crop.width, 0, 0)
    own, box = part_of_layout(layout, part)
    assert (own.height, own.width) == (box.height, box.width)
    assert (own.batch, own.window, own.overlap) == (layout.batch, layout.window, layout.overlap)
    # It covers the part, and its tiles are the frame's that touch the part.
    assert not tiles_outside([part], box)
    places = {(t.top + box.top, t.left + box.left, t.height, t.width) for t in own.tiles()}
    touching = {
        (t.top, t.left, t.height, t.width)
        for t in layout.tiles()
        if t.top < part.top + part.height and t.top + t.height > part.top
        and t.left < part.left + part.width and t.left + t.width > part.left
    }  # fmt: skip
    assert places == touching


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_within_the_part_tiles_weigh_as_in_the_frame(data: st.DataObject) -> None:
    length, tile = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 40))
    layout = plan_tiles(length, 1, tile=tile, overlap=data.draw(st.integers(0, tile - 1)))
    first = data.draw(st.integers(0, length - 1))
    part = Tile(first, 0, data.draw(st.integers(1, length - first)), 1, 0, 0)
    own, box = part_of_layout(layout, part)
    weights = dict(zip(layout.rows, layout.row_weights(), strict=True))
    for start, found in zip(own.rows, own.row_weights(), strict=True):
        top = start + box.top
        seen = slice(max(0, part.top - top), max(0, part.top + part.height - top))
        assert torch.equal(found[seen], weights[top][seen])


def test_outside_of_a_box() -> None:
    box = Tile(10, 20, 30, 40, 0, 0)
    inside = [Tile(10, 20, 30, 40, 0, 0), Tile(39, 59, 1, 1, 0, 0)]
    outside = [
        Tile(9, 20, 5, 5, 0, 0), Tile(10, 19, 5, 5, 0, 0), Tile(36, 20, 5, 5, 0, 0),
        Tile(10, 56, 5, 5, 0, 0), Tile(0, 0, 99, 99, 0, 0),
    ]  # fmt: skip
    assert tiles_outside([*inside, *outside], box) == outside


def test_cutting_to_the_crop() -> None:
    image = torch.arange(80 * 96).reshape(1, 1, 80, 96)
    place = Tile(2, 3, 4, 5, 0, 0)
    found = cut_to_crop(place.cut(image, scale=LATENT_PIXELS), Crop(30, 17, 7, 3), place)
    assert torch.equal(found, image[..., 17:20, 30:37])
