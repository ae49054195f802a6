"""The record of a stage: a CSV row a step, and TensorBoard where asked for."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from ..errors import ConfigError, OutputError
from ..output.atomic import written_atomically

LogName = Literal["csv", "tensorboard"]
_FLUSH_EVERY = 20


def check_log(name: str) -> None:
    """Refuse a log that cannot be written, before long work starts.

    Raises:
        ConfigError: If the name is unknown or the package is missing.
    """
    if name not in ("csv", "tensorboard"):
        raise ConfigError(f"Expected a log among csv, tensorboard, found {name!r}.")
    if name == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "Expected the package tensorboard for --log tensorboard, found none; install it with "
            "pip install tensorboard, or leave the option out: a CSV is always written."
        )


def _kept_rows(path: Path, first: int) -> list[str]:
    """Header and whole rows of steps before `first`."""
    if not path.exists() or first == 0:
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    steps = (line.split(",")[0] for line in lines)
    return [
        line
        for number, (line, step) in enumerate(zip(lines, steps, strict=True))
        if number == 0 or (step.isdigit() and int(step) < first)
    ]


@dataclass
class StepLog:
    """One stage's open log."""

    path: Path
    _stream: TextIO
    _board: Any = None
    _columns: list[str] = field(default_factory=list)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One step's numbers; 9 digits tell every float32 from its neighbours.

        Raises:
            OutputError: If the disk takes no more.
        """
        try:
            if not self._columns:
                self._columns = list(values)
                if self._stream.tell() == 0:
                    self._row("step", *self._columns)
            self._row(step, *(f"{values[k]:.9g}" for k in self._columns))
            if step % _FLUSH_EVERY == 0:
                self._stream.flush()
        except OSError as error:
            raise OutputError(f"Cannot write {self.path}: {error.strerror or error}.") from error
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def _row(self, *cells: object) -> None:
        csv.writer(self._stream, lineterminator="\n").writerow(cells)

    def flush(self) -> None:
        """Bring all rows to the file: a saved state must not be ahead of its log.

        Raises:
            OutputError: If the disk takes no more.
        """
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError(f"Cannot write {self.path}: {error.strerror or error}.") from error


@contextmanager
def open_log(folder: Path, name: str, *, first: int, kind: LogName = "csv") -> Iterator[StepLog]:
    """Open a stage's log for the length of a `with` block.

    Rows of `first` and later steps, which a run wrote that was then cut off, are dropped.

    Args:
        folder: Of the run.
        name: Of the stage.
        first: Step that the stage goes on at.
        kind: `tensorboard` writes event files beside the CSV.
    """
    path = folder / f"{name}.csv"
    kept = _kept_rows(path, first)
    with written_atomically(path, overwrite=True) as partial:
        partial.write_text("".join(kept), encoding="utf-8")
    board = None
    if kind == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter(str(folder / "tensorboard" / name), purge_step=first)
    try:
        with path.open("a", newline="", encoding="utf-8") as stream:
            yield StepLog(path, stream, board)
    finally:
        if board is not None:
            board.close()
