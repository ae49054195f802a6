"""Batches made ahead by threads: in order, a bounded number of them, and the waiting told."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

from ...errors import ConfigError

_Batch = TypeVar("_Batch")


class Prefetcher(Generic[_Batch]):
    """An iterator over the batches of consecutive steps, and a context manager that ends it.

    At most `ahead` batches exist beside the one handed out. Reading and resizing release Python's
    lock, so threads suffice.
    """

    def __init__(
        self,
        make_batch: Callable[[int], _Batch],
        *,
        start: int,
        stop: int,
        threads: int = 2,
        ahead: int = 4,
    ) -> None:
        """Begin with the first batches at once.

        Args:
            make_batch: The batch of a step; called from several threads.
            start: First step.
            stop: Step after the last.
            threads: That make batches.
            ahead: Batches made or being made before they are asked for.

        Raises:
            ConfigError: If `threads` or `ahead` is below 1.
        """
        if threads < 1 or ahead < 1:
            raise ConfigError(f"Expected threads and ahead >= 1, found {threads} and {ahead}.")
        self._make, self._stop, self._ahead = make_batch, stop, ahead
        self._next = start
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
        self._waiting: deque[Future[_Batch]] = deque()
        self._begun: float | None = None
        self.waited_s = 0.0
        self._fill()

    def _fill(self) -> None:
        while self._next < self._stop and len(self._waiting) < self._ahead:
            self._waiting.append(self._pool.submit(self._make, self._next))
            self._next += 1

    def __iter__(self) -> Iterator[_Batch]:
        return self

    def __next__(self) -> _Batch:
        if not self._waiting:
            self.close()
            raise StopIteration
        asked = time.perf_counter()
        try:
            batch = self._waiting.popleft().result()
        except BaseException:
            self.close()
            raise
        received = time.perf_counter()
        if self._begun is None:  # nobody could have made the first batch ahead
            self._begun = received
        else:
            self.waited_s += received - asked
        self._fill()
        return batch

    @property
    def waited_share(self) -> float:
        """Waiting for batches over all time since the first came, unit range."""
        if self._begun is None:
            return 0.0
        return self.waited_s / max(time.perf_counter() - self._begun, 1e-9)

    def close(self) -> None:
        """Drop what was not asked for, and wait for threads to end; may be called again."""
        self._next = self._stop
        self._waiting.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Prefetcher[_Batch]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
