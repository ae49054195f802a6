"""Dataset folders as distributed -> lists of pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.datasets import scene_picture, write_exposure, write_pictures, write_sid

from ldmsid_core.errors import DatasetError
from ldmsid_core.raw.packed_raw import RawMetadata
from ldmsid_core.training.data.adapters import list_pairs
from ldmsid_core.training.data.exposures import (
    RATIO_DIFFERS,
    check_one_camera,
    exif_ratio,
    settle_ratio,
)
from ldmsid_core.training.data.pairs import SourcePair, missing_files, name_some


def _list(folder: Path, split: str, *lines: str) -> None:
    (folder / f"Sony_{split}_list.txt").write_text("\n".join(lines) + "\n")


def test_sid_names_tell_ratio_scene_and_split(tmp_path: Path) -> None:
    _list(
        tmp_path, "train",
        "./Sony/short/00001_00_0.04s.ARW ./Sony/long/00001_00_10s.ARW ISO200 F8",
        "./Sony/short/00002_03_0.033s.ARW ./Sony/long/00002_00_10s.ARW ISO250 F5.6",
        "",
    )  # fmt: skip
    _list(
        tmp_path, "test", "./Sony/short/10034_00_0.1s.ARW ./Sony/long/10034_00_30s.ARW ISO1000 F8"
    )
    first, second, third = list_pairs(tmp_path, kind="sid")
    assert first == SourcePair(
        "Sony/short/00001_00_0.04s.ARW", "Sony/long/00001_00_10s.ARW",
        first.exposure_ratio, "train", "00001", (), largest_ratio=300.0,
    )  # fmt: skip
    # 10 / 0.04 is 250 to the last bit or beside it; 10 / 0.033 is 303, which the authors cap.
    assert first.exposure_ratio == pytest.approx(250.0, rel=1e-12)
    assert second.exposure_ratio == 300.0
    assert (third.exposure_ratio, third.split, third.flags) == (300.0, "test", ("misaligned",))
    assert list_pairs(tmp_path, kind="sid", split="test") == (third,)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("./Sony/short/00001_00_0.04s.ARW", "short and a long exposure"),
        ("a.ARW ./Sony/long/00001_00_10s.ARW", "a.ARW"),
        ("Sony/short/00001_00_0s.ARW Sony/long/00001_00_10s.ARW", "00001_00_0s"),
        ("Sony/short/00001_00_0.1s.ARW Sony/long/00002_00_10s.ARW", "one scene"),
        ("Sony/long/00001_00_10s.ARW Sony/short/00001_00_0.1s.ARW", "longer one second"),
    ],
)
def test_sid_lines_that_are_none_are_refused_by_number(
    tmp_path: Path, line: str, said: str
) -> None:
    good = "Sony/short/00001_00_0.04s.ARW Sony/long/00001_00_10s.ARW ISO200 F8"
    _list(tmp_path, "val", good, line)
    with pytest.raises(DatasetError, match=r"Sony_val_list\.txt, line 2") as raised:
        list_pairs(tmp_path, kind="sid")
    assert said in str(raised.value)


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    for kind, name in (("sid", "Sony_train_list.txt"), ("pairs", "pairs.csv")):
        (tmp_path / name).write_bytes(b"short,long\n\xff\xfe")
        with pytest.raises(DatasetError, match=name):
            list_pairs(tmp_path, kind=kind)  # type: ignore[arg-type]


def test_sid_without_its_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"Sony_train_list\.txt"):
        list_pairs(tmp_path, kind="sid")
    _list(tmp_path, "train", "Sony/short/1_00_0.1s.ARW Sony/long/1_00_10s.ARW ISO1 F1")
    with pytest.raises(DatasetError, match=r"Sony_val_list\.txt.*does not exist"):
        list_pairs(tmp_path, kind="sid", split="val")
    with pytest.raises(DatasetError, match=r"split odd .*found those of: none"):
        list_pairs(tmp_path, kind="sid", split="odd")
    with pytest.raises(DatasetError, match="does not exist"):
        list_pairs(tmp_path / "nowhere", kind="sid")


def test_eld_frames_go_with_the_nearest_reference(tmp_path: Path) -> None:
    for scene in (1, 2, 10):
        folder = tmp_path / "SonyA7S2" / f"scene-{scene}"
        folder.mkdir(parents=True)
        for frame in range(1, 17):
            (folder / f"IMG_{frame:04d}.ARW").touch()
    pairs = list_pairs(tmp_path, kind="eld")
    assert [pair.scene for pair in pairs[::12]] == ["scene-1", "scene-2", "scene-10"]
    numbers = [(int(p.name[-8:-4]), int(p.long[-8:-4]), p.exposure_ratio) for p in pairs[:12]]
    # By hand: frame 3 is nearer to 1 than to 6, frame 4 nearer to 6.
    assert numbers == [
        (2, 1, 1), (3, 1, 10), (4, 6, 100), (5, 6, 200),
        (7, 6, 1), (8, 6, 10), (9, 11, 100), (10, 11, 200),
        (12, 11, 1), (13, 11, 10), (14, 16, 100), (15, 16, 200),
    ]  # fmt: skip
    assert all(pair.prefers_exif and pair.split == "test" for pair in pairs)
    assert not missing_files(tmp_path, pairs)
    alone = list_pairs(tmp_path / "SonyA7S2", kind="eld")
    assert alone[0].name == "scene-1/IMG_0002.ARW"


def test_eld_of_several_cameras_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="scene-1"):
        list_pairs(tmp_path, kind="eld")
    for camera in ("NikonD850", "SonyA7S2"):
        (tmp_path / camera / "scene-1").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"NikonD850 and SonyA7S2.*one sensor"):
        list_pairs(tmp_path, kind="eld")


def test_eld_frames_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "scene-1"
    folder.mkdir()
    (folder / "IMG_0001.nef").touch()
    pairs = list_pairs(tmp_path, kind="eld")
    assert missing_files(tmp_path, pairs)[0] == "scene-1/IMG_0002.nef"
    # 12 dark frames, and of the four references the first is there.
    assert len(missing_files(tmp_path, pairs)) == 15


def test_csv_pairs_fill_in_what_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(
        "\ufeffshort, long,ratio,split,scene\na.dng, b.dng,100,test,desk\n\nc.dng,d.dng,\n",
        "utf-8",
    )
    assert list_pairs(tmp_path, kind="pairs") == (
        SourcePair("a.dng", "b.dng", 100.0, "test", "desk"),
        SourcePair("c.dng", "d.dng", None, "train", "d"),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("short,ratio\na,1\n", "found short,ratio"),
        ("short,long,iso\na,b,1\n", "found short,long,iso"),
        ("short,long,ratio\na,b,dark\n", "line 2.*'dark'"),
        ("short,long,ratio\na,b,0.5\n", "line 2.*0.5"),
        ("short,long\na,\n", "line 2"),
        ("short,long\na,b,c\n", "line 2"),
        ("short,long,long\na,b,c\n", "found short,long,long"),
        ('short,long\n"a,b\n', "cannot be read"),
        ("short,long\n", "found those of: none"),
    ],
)
def test_csv_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(DatasetError, match=said):
        list_pairs(tmp_path, kind="pairs")


def test_folder_lists_photographs_and_raws_but_nothing_hidden(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", count=1)
    (tmp_path / "a.NEF").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".b.png").touch()
    pairs = list_pairs(tmp_path, kind="folder")
    assert [(pair.short, pair.long) for pair in pairs] == [
        (None, "a.NEF"),
        (None, "in/photo0.png"),
    ]
    with pytest.raises(DatasetError, match="found those of: train"):
        list_pairs(tmp_path, kind="folder", split="test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="found none"):
        list_pairs(tmp_path / "empty", kind="folder")


def test_some_are_named_and_the_rest_counted() -> None:
    assert name_some(["a", "b", "c"]) == "a, b, c"
    assert name_some(list("abcde")) == "a, b, c and 2 more"


def test_missing_files_are_named_once(tmp_path: Path) -> None:
    pairs = write_sid(tmp_path, scenes=1, shorts=2)
    (tmp_path / pairs[0][1]).unlink()
    assert missing_files(tmp_path, list_pairs(tmp_path, kind="sid")) == [pairs[0][1]]


def test_ratio_of_the_list_is_held_against_exif() -> None:
    short, long = RawMetadata(iso=100, shutter_s=0.1), RawMetadata(iso=200, shutter_s=10.0)
    assert exif_ratio(short, long) == pytest.approx(200.0)
    listed = SourcePair("s", "l", 100.0)
    assert settle_ratio(listed, short, long) == (100.0, (RATIO_DIFFERS,))
    exact = SourcePair("s", "l", 204.0)  # within the rounding of nominal times
    assert settle_ratio(exact, short, long) == (204.0, ())
    eld = SourcePair("s", "l", 100.0, prefers_exif=True)
    assert settle_ratio(eld, short, long) == (pytest.approx(200.0), (RATIO_DIFFERS,))
    assert settle_ratio(SourcePair("s", "l"), short, long)[0] == pytest.approx(200.0)
    assert settle_ratio(eld, RawMetadata(), long) == (100.0, ())
    capped = SourcePair("s", "l", 300.0, largest_ratio=300.0)
    assert settle_ratio(capped, RawMetadata(shutter_s=0.025), RawMetadata(shutter_s=10.0)) == (
        300.0,
        (),
    )
    with pytest.raises(DatasetError, match="neither"):
        settle_ratio(SourcePair("s", "l"), RawMetadata(), long)


def test_two_cameras_in_one_set_are_refused_by_name(tmp_path: Path) -> None:
    pairs = write_sid(tmp_path, scenes=1, shorts=1)
    assert RawMetadata(make="NIKON", model="NIKON D850").camera == "NIKON D850"
    cameras: dict[str, str] = {}
    check_one_camera(tmp_path, pairs[0], cameras)
    assert cameras == {"SONY ILCE-7SM2": pairs[0][0]}
    write_exposure(tmp_path / "b.dng", scene_picture(24, 32), make="NIKON", model="NIKON D850")
    with pytest.raises(DatasetError, match=r"SONY ILCE-7SM2 .*NIKON D850 \(b.dng\).*one sensor"):
        check_one_camera(tmp_path, ["b.dng"], cameras)
