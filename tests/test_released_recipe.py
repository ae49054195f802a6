"""The released implementation's recipe: padding, pixel tiles, merging, the whole frame."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from helpers import golden as g
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldmsid_core.errors import ConfigError, ShapeError
from ldmsid_core.released_recipe import (
    ReleasedMerge,
    decode_released,
    merge_released,
    pad_released,
    pixel_tiles,
    released_sampler,
)
from ldmsid_core.tiling import Tile
from ldmsid_core.wavelet import SubBands, merge_bands

MERGES: tuple[ReleasedMerge, ...] = ("mean", "cross-fade")
# Sums and blends of a few float32 values, each of which is rounded.
MERGED = 1e-6
# Three levels there and back again round at every level.
HAAR = 1e-5


def boxes(tiles: tuple[Tile, ...]) -> list[list[int]]:
    return [[t.top, t.top + t.height, t.left, t.left + t.width] for t in tiles]


def padded_side(side: int) -> int:
    """The next multiple above, one more where a side is one already."""
    return (side // 32 + 1) * 32


class FakeHost:
    """Callables that give the planes back as a picture and keep what they were asked."""

    def __init__(self, *, shift: float = 0.0) -> None:
        """`shift` is added to the picture once per tile before it."""
        self.shift = shift
        self.seeds: list[int] = []
        self.corners: list[tuple[int, int]] = []
        self.sizes: list[tuple[int, int]] = []

    def sample(self, bands: SubBands, seed: int) -> Tensor:
        assert torch.is_inference_mode_enabled()
        assert all(side % 8 == 0 for side in bands.structure_input.shape[-2:])
        self.seeds.append(seed)
        self.sizes.append(bands.content_size)
        return torch.zeros(*bands.structure_input.shape)

    def decode(self, latent: Tensor, bands: SubBands) -> Tensor:
        height, width = latent.shape[-2:]
        whole = dataclasses.replace(bands, content_size=(8 * height, 8 * width))
        picture = merge_bands(whole)[:, :3]
        corner = picture[0, :2, 0, 0].mul(4096.0).round().int().tolist()
        self.corners.append((corner[0], corner[1]))
        return picture + self.shift * (len(self.corners) - 1)

    def run(self, planes: Tensor, merge: ReleasedMerge = "cross-fade", seed: int = 7) -> Tensor:
        return decode_released(
            planes, seed=seed, sample=self.sample, decode=self.decode, merge=merge
        )


def coordinates(height: int, width: int, *, batch: int = 1) -> Tensor:
    """Planes that hold their row, their column, their image's number and zeros."""
    planes = torch.zeros(batch, 4, height, width)
    planes[:, 0] = torch.arange(height)[:, None] / 4096
    planes[:, 1] = torch.arange(width)[None, :] / 4096
    planes[:, 2] = torch.arange(batch)[:, None, None] / 8
    return planes


def test_golden_padding() -> None:
    vectors = g.load_golden("geometry")
    names = [n.removesuffix(".in") for n in vectors.tensors if re.match(r"pad\..*\.in$", n)]
    assert names
    for name in names:
        found = pad_released(vectors[f"{name}.in"])
        g.assert_close(found, vectors[f"{name}.out"], 1e-6, name)


@pytest.mark.parametrize(("kind", "merge"), [("split", "mean"), ("blend", "cross-fade")])
def test_golden_tiles_and_merging(kind: str, merge: ReleasedMerge) -> None:
    vectors = g.load_golden("geometry")
    names = [n.removesuffix(".in") for n in vectors.tensors if re.match(rf"{kind}\..*\.in$", n)]
    assert names
    for name in names:
        size, stride = (int(n) for n in re.findall(r"\.[ps](\d+)", name))
        image = vectors[f"{name}.in"][:, :3]
        tiles = pixel_tiles(*image.shape[-2:], size=size, stride=stride)
        assert boxes(tiles) == vectors[f"{name}.boxes"].tolist()
        parts = [tile.cut(image) + 0.1 * k for k, tile in enumerate(tiles)]
        found = merge_released(parts, tiles, merge=merge)
        g.assert_close(found, vectors[f"{name}.out"], 1e-6, name)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(MERGES))
def test_tiles_of_an_image_merge_to_it(data: st.DataObject, merge: ReleasedMerge) -> None:
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    size = data.draw(st.integers(12, 90))
    stride = data.draw(st.integers(size // 3, size))
    tiles = pixel_tiles(height, width, size=size, stride=stride)
    image = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))
    parts = [tile.cut(image) for tile in tiles]
    found = merge_released(parts, tiles, merge=merge)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, image, atol=MERGED * 10, rtol=MERGED)


@settings(deadline=None, max_examples=60)
@given(st.integers(33, 200), st.integers(33, 200))
def test_padding_continues_both_sides_or_none(height: int, width: int) -> None:
    image = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(width))
    found = pad_released(image)
    if height % 32 == 0 and width % 32 == 0:
        assert found is image
        return
    assert found.shape[-2:] == (padded_side(height), padded_side(width))
    assert torch.equal(found[:, :, :height, :width], image)
    assert torch.equal(found[:, :, height, :width], image[:, :, height - 2])
    assert torch.equal(found[:, :, :height, width], image[:, :, :, width - 2])


def test_a_cross_fade_by_hand() -> None:
    tiles = pixel_tiles(1, 7, size=5, stride=2)
    parts = [torch.zeros(1, 1, 1, 5), torch.full((1, 1, 1, 5), 4.0)]
    faded = merge_released(parts, tiles, merge="cross-fade").flatten().tolist()
    assert faded == [0.0, 0.0, 0.0, 2.0, 4.0, 4.0, 4.0]
    mean = merge_released(parts, tiles, merge="mean").flatten().tolist()
    assert mean == [0.0, 0.0, 2.0, 2.0, 2.0, 4.0, 4.0]


@pytest.mark.parametrize("merge", MERGES)
def test_parts_in_half_precision_merge_in_float32(merge: ReleasedMerge) -> None:
    tiles = pixel_tiles(6, 9, size=4, stride=3)
    parts = [torch.full((1, 3, 4, 4), 1 / 3, dtype=torch.bfloat16)] * len(tiles)
    found = merge_released(parts, tiles, merge=merge)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, parts[0][0, 0, 0, 0].float().expand(1, 3, 6, 9))


@pytest.mark.parametrize("merge", MERGES)
def test_a_large_frame_is_computed_in_pixel_tiles(merge: ReleasedMerge) -> None:
    host, planes = FakeHost(), coordinates(1424, 2128)
    found = host.run(planes, merge, seed=11)
    assert found.dtype == torch.float32 and found.is_contiguous()
    torch.testing.assert_close(found, planes[:, :3], atol=HAAR, rtol=0)
    # 1424x2128 is padded to 1440x2144.
    assert host.corners == [(0, 0), (416, 0), (0, 800), (416, 800), (0, 1120), (416, 1120)]
    assert host.sizes == [(1024, 1024)] * 6
    assert host.seeds == [11] * 6


def test_the_two_merges_of_a_frame_differ_where_tiles_do() -> None:
    planes = torch.zeros(1, 4, 64, 1824)
    mean, faded = (FakeHost(shift=0.5).run(planes, merge)[0, 0, 0] for merge in MERGES)
    assert torch.equal(mean[:800], torch.zeros(800)) and torch.equal(faded[:800], mean[:800])
    assert torch.equal(mean[800:1024], torch.full((224,), 0.25))
    torch.testing.assert_close(faded[800:1024], torch.linspace(0.0, 0.5, 224))
    assert torch.equal(mean[1024:], torch.full((800,), 0.5)) and torch.equal(
        faded[1024:], mean[1024:]
    )


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        ((64, 128), [(64, 128)]),
        ((90, 130), [(96, 160)]),  # 32 but not 64
        ((64, 70), [(96, 96)]),  # a whole extra 32
        ((1024, 33), [(1056, 64)]),  # the padding is past 1024, the frame is not
        ((1100, 40), [(1024, 64)] * 2),
        ((96, 1056), [(96, 1024)] * 2),
    ],
)
def test_any_size_comes_back_as_it_was(
    size: tuple[int, int], pieces: list[tuple[int, int]]
) -> None:
    host, planes = FakeHost(), coordinates(*size, batch=2)
    found = host.run(planes)
    torch.testing.assert_close(found, planes[:, :3], atol=HAAR, rtol=0)
    assert host.sizes == pieces
    one_piece = released_sampler(*size) == "ddim-released"
    assert one_piece == (len(pieces) == 1)


@pytest.mark.parametrize(
    ("height", "width", "sampler"),
    [
        (1024, 1024, "ddim-released"),
        (1, 1000, "ddim-released"),
        (1025, 64, "ddpm-released"),
        (64, 1025, "ddpm-released"),
        (1424, 2128, "ddpm-released"),
    ],
)
def test_the_frame_chooses_the_sampler(height: int, width: int, sampler: str) -> None:
    assert released_sampler(height, width) == sampler


@pytest.mark.parametrize(("height", "width"), [(16, 70), (70, 1), (32, 40)])
def test_frames_too_small_to_reflect_are_refused(height: int, width: int) -> None:
    # 32x40: reflection would have to add 32 rows to 32.
    with pytest.raises(ShapeError, match=f"found {width}x{height}, which needs"):
        pad_released(torch.zeros(1, 4, height, width))


@pytest.mark.parametrize("shape", [(4, 64, 64), (1, 4, 0, 64)])
def test_what_is_no_frame_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"Expected a frame \(B, C, H, W\)"):
        pad_released(torch.zeros(shape))


@pytest.mark.parametrize("stride", [0, -1, 65])
def test_impossible_strides_are_refused(stride: int) -> None:
    with pytest.raises(ConfigError, match=f"from 1 to the tile's size of 64, found {stride}"):
        pixel_tiles(100, 100, size=64, stride=stride)


def test_parts_of_other_tiles_are_refused() -> None:
    tiles = pixel_tiles(6, 9, size=4, stride=3)
    parts = [torch.zeros(1, 3, 4, 4)] * len(tiles)
    with pytest.raises(ShapeError, match=f"found {len(tiles) - 1} parts and {len(tiles)} tiles"):
        merge_released(parts[1:], tiles)
    with pytest.raises(ShapeError, match="found 0 parts and 0 tiles"):
        merge_released([], ())
    for wrong in ((1, 3, 4, 5), (1, 2, 4, 4), (3, 4, 4)):
        with pytest.raises(ShapeError, match="Expected part 1 to be"):
            merge_released([parts[0], torch.zeros(wrong), *parts[2:]], tiles)
    with pytest.raises(ConfigError, match="found 'median'"):
        merge_released(parts, tiles, merge="median")  # type: ignore[arg-type]


def test_mistakes_are_found_before_and_after_the_networks() -> None:
    host = FakeHost()
    with pytest.raises(ConfigError, match="found 'median'"):
        host.run(torch.zeros(1, 4, 64, 64), "median")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"Expected packed planes \(B, 4, H, W\)"):
        host.run(torch.zeros(1, 3, 64, 64))
    assert not host.seeds
    with pytest.raises(ShapeError, match=r"at least \(1, 3, 64, 64\), found \(1, 3, 64, 56\)"):
        decode_released(
            torch.zeros(1, 4, 64, 64),
            seed=0,
            sample=host.sample,
            decode=lambda latent, bands: host.decode(latent, bands)[..., :56],
        )
