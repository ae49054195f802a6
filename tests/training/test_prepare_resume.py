"""Interrupted, damaged, changed: what a second run of `prepare` makes of a folder."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.datasets import scene_picture, write_exposure, write_sid
from helpers.raws import ROOT

from ldmsid_core.errors import DatasetError, LdmSidError, OutputError
from ldmsid_core.training.data import prepare as prepare_module
from ldmsid_core.training.data.prepare import prepare_dataset
from ldmsid_core.training.data.shard_index import load_complete_index, load_index

# Dies, as by `kill -9`, while the third of four shards is being written.
KILLED = """
import os, signal, sys
from pathlib import Path
from ldmsid_core.training.data import prepare, shard_format
prepare._SAVE_EVERY_S = 0.0
save = shard_format.save_file
def dies(tensors, name, metadata):
    save(tensors, name, metadata=metadata)
    if "shard-00002" in name:
        os.kill(os.getpid(), signal.SIGKILL)
shard_format.save_file = dies
prepare.prepare_dataset(Path(sys.argv[1]), Path(sys.argv[2]), kind="sid")
"""
# Dies when a shard is in its place, before the index can tell of it.
KILLED_AFTER_A_SHARD = """
import os, signal, sys
from pathlib import Path
from ldmsid_core.training.data import prepare
make = prepare.make_shard
def dies(job):
    make(job)
    os.kill(os.getpid(), signal.SIGKILL)
prepare.make_shard = dies
prepare.prepare_dataset(Path(sys.argv[1]), Path(sys.argv[2]), kind="sid")
"""


def run_killed(code: str, sid: Path, out: Path) -> int:
    """Exit code of a process that prepares and kills itself."""
    return subprocess.run(
        [sys.executable, "-P", "-c", code, str(sid), str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    ).returncode  # fmt: skip


def shard_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Path, Path]:
    write_sid(tmp_path / "sid", scenes=2, shorts=1)
    prepare_dataset(tmp_path / "sid", tmp_path / "out", kind="sid")
    return tmp_path / "sid", tmp_path / "out"


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    sid, out = tmp_path / "sid", tmp_path / "out"
    write_sid(sid, scenes=4, shorts=1)
    assert run_killed(KILLED, sid, out) == -signal.SIGKILL
    assert list(shard_files(out)) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    assert len(list(out.glob(".shard-00002.*.partial.safetensors"))) == 1
    with pytest.raises(DatasetError, match="interrupted after 2"):
        load_complete_index(out)
    stamps = {name: (out / name).stat().st_mtime_ns for name in shard_files(out)}
    resumed = prepare_dataset(sid, out, kind="sid")
    assert (resumed.made, resumed.kept) == (2, 2)
    assert {name: (out / name).stat().st_mtime_ns for name in stamps} == stamps
    assert not list(out.glob(".*"))
    prepare_dataset(sid, tmp_path / "straight", kind="sid")
    assert shard_files(out) == shard_files(tmp_path / "straight")


def test_killed_when_a_mended_shard_was_made_again(tmp_path: Path) -> None:
    sid, out = tmp_path / "sid", tmp_path / "out"
    listed = write_sid(sid, scenes=3, shorts=2)
    kept_aside = (sid / listed[4][0]).read_bytes()
    (sid / listed[4][0]).unlink()
    prepare_dataset(sid, out, kind="sid")
    (sid / listed[4][0]).write_bytes(kept_aside)
    assert run_killed(KILLED_AFTER_A_SHARD, sid, out) == -signal.SIGKILL
    mended = prepare_dataset(sid, out, kind="sid")
    assert (mended.made, mended.kept, mended.index.skipped) == (1, 2, [])
    load_complete_index(out, whole=True)


def test_a_shard_that_the_index_never_learned_of_is_made_again(
    prepared: tuple[Path, Path],
) -> None:
    sid, out = prepared
    before = shard_files(out)
    (out / "index.json").unlink()
    assert prepare_dataset(sid, out, kind="sid").made == 2
    assert shard_files(out) == before


def test_a_file_of_the_user_under_a_shards_name_is_kept(tmp_path: Path) -> None:
    write_sid(tmp_path / "sid", scenes=1, shorts=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "shard-00000.safetensors").write_text("mine")
    with pytest.raises(OutputError, match="exists already and was kept"):
        prepare_dataset(tmp_path / "sid", tmp_path / "out", kind="sid")
    assert (tmp_path / "out" / "shard-00000.safetensors").read_text() == "mine"


def test_damaged_shards_are_refused_and_deleted_ones_made_again(
    prepared: tuple[Path, Path],
) -> None:
    sid, out = prepared
    path = out / "shard-00001.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    for work in (
        lambda: prepare_dataset(sid, out, kind="sid"),
        lambda: load_complete_index(out, whole=True),
    ):
        with pytest.raises(DatasetError, match=r"shard-00001.*another checksum.*Delete it"):
            work()
    load_complete_index(out)  # sizes alone do not tell
    path.write_bytes(good[:-1])
    with pytest.raises(DatasetError, match=f"{len(good) - 1} bytes instead of {len(good)}"):
        load_complete_index(out)
    path.unlink()
    with pytest.raises(DatasetError, match=r"shard-00001.*does not exist"):
        load_complete_index(out)
    mended = prepare_dataset(sid, out, kind="sid")
    assert (mended.made, mended.kept) == (1, 1)
    assert path.read_bytes() == good


def test_sources_that_changed_are_said_and_their_shards_kept(prepared: tuple[Path, Path]) -> None:
    sid, out = prepared
    before = shard_files(out)
    short = sorted((sid / "Sony/short").iterdir())[0]
    os.utime(short, ns=(1, 1))  # touched, the same bytes: no change
    assert prepare_dataset(sid, out, kind="sid").changed == []
    write_exposure(short, scene_picture(24, 32, seed=9), ratio=250)
    again = prepare_dataset(sid, out, kind="sid")
    assert again.changed == [short.relative_to(sid).as_posix()]
    assert (again.made, shard_files(out)) == (0, before)
    anew = prepare_dataset(sid, out, kind="sid", overwrite=True)
    assert (anew.made, anew.changed) == (2, [])
    assert shard_files(out) != before


def test_originals_may_be_put_away_afterwards(prepared: tuple[Path, Path]) -> None:
    sid, out = prepared
    short = sorted((sid / "Sony/short").iterdir())[0]
    short.unlink()
    again = prepare_dataset(sid, out, kind="sid")
    assert (again.made, again.changed, again.index.skipped) == (0, [], [])


def test_shards_of_another_set_are_kept_unless_asked(
    prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    _, out = prepared
    before = shard_files(out)
    write_sid(tmp_path / "other", scenes=1, shorts=1, first=7)
    with pytest.raises(OutputError, match=r"other pairs \(sid, split all\).*--overwrite"):
        prepare_dataset(tmp_path / "other", out, kind="sid")
    assert shard_files(out) == before
    prepare_dataset(tmp_path / "other", out, kind="sid", overwrite=True)
    assert list(shard_files(out)) == ["shard-00000.safetensors"]
    assert load_complete_index(out, whole=True).pairs[0][1].scene == "00007"


@pytest.mark.parametrize("other", [False, True])
def test_an_old_set_is_kept_until_the_first_new_shard_is_made(
    prepared: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    sid, out = prepared
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    if other:
        sid = tmp_path / "other"
        write_sid(sid, scenes=3, shorts=1, first=7)
    rename = os.replace

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        prepare_dataset(sid, out, kind="sid", overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    calls: list[Path] = []

    def full_later(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) > 3:  # the first shard, written aside and put in place, and an index
            full(source, target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", full_later)
    with pytest.raises(OutputError, match="No space left"):
        prepare_dataset(sid, out, kind="sid", overwrite=True)
    assert list(shard_files(out)) == ["shard-00000.safetensors"]
    monkeypatch.setattr(os, "replace", rename)
    resumed = prepare_dataset(sid, out, kind="sid")
    assert (resumed.made, resumed.kept) == (2 if other else 1, 1)
    assert not list(out.glob(".*"))
    load_complete_index(out, whole=True)


def test_an_old_set_is_kept_where_nothing_new_can_be_read(prepared: tuple[Path, Path]) -> None:
    sid, out = prepared
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for path in (sid / "Sony" / "long").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"none among 2 .* were kept"):
        prepare_dataset(sid, out, kind="sid", overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_shards_have_the_permissions_of_every_new_file(
    tmp_path: Path,
) -> None:
    write_sid(tmp_path / "sid", scenes=1, shorts=1)
    before = os.umask(0o027)
    try:
        prepare_dataset(tmp_path / "sid", tmp_path / "out", kind="sid")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes == {"index.json": 0o640, "shard-00000.safetensors": 0o640}


def test_an_index_that_is_none_is_refused(prepared: tuple[Path, Path]) -> None:
    _, out = prepared
    text = (out / "index.json").read_text()
    for changed, said in (
        ("{", "JSON"),
        ("[]", "format 1"),
        (text.replace('"format": 1', '"format": 2'), "format 1"),
        (text.replace('"shard-00000.safetensors"', '"../shard-00000.safetensors"'), "bare file"),
        (text.replace('"height": 24', '"height": "tall"'), "height as int"),
        (text.replace('"truth": "truth.0",', ""), "missing 1 required"),
        (text.replace('"plan"', '"plans"'), "plan"),
    ):
        assert changed != text
        (out / "index.json").write_text(changed)
        with pytest.raises(DatasetError, match=said):
            load_index(out)
    (out / "index.json").unlink()
    with pytest.raises(DatasetError, match="ldmsid prepare"):
        load_index(out)


def test_a_worker_that_dies_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sid(tmp_path / "sid", scenes=2, shorts=1)
    monkeypatch.setattr(prepare_module, "_use_one_thread", os.abort)
    with pytest.raises(LdmSidError, match="fewer --workers"):
        prepare_dataset(tmp_path / "sid", tmp_path / "out", kind="sid", workers=2)
    assert not load_index(tmp_path / "out").complete
