"""What could not be read while training went on: each once, whichever thread met it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from ...errors import DatasetError
from .shard_index import Skipped

log = logging.getLogger(__name__)

# Readable pairs are drawn instead; so many damaged ones in a row are no accident.
ATTEMPTS = 16


@dataclass(frozen=True)
class LeftOut:
    """What a run could not read.

    Attributes:
        crops: Whose places others took.
        skipped: What they were cut from, each once, by name.
    """

    crops: int = 0
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def together(cls, parts: Iterable[LeftOut]) -> LeftOut:
        """Of several sources, or processes."""
        known = list(parts)
        found = {skip.name: skip for part in known for skip in part.skipped}
        return cls(sum(part.crops for part in known), tuple(found[name] for name in sorted(found)))


class SkipList:
    """Names with their reasons; several threads may add.

    Attributes:
        count: How often something was met, names met again included.
    """

    def __init__(self) -> None:
        self._found: dict[str, Skipped] = {}
        self.count = 0
        self._lock = threading.Lock()

    def add(self, name: str, error: DatasetError) -> None:
        """Keep a name's first reason, and log it."""
        with self._lock:
            self.count += 1
            if name not in self._found:
                log.warning("left out of training: %s: %s", name, error)
                self._found[name] = Skipped(name, str(error))

    def listed(self) -> list[Skipped]:
        """All so far, by name."""
        with self._lock:
            return [self._found[name] for name in sorted(self._found)]
