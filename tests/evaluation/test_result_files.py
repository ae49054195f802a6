"""Pictures of 8 and 16 bits, and which belongs to which truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import png
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from ldmsid_core.errors import ConfigError, ShapeError
from ldmsid_core.evaluation.pairing import (
    Pair,
    list_files,
    match,
    pairs_by_name,
    read_pair_list,
)
from ldmsid_core.evaluation.pictures import check_same_size, picture_size, read_picture
from ldmsid_core.output.settings import OutputInfo
from ldmsid_core.output.writers import write_image
from ldmsid_core.raw.packed_raw import RawMetadata


def integers(bits: int, channels: int = 3) -> NDArray[Any]:
    high = 2**bits
    values = np.random.default_rng(bits).integers(0, high, (13, 17, channels))
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def write_png16(path: Path, values: NDArray[Any], **options: Any) -> None:
    height, width, planes = values.shape
    writer = png.Writer(width, height, bitdepth=16, greyscale=False, alpha=planes == 4, **options)
    with path.open("wb") as stream:
        writer.write(stream, values.reshape(height, -1).tolist())


@pytest.mark.parametrize("output_format", ["png", "png16", "tiff16"])
def test_our_own_results_round_trip(tmp_path: Path, output_format: str) -> None:
    bits = 8 if output_format == "png" else 16
    values = integers(bits)
    image = torch.from_numpy(values.astype(np.float64) / (2**bits - 1)).permute(2, 0, 1)[None]
    path = tmp_path / ("x.tif" if output_format == "tiff16" else "x.png")
    write_image(path, image, OutputInfo(RawMetadata(), {}), output_format=output_format)
    found = read_picture(path)
    assert found.dtype == np.float32
    assert np.array_equal((found.astype(np.float64) * (2**bits - 1)).round(), values)
    assert picture_size(path) == (17, 13)


def test_sixteen_bits_are_not_cut_to_eight(tmp_path: Path) -> None:
    """Two pictures that differ in the low byte alone."""
    values = np.full((12, 12, 3), 0x8000, np.uint16)
    write_png16(tmp_path / "a.png", values)
    write_png16(tmp_path / "b.png", values + 0x00FF)
    a, b = (read_picture(tmp_path / name) for name in ("a.png", "b.png"))
    assert float((b - a).mean()) == pytest.approx(255 / 65535, rel=1e-3)  # float32


@pytest.mark.parametrize("interlace", [False, True])
def test_png16_with_opaque_alpha_and_interlaced(tmp_path: Path, interlace: bool) -> None:
    values = integers(16, 4)
    values[..., 3] = 65535
    write_png16(tmp_path / "a.png", values, interlace=interlace)
    found = (read_picture(tmp_path / "a.png").astype(np.float64) * 65535).round()
    assert np.array_equal(found, values[..., :3])


def test_png8_from_pillow_in_its_modes(tmp_path: Path) -> None:
    values = integers(8)
    picture = Image.fromarray(values)
    picture.convert("RGBA").save(tmp_path / "rgba.png")
    assert np.array_equal((read_picture(tmp_path / "rgba.png") * 255).round(), values)
    few = Image.fromarray(values // 128 * 200).quantize(8)
    few.save(tmp_path / "palette.png")
    expected = np.asarray(few.convert("RGB"))
    assert np.array_equal((read_picture(tmp_path / "palette.png") * 255).round(), expected)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_in_both_orders_of_planes(tmp_path: Path, bits: int, planar: str) -> None:
    values = integers(bits)
    stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
    tifffile.imwrite(tmp_path / "a.tiff", stored, photometric="rgb", planarconfig=planar)
    found = read_picture(tmp_path / "a.tiff").astype(np.float64) * (2**bits - 1)
    assert np.array_equal(found.round(), values)
    assert picture_size(tmp_path / "a.tiff") == (17, 13)


def _transparent(path: Path) -> None:
    values = integers(8, 4)
    values[0, 0, 3] = 7
    Image.fromarray(values).save(path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.png", lambda p: p.write_text("hello"), "a.png cannot be read"),
        ("a.tif", lambda p: p.write_text("hello"), "a.tif cannot be read"),
        ("a.png", lambda p: p.write_bytes(b""), "a.png cannot be read"),
        (
            "a.tif",
            lambda p: tifffile.imwrite(p, np.zeros((12, 12, 3), np.float32), photometric="rgb"),
            "float32",
        ),
        ("a.tif", lambda p: tifffile.imwrite(p, np.zeros((12, 12), np.uint8)), "1 channels"),
        ("a.png", lambda p: Image.new("L", (12, 12)).save(p), "1 channels"),
        ("a.png", _transparent, "transparent pixels"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(
    tmp_path: Path, name: str, write: Any, message: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(ConfigError, match=message):
        read_picture(tmp_path / name)


def test_a_cut_png16_is_refused(tmp_path: Path) -> None:
    write_png16(tmp_path / "a.png", integers(16))
    whole = (tmp_path / "a.png").read_bytes()
    for length in (30, 60, len(whole) - 40):
        (tmp_path / "a.png").write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"a.png cannot be read"):
            read_picture(tmp_path / "a.png")


def test_a_picture_too_large_for_pillow_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 40 // 2 - 1)  # refused from twice that on
    for read in (read_picture, picture_size):
        with pytest.raises(ConfigError, match=r"a\.png cannot be read \(.*1600 pixels"):
            read(tmp_path / "a.png")


def test_sizes(tmp_path: Path) -> None:
    Image.new("RGB", (10, 40)).save(tmp_path / "a.png")
    with pytest.raises(ShapeError, match="found 10x40 in"):
        read_picture(tmp_path / "a.png")
    check_same_size((3, 4), (3, 4), "a", "b")
    with pytest.raises(ShapeError, match=r"found 3x4 in a.png and 4x3 in b.png"):
        check_same_size((3, 4), (4, 3), "a.png", "b.png")


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_files_by_stem(tmp_path: Path) -> None:
    folder = touch(tmp_path / "r", "b.PNG", "a.tif", "notes.txt", ".hidden.png")
    assert list(list_files(folder, (".png", ".tif"), "results")) == ["a", "b"]
    touch(folder, "a.png")
    with pytest.raises(ConfigError, match=r"found a.png and a.tif"):
        list_files(folder, (".png", ".tif"), "results")
    with pytest.raises(ConfigError, match="found none among 3 files"):
        list_files(touch(tmp_path / "t", "a.jpg", "b.jpg", "c"), (".png",), "PNG results")
    with pytest.raises(ConfigError, match="cannot be read"):
        list_files(tmp_path / "absent", (".png",), "PNG results")


def test_truths_by_name_with_and_without_suffix(tmp_path: Path) -> None:
    truths = {name: tmp_path / f"{name}.png" for name in ("a_truth", "b", "00001_00_0.1s")}
    pairs = pairs_by_name(truths)
    assert [pair.image for pair in pairs] == ["a", "b", "00001_00_0.1s"]
    with pytest.raises(ConfigError, match="one truth for b"):
        pairs_by_name({**truths, "b_truth": tmp_path / "b_truth.png"})


def test_missing_and_surplus_are_counted_and_named(tmp_path: Path) -> None:
    pairs = tuple(Pair(name, tmp_path / f"{name}.png") for name in ("a", "b", "c"))
    files = {name: tmp_path / f"{name}.tif" for name in ("b", "x", "y")}
    found = match(pairs, files, tmp_path)
    assert found.files == {pairs[1]: tmp_path / "b.tif"}
    assert found.sentences("ours") == [
        "ours: 2 missing: a, c",
        "ours: 2 without a truth, not scored: x.tif, y.tif",
    ]
    with pytest.raises(ConfigError, match="no match: results are x, truths want a, b, c"):
        match(pairs, {"x": tmp_path / "x.png"}, tmp_path)


def test_pair_list(tmp_path: Path) -> None:
    truths = {"long": tmp_path / "long.png", "0.1s": tmp_path / "0.1s.tif"}
    table = tmp_path / "pairs.csv"
    table.write_text(
        "\ufeffresult, truth, ratio, group\n"
        "dark.png, long.png, 100, night\n00001_00_0.04s.ARW,0.1s,250,\nthird,long\n",
        encoding="utf-8",
    )
    assert read_pair_list(table, truths) == (
        Pair("dark", truths["long"], 100.0, "night"),
        Pair("00001_00_0.04s", truths["0.1s"], 250.0, None),
        Pair("third", truths["long"], None, None),
    )
    table.write_text("truth,result\nlong.png,dark\n")
    assert read_pair_list(table, truths) == (Pair("dark", truths["long"]),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns result,truth"),
        ("result,ratio\na,1\n", "found result,ratio"),
        ("result,truth,iso\na,long,3\n", "found result,truth,iso"),
        ("result,truth\n", "at least one pair"),
        ("result,truth\na\n", "2 cells in line 2"),
        ("result,truth\na,long,5\n", "2 cells in line 2"),
        ("result,truth\na,short\n", "found 'a' and 'short'"),
        ("result,truth\n,long\n", "found '' and 'long'"),
        ("result,truth\na,long\na.png,long\n", "found a again in line 3"),
        ("result,truth,ratio\na,long,many\n", "found 'many'"),
        ("result,truth,ratio\na,long,0.5\n", "found '0.5'"),
        ("result,truth,ratio\na,long,nan\n", "found 'nan'"),
        ('result,truth\n"a,long\n', "cannot be read"),
    ],
)
def test_pair_lists_that_serve_not(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_pair_list(table, {"long": tmp_path / "long.png"})


def test_pair_list_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    for content in (None, b"\xff\xfe\x00"):
        if content is not None:
            (tmp_path / "pairs.csv").write_bytes(content)
        with pytest.raises(ConfigError, match="Expected a list of pairs as UTF-8"):
            read_pair_list(tmp_path / "pairs.csv", {})
