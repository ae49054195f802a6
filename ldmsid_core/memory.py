"""How much memory is free, and one more try with less where it ran out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from .errors import ConfigError

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_Size = TypeVar("_Size")
_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Controllers as /proc names them, none in version 2 -> folder; files and line of use.
_CGROUP_FILES = {
    "": ("", "memory.max", "memory.current", "inactive_file "),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
}


def _lines(path: Path) -> list[str]:
    """Of a file of the system; none where it is missing."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _number(path: Path, name: str = "") -> int | None:
    """What follows a name in a control group's file, or the file's one number; None for `max`."""
    values = (line.removeprefix(name).strip() for line in _lines(path) if line.startswith(name))
    return next((int(value) for value in values if value.isdigit()), None)


def _free_in_cgroups() -> Iterator[int]:
    """Bytes left in this process's control groups and those above them that have a limit."""
    for line in _lines(_OWN_CGROUP):
        _, controllers, place = line.split(":", 2)
        if controllers not in _CGROUP_FILES:
            continue
        top, limit_file, used_file, reclaimable = _CGROUP_FILES[controllers]
        own = Path(place.lstrip("/"))
        for folder in (_CGROUPS / top / group for group in (own, *own.parents)):
            limit, used = _number(folder / limit_file), _number(folder / used_file)
            if limit is not None and used is not None:
                # The system drops cached files, such as mapped weights, when it needs room.
                yield max(0, limit - used + (_number(folder / "memory.stat", reclaimable) or 0))


def free_memory(device: torch.device) -> int:
    """Bytes that new tensors on a device may take now.

    Args:
        device: A `cuda`, `mps` or `cpu` device; weights should have been moved there before.

    Raises:
        ConfigError: If it is another kind of device.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type == "cpu":
        import psutil  # type: ignore[import-untyped]

        return min((psutil.virtual_memory().available, *_free_in_cgroups()))
    raise ConfigError(f"Expected a device cuda, mps or cpu, found {device}; choose one of them.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a device's or the system's lack of memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in words or "allocate memory" in words
    )


def with_less_memory(
    run: Callable[[_Size], _Result],
    size: _Size,
    smaller: Callable[[_Size], _Size | None],
    what: Callable[[_Size], str],
    is_lack: Callable[[BaseException], bool] = is_out_of_memory,
) -> _Result:
    """Compute, and once more with a smaller size where memory ran out.

    Args:
        run: The computation.
        size: To begin with.
        smaller: What to try next; None where there is nothing smaller.
        what: Names a size, for the warning.
        is_lack: Whether an error is a lack of memory.

    Raises:
        RuntimeError: What `run` raised, where it is something else or happens again.
    """
    try:
        return run(size)
    except (RuntimeError, MemoryError) as error:
        less = smaller(size) if is_lack(error) else None
        if less is None:
            raise
    # Outside the except block: its traceback would keep what the first try had allocated.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    log.warning("memory ran out with %s; trying once more with %s", what(size), what(less))
    return run(less)
