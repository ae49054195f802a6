"""`ldmsid prepare`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers.datasets import scene_picture, write_exposure, write_pictures, write_sid

from ldmsid_core.cli import main
from ldmsid_core.training.data.adapters import KINDS


def run(*words: object) -> Result:
    return CliRunner().invoke(
        main, ["prepare", *map(str, words), "--workers", "1"], catch_exceptions=False
    )


def test_a_whole_set_is_said_in_a_line(tmp_path: Path) -> None:
    write_sid(tmp_path / "sid", scenes=2, shorts=2)
    write_sid(tmp_path / "sid", scenes=1, shorts=1, split="test", first=10045)
    words = (tmp_path / "sid", "--kind", "sid", "-o", tmp_path / "out")
    first = run(*words)
    assert first.exit_code == 0
    assert "5 pairs in 3 shards, 3 made, 0 kept" in first.stdout
    assert "flagged misaligned: 1" in first.stdout
    again = run(*words, "--quiet", "--json")
    assert (again.exit_code, again.stderr) == (0, "")
    assert json.loads(again.stdout) == {
        "pairs": 5, "shards": 3, "made": 0, "kept": 3, "flagged": {"misaligned": 1},
        "missing": [], "changed": [], "skipped": [],
    }  # fmt: skip
    train = run(tmp_path / "sid", "--kind", "sid", "-o", tmp_path / "train", "--split", "train")
    assert "4 pairs in 2 shards" in train.stdout


def test_what_is_missing_damaged_or_changed_is_said_and_the_code_is_1(tmp_path: Path) -> None:
    sid = tmp_path / "sid"
    listed = write_sid(sid, scenes=2, shorts=4)
    for short, _ in listed[:4]:
        (sid / short).unlink()
    (sid / listed[4][0]).write_bytes(b"nothing")
    words = (sid, "--kind", "sid", "-o", tmp_path / "out", "--quiet")
    done = run(*words)
    assert (done.exit_code, done.stdout) == (1, "")
    missing, left_out = done.stderr.splitlines()
    assert missing.startswith("ldmsid: 4 files are missing: Sony/short/")
    assert missing.endswith(" and 1 more; pairs left out: 4")
    assert left_out.startswith(f"ldmsid: left out {listed[4][0]}: Expected")
    write_exposure(sid / listed[5][0], scene_picture(24, 32, seed=9), ratio=100)
    changed = run(*words)
    assert changed.exit_code == 1
    said = f"1 file has changed since shards were made of them: {listed[5][0]}; the shards were"
    assert said in changed.stderr


def test_refusals_are_one_line(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", count=1)
    for words, said in (
        ((tmp_path / "in", "--kind", "sid", "-o", tmp_path / "out"), "Sony_train_list.txt"),
        ((tmp_path / "nowhere", "--kind", "folder", "-o", tmp_path / "out"), "does not exist"),
        ((tmp_path / "in", "--kind", "folder", "-o", tmp_path / "in/photo0.png"), "photo0.png"),
    ):
        done = run(*words)
        assert done.exit_code == 1
        (line,) = [text for text in done.stderr.splitlines() if text.startswith("ldmsid: ")]
        assert said in line


def test_kinds_of_the_command_are_the_adapters() -> None:
    kind = next(p for p in main.commands["prepare"].params if p.name == "kind")
    assert list(kind.type.choices) == list(KINDS)


@pytest.mark.parametrize("words", [(), ("in", "--kind", "odd", "-o", "out")])
def test_wrong_words_are_refused(words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2
