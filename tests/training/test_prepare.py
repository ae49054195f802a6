"""A dataset folder -> shards: round trips, what is left out, what is refused."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.datasets import (
    scene_picture,
    truncate,
    write_exposure,
    write_pictures,
    write_sid,
)
from helpers.raws import need_raw, write_test_dng
from PIL import Image

from ldmsid_core.errors import DatasetError, OutputError
from ldmsid_core.raw.develop_libraw import develop_truth
from ldmsid_core.raw.loader import load_raw
from ldmsid_core.raw.packing import normalise, pack_bayer
from ldmsid_core.training.data import make_shard as make_shard_module
from ldmsid_core.training.data.exposures import RATIO_DIFFERS
from ldmsid_core.training.data.make_shard import sensor_counts
from ldmsid_core.training.data.prepare import prepare_dataset
from ldmsid_core.training.data.shard_format import Window, read_shard_pairs, read_window
from ldmsid_core.training.data.shard_index import load_complete_index


def whole(folder: Path, file: str, tensor: str, size: tuple[int, int]) -> Any:
    return read_window(folder / file, tensor, Window(0, 0, *size))


def file_hashes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("cfa", ["RGGB", "GBRG"])
def test_counts_come_back_exactly_from_normalised_planes(tmp_path: Path, cfa: Any) -> None:
    mosaic = write_test_dng(tmp_path / "a.dng", cfa=cfa, white_level=65535)
    packed = pack_bayer(torch.from_numpy(mosaic.astype(np.int32))[None], cfa=cfa)[0]
    assert np.array_equal(sensor_counts(load_raw(tmp_path / "a.dng")), packed.numpy())


def test_every_16_bit_count_survives_normalising(tmp_path: Path) -> None:
    write_test_dng(tmp_path / "a.dng")
    counts = torch.arange(65536).reshape(1, 1, 256, 256).expand(1, 4, 256, 256)
    levels = {"black_level": (0.0, 511.0, 512.0, 513.0), "white_level": 16383.0}
    raw = replace(load_raw(tmp_path / "a.dng"), planes=normalise(counts, **levels), **levels)
    assert np.array_equal(sensor_counts(raw), counts[0].numpy())


def test_shards_hold_the_counts_and_the_developed_truth(tmp_path: Path) -> None:
    sid, out = tmp_path / "sid", tmp_path / "out"
    listed = write_sid(sid, scenes=2, shorts=3)
    done = prepare_dataset(sid, out, kind="sid")
    assert (done.made, done.kept, done.missing, done.changed) == (2, 0, [], [])
    index = load_complete_index(out, whole=True)
    assert index == done.index
    assert [(pair.name, pair.long) for _, pair in index.pairs] == listed
    for file, pair in index.pairs:
        short = load_raw(sid / pair.name)
        size = (pair.height, pair.width)
        assert size == tuple(short.planes.shape[-2:]) == (24, 32)
        assert np.array_equal(whole(out, file, pair.planes, size), sensor_counts(short))
        truth = develop_truth(sid / pair.long, height=24, width=32).transpose(2, 0, 1)
        assert np.array_equal(whole(out, file, pair.truth, size), truth)
        assert pair.exposure_ratio in (pytest.approx(250.0), pytest.approx(100.0))
        assert pair.raw is not None
        assert pair.raw.camera == "SONY ILCE-7SM2"
        assert (pair.raw.iso, pair.raw.white_level) == (400.0, 16383.0)
        assert pair.raw.white_balance == pytest.approx(short.white_balance)
    # One truth serves the shots of a scene, and a shard describes itself.
    assert {pair.truth for _, pair in index.pairs} == {"truth.0"}
    assert read_shard_pairs(out / "shard-00000.safetensors") == index.shards[0].pairs


def test_many_shots_of_a_scene_are_dealt_out_to_several_shards(tmp_path: Path) -> None:
    write_sid(tmp_path / "sid", scenes=1, shorts=18)
    done = prepare_dataset(tmp_path / "sid", tmp_path / "out", kind="sid")
    assert [len(entry.pairs) for entry in done.index.shards.values()] == [16, 2]


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    write_sid(tmp_path / "sid", scenes=3, shorts=1)
    write_pictures(tmp_path / "pictures", count=6)
    for kind, source in (("sid", "sid"), ("folder", "pictures")):
        for workers in (1, 2):
            out = tmp_path / f"{kind}{workers}"
            prepare_dataset(tmp_path / source, out, kind=kind, workers=workers)
        assert file_hashes(tmp_path / f"{kind}1") == file_hashes(tmp_path / f"{kind}2")
        one, two = (json.loads((tmp_path / f"{kind}{n}/index.json").read_text()) for n in (1, 2))
        assert one == two


def test_damaged_raws_are_left_out_with_their_reason(tmp_path: Path) -> None:
    sid, out = tmp_path / "sid", tmp_path / "out"
    listed = write_sid(sid, scenes=3, shorts=2)
    (sid / listed[0][0]).write_bytes(b"nothing")
    truncate(sid / listed[2][1], 0.1)
    done = prepare_dataset(sid, out, kind="sid")
    assert [skip.name for skip in done.index.skipped] == [listed[0][0], listed[2][0], listed[3][0]]
    assert all("Expected" in skip.reason for skip in done.index.skipped)
    assert Path(listed[2][1]).name in done.index.skipped[1].reason
    assert [pair.name for _, pair in done.index.pairs] == [p[0] for p in (listed[1], *listed[4:])]
    assert done.index.shards[1].file == ""
    load_complete_index(out, whole=True)


def test_what_was_left_out_is_tried_again_once_it_changed(tmp_path: Path) -> None:
    sid, out = tmp_path / "sid", tmp_path / "out"
    listed = write_sid(sid, scenes=2, shorts=2)
    (sid / listed[0][0]).write_bytes(b"nothing")
    kept_aside = (sid / listed[2][0]).read_bytes()
    (sid / listed[2][0]).unlink()
    first = prepare_dataset(sid, out, kind="sid")
    assert [skip.missing for skip in first.index.skipped] == [False, True]
    assert first.missing == [listed[2][0]]
    again = prepare_dataset(sid, out, kind="sid")
    assert (again.made, again.kept) == (0, 2)
    (sid / listed[2][0]).write_bytes(kept_aside)
    mended = prepare_dataset(sid, out, kind="sid")
    assert (mended.made, mended.kept) == (1, 1)
    assert [skip.name for skip in mended.index.skipped] == [listed[0][0]]
    load_complete_index(out, whole=True)


def test_a_set_without_files_is_refused_with_their_number(tmp_path: Path) -> None:
    sid = tmp_path / "sid"
    listed = write_sid(sid, scenes=2, shorts=2)
    for _, long in listed:
        (sid / long).unlink(missing_ok=True)
    with pytest.raises(DatasetError, match=r"4 pairs .*2 files are missing, Sony/long/00001"):
        prepare_dataset(sid, tmp_path / "out", kind="sid")
    assert not (tmp_path / "out").exists()


def test_mixed_sensors_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    sid, out = tmp_path / "sid", tmp_path / "out"
    listed = write_sid(sid, scenes=2, shorts=1)
    prepare_dataset(sid, out, kind="sid")
    before = file_hashes(out)
    write_exposure(
        sid / listed[1][0], scene_picture(24, 32), ratio=100, make="NIKON", model="NIKON D850"
    )
    with pytest.raises(DatasetError, match=r"SONY ILCE-7SM2 .* and NIKON D850 .*folder of their"):
        prepare_dataset(sid, out, kind="sid", overwrite=True)
    assert file_hashes(out) == before


def test_pairs_of_different_size_and_ratio_are_told(tmp_path: Path) -> None:
    picture = scene_picture(24, 32)
    write_exposure(tmp_path / "long.dng", picture)
    write_exposure(tmp_path / "a.dng", picture, ratio=100)
    write_exposure(tmp_path / "b.dng", scene_picture(24, 40), ratio=100)
    write_exposure(tmp_path / "c.dng", picture, ratio=100, shutter_s=None)
    (tmp_path / "pairs.csv").write_text(
        "short,long,ratio\na.dng,long.dng,50\nb.dng,long.dng,\nc.dng,long.dng,\na.dng,long.dng,\n"
    )
    done = prepare_dataset(tmp_path, tmp_path / "out", kind="pairs")
    found = [(pair.exposure_ratio, pair.flags) for _, pair in done.index.pairs]
    assert found == [(50.0, (RATIO_DIFFERS,)), (pytest.approx(100.0), ())]
    assert "40x24 and 32x24" in done.index.skipped[0].reason
    assert "ratio of c.dng" in done.index.skipped[1].reason


def test_real_bracket_makes_a_pair_by_exif(tmp_path: Path) -> None:
    long = need_raw("real/nikon_d5000_bracket_mid_1-160s.dng")
    short = need_raw("real/nikon_d5000_bracket_short_1-640s.dng")
    (tmp_path / "pairs.csv").write_text(f"short,long\n{short},{long}\n")
    (pair,) = prepare_dataset(tmp_path, tmp_path / "out", kind="pairs").index.shards[0].pairs
    assert pair.exposure_ratio == pytest.approx(4.0)
    assert pair.raw is not None
    assert "D5000" in pair.raw.camera
    stored = whole(tmp_path / "out", "shard-00000.safetensors", "truth.0", (pair.height, 64))
    assert 20 < stored.mean() < 235


def test_photographs_and_raws_become_pictures_alone(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "in", count=2)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "in" / "z16.png")
    truncate(paths[1])
    turned = Image.fromarray(scene_picture(40, 48))
    exif = turned.getexif()
    exif[0x0112] = 6  # upright after a quarter turn
    turned.save(tmp_path / "in" / "turned.png", exif=exif)
    write_exposure(tmp_path / "in" / "raw.dng", scene_picture(24, 32))
    done = prepare_dataset(tmp_path / "in", tmp_path / "out", kind="folder")
    sizes = {pair.name: (pair.height, pair.width) for _, pair in done.index.pairs}
    assert sizes == {"photo0.png": (40, 48), "raw.dng": (24, 32), "turned.png": (48, 40)}
    assert [skip.name for skip in done.index.skipped] == ["photo1.png", "z16.png"]
    assert "8 bits" in done.index.skipped[1].reason
    file, pair = done.index.pairs[0]
    stored = whole(tmp_path / "out", file, pair.truth, (40, 48))
    assert np.array_equal(stored.transpose(1, 2, 0), scene_picture(40, 48, seed=0))
    assert pair.raw is None


def test_full_disk_stops_the_run_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sid, out = tmp_path / "sid", tmp_path / "out"
    write_sid(sid, scenes=3, shorts=1)
    save, calls = make_shard_module.write_shard, []
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if "00001" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(
        make_shard_module, "write_shard", lambda *a, **k: (calls.append(a), save(*a, **k))
    )
    with pytest.raises(OutputError, match=r"shard-00001.*No space left"):
        prepare_dataset(sid, out, kind="sid")
    assert len(calls) == 2
    assert sorted(path.name for path in out.iterdir()) == ["index.json", "shard-00000.safetensors"]
    monkeypatch.setattr(os, "replace", real)
    done = prepare_dataset(sid, out, kind="sid")
    assert (done.made, done.kept) == (2, 1)
