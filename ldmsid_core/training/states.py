"""Saved states of a stage: whole or not at all, the one before kept."""

from __future__ import annotations

import logging
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, OutputError
from ..output.atomic import written_atomically

log = logging.getLogger(__name__)
_NEEDED = ("module", "optimiser", "step", "global_batch")


@dataclass(frozen=True)
class StateFiles:
    """Where a stage keeps its states.

    Attributes:
        folder: Of the run.
        name: Of the stage.
    """

    folder: Path
    name: str

    @property
    def latest(self) -> Path:
        """The newest state."""
        return self.folder / f"{self.name}.state.pt"

    @property
    def previous(self) -> Path:
        """The one before."""
        return self.folder / f"{self.name}.previous.pt"

    @property
    def newest(self) -> Path | None:
        """The one that a resumed stage goes on from; None where there is none.

        A run killed between the two renames of `save` has the previous one alone.
        """
        return next((path for path in (self.latest, self.previous) if path.exists()), None)

    def save(self, state: dict[str, Any]) -> None:
        """Write a state; the newest so far becomes the previous one.

        Raises:
            OutputError: If it cannot be written; both older states are kept then.
        """
        with written_atomically(self.latest, overwrite=True) as partial:
            try:
                with partial.open("wb") as stream:
                    torch.save(state, stream)
                    stream.flush()
                    os.fsync(stream.fileno())
            except RuntimeError as error:  # how torch reports a full disk
                raise OutputError(
                    f"Cannot write {self.latest}: {error}; make room and resume."
                ) from error
            if self.latest.exists():
                os.replace(self.latest, self.previous)

    def load(self) -> dict[str, Any] | None:
        """The newest state; None where the stage has not begun.

        Raises:
            CheckpointError: If it is damaged, or lacks what every state holds.
        """
        path = self.newest
        return None if path is None else self._read(path)

    def _read(self, path: Path) -> dict[str, Any]:
        older = path == self.latest and self.previous.exists()
        then = f"go on from {self.previous.name}" if older else "train the stage again"
        try:
            state = dict(torch.load(path, weights_only=True, map_location="cpu"))
        except (
            RuntimeError, OSError, EOFError, ValueError, TypeError, pickle.UnpicklingError,
        ) as error:  # fmt: skip
            raise CheckpointError(
                f"Expected a training state, but {path} is damaged ({error}); delete it to {then}."
            ) from error
        lacking = [name for name in _NEEDED if name not in state]
        if lacking:
            raise CheckpointError(
                f"Expected a training state of this version, but {path} lacks "
                f"{', '.join(lacking)}; delete it to {then}."
            )
        return state
