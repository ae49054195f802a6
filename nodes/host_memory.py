"""How much memory the host has to spare, and one more try with less where it ran out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import comfy.model_management as mm
import torch

from ..ldmsid_core.memory import free_memory, with_less_memory

_Result = TypeVar("_Result")
_Size = TypeVar("_Size")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is the device's or the CPU allocator's lack of memory."""
    known = getattr(mm, "is_oom", None)
    if callable(known) and known(error):
        return True
    return isinstance(error, (mm.OOM_EXCEPTION, MemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def memory_to_spare(device: torch.device, own: Sequence[Any]) -> int:
    """Bytes of working memory on a device, once the host has put other models away.

    Args:
        device: Where.
        own: Patchers that stay.
    """
    free = int(mm.get_free_memory(device))
    if device.type == "cpu":
        # The host does not see the limit of a container; models stay where they are.
        return min(free, free_memory(device))
    kept = [patcher.model for patcher in own]
    others = [
        loaded
        for loaded in mm.current_loaded_models
        if loaded.model is not None
        and loaded.device == device
        and not any(loaded.model.model is model for model in kept)
    ]
    return free + sum(int(loaded.model_loaded_memory()) for loaded in others)


def with_less(
    run: Callable[[_Size], _Result],
    size: _Size,
    smaller: Callable[[_Size], _Size | None],
    what: Callable[[_Size], str],
    tell: Callable[[str], None],
) -> _Result:
    """Compute, and once more with a smaller size where memory ran out, which is told.

    Args:
        run: The computation.
        size: To begin with.
        smaller: What to try next; None where there is nothing smaller.
        what: Names a size.
        tell: Shows a sentence to the user.
    """

    def less(first: _Size) -> _Size | None:
        found = smaller(first)
        if found is not None:
            tell(f"Memory ran out with {what(first)}; trying once more with {what(found)}.")
        return found

    def attempt(now: _Size) -> _Result:
        if now is not size:
            mm.soft_empty_cache()
        return run(now)

    return with_less_memory(attempt, size, less, what, is_out_of_memory)
