"""The structure input beside the prompts, where the host repeats, joins and crops it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import comfy.conds
import comfy.utils
from torch import Tensor
from torch.nn import functional

# Its name among the arguments of a UNet call.
CONDITION = "ldmsid_structure"
_FINER = 2


class RepeatedRows(threading.local):
    """How the condition's rows repeat in the UNet call that a thread prepares.

    Under guidance every prompt brings the same bands; which prompts share a call is known where
    the host joins them, and comparing tensors later would make a GPU wait.

    Attributes:
        rows: Of the call.
        distinct: The first so many of them are all there are, one after the other.
    """

    rows = 0
    distinct = 0

    def of(self, rows: int) -> int:
        """Distinct rows of a call of so many; all, where it is not the one that was prepared."""
        return self.distinct if rows == self.rows else rows


class StructureCondition(comfy.conds.CONDRegular):
    """The structure input, folded to twice the latent's size and a quarter of its channels.

    At the latent's own size tiling packs would take it for a latent of theirs; area prompts and
    tiles are cut in latent pixels, so every number doubles here.
    """

    def __init__(self, cond: Tensor, repeated: RepeatedRows, area: tuple[int, ...] = ()) -> None:
        """Keep the input, where to tell of repeats, and which part of the frame it is."""
        super().__init__(cond)
        self.repeated, self.area = repeated, area

    def _copy_with(self, cond: Tensor) -> StructureCondition:
        return type(self)(cond, self.repeated, self.area)

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> StructureCondition:
        """Cut to an area prompt's part and repeat to the batch."""
        data, part = self.cond, tuple(area or ())
        dimensions = len(part) // 2
        for i in range(dimensions):
            data = data.narrow(i + 2, _FINER * part[i + dimensions], _FINER * part[i])
        data = comfy.utils.repeat_to_batch_size(data, batch_size)
        return type(self)(data, self.repeated, part)

    def concat(self, others: list[StructureCondition]) -> Tensor:
        """The rows of all prompts of one call, which differ where prompts have areas."""
        joined: Tensor = super().concat(others)
        same = all(other.area == self.area for other in others)
        self.repeated.rows = len(joined)
        self.repeated.distinct = len(self.cond) if same else len(joined)
        return joined


def unfold(folded: Tensor) -> Tensor:
    """The structure input of a condition's rows, `(B, 4, h, w)`."""
    return functional.pixel_unshuffle(folded, _FINER)


def carry(structure_input: Tensor, repeated: RepeatedRows) -> Callable[..., Any]:
    """A wrapper that puts the condition beside every prompt of one sampling run.

    The prompts are copies of this run's own, so nothing stays on the model or in the graph.

    Args:
        structure_input: `(B, 4, h, w)`.
        repeated: Filled for every call.
    """
    folded = functional.pixel_shuffle(structure_input, _FINER)

    def wrapper(executor: Any, guider: Any, sigmas: Tensor, *args: Any, **kwargs: Any) -> Any:
        condition = StructureCondition(folded.to(sigmas.device), repeated)
        for prompts in guider.conds.values():
            for prompt in prompts:
                prompt["model_conds"] = {**prompt["model_conds"], CONDITION: condition}
        return executor(guider, sigmas, *args, **kwargs)

    return wrapper
