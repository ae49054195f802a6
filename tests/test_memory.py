"""Free memory, and one more try with less of it."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from ldmsid_core import memory
from ldmsid_core.errors import ConfigError

CPU = torch.device("cpu")


def write_groups(folder: Path, listed: str, files: dict[str, str]) -> None:
    (folder / "self").write_text(listed)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


V1 = "memory.limit_in_bytes", "memory.usage_in_bytes"


@pytest.mark.parametrize(
    ("listed", "files", "free"),
    [
        ("0::/\n", {"memory.max": "9000\n", "memory.current": "2000\n"}, 7000),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "2000\n"}, 50000),
        ("0::/\n", {"memory.max": "9000\n", "memory.current": "9999\n"}, 0),
        (  # Cached files can be dropped.
            "0::/\n",
            {
                "memory.max": "9000\n",
                "memory.current": "2000\n",
                "memory.stat": "file 600\ninactive_file 500\n",
            },
            7500,
        ),
        (  # The group above has the tighter limit.
            "0::/a/b\n",
            {
                "a/b/memory.max": "9000\n", "a/b/memory.current": "1000\n",
                "a/memory.max": "5000\n", "a/memory.current": "1000\n",
            },
            4000,
        ),
        (  # A container's own name for its group leads nowhere; its limit is at the top.
            "5:memory:/docker/x\n3:cpu:/\n",
            {f"memory/{V1[0]}": "9000\n", f"memory/{V1[1]}": "2000\n"},
            7000,
        ),
        (
            "5:memory:/\n0::/\n",
            {f"memory/{V1[0]}": "9223372036854771712\n", f"memory/{V1[1]}": "2000\n"},
            50000,
        ),
    ],
)  # fmt: skip
def test_control_groups_limit_free_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listed: str,
    files: dict[str, str],
    free: int,
) -> None:
    write_groups(tmp_path, listed, files)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "self")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=50000))
    assert memory.free_memory(CPU) == free


def test_free_memory_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < memory.free_memory(CPU) <= psutil.virtual_memory().total
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "missing")
    assert memory.free_memory(CPU) > 0
    with pytest.raises(ConfigError, match="cuda, mps or cpu, found meta"):
        memory.free_memory(torch.device("meta"))


def halved(size: int) -> int | None:
    return size // 2 if size > 1 else None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_one_more_try_with_half(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    def run(size: int) -> int:
        seen.append(size)
        if size > 4:
            raise error
        return size

    with caplog.at_level(logging.WARNING):
        assert memory.with_less_memory(run, 8, halved, lambda size: f"tiles of {size}") == 4
    assert seen == [8, 4]
    assert "memory ran out with tiles of 8; trying once more with tiles of 4" in caplog.text


def test_the_first_try_is_let_go_before_the_second() -> None:
    """An exception's traceback would keep its tensors alive."""
    alive: list[bool] = []

    class Large:
        count = 0

        def __init__(self) -> None:
            Large.count += 1

        def __del__(self) -> None:
            Large.count -= 1

    def run(size: int) -> None:
        alive.append(Large.count > 0)
        _large = Large()
        if size > 4:
            raise MemoryError

    memory.with_less_memory(run, 8, halved, str)
    assert alive == [False, False]


def test_only_once_and_only_for_memory() -> None:
    def fails(error: Exception) -> list[int]:
        seen = []

        def run(size: int) -> None:
            seen.append(size)
            raise error

        with pytest.raises(type(error)):
            memory.with_less_memory(run, 8, halved, str)
        return seen

    assert fails(MemoryError()) == [8, 4]
    assert fails(RuntimeError("Expected all tensors on one device")) == [8]
    assert fails(KeyError("memory")) == [8]


def test_nothing_smaller_is_the_error_itself() -> None:
    def run(_size: int) -> None:
        raise MemoryError("gone")

    with pytest.raises(MemoryError, match="gone"):
        memory.with_less_memory(run, 1, halved, str)
