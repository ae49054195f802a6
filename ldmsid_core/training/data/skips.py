"""What could not be read while training went on: each once, whichever thread met it."""

from __future__ import annotations

import logging
import threading

from ...errors import DatasetError
from .shard_index import Skipped

log = logging.getLogger(__name__)

# Readable pairs are drawn instead; so many damaged ones in a row are no accident.
ATTEMPTS = 16


class SkipList:
    """Names with their reasons; several threads may add."""

    def __init__(self) -> None:
        self._found: dict[str, Skipped] = {}
        self._lock = threading.Lock()

    def add(self, name: str, error: DatasetError) -> None:
        """Keep a name's first reason, and log it."""
        with self._lock:
            if name not in self._found:
                log.warning("left out of training: %s: %s", name, error)
                self._found[name] = Skipped(name, str(error))

    def listed(self) -> list[Skipped]:
        """All so far, by name."""
        with self._lock:
            return [self._found[name] for name in sorted(self._found)]
