"""Training data read ahead: threads make what a stage asks for next while it computes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from torch import Tensor

from .compute import Compute
from .data.prefetch import Prefetcher
from .images import CleanImages
from .pairs import BatchPart, ReadingPlan, TrainingPairs, images_of, pairs_of
from .stage import StageConfig

log = logging.getLogger(__name__)
_Made = TypeVar("_Made")
# Of a stage's time; above it the log says so even where nobody asked.
_GOAL = 0.05


class StageParts:
    """The passes of one process from a step to the end of its stage, in order."""

    def __init__(self, config: StageConfig, compute: Compute, first: int) -> None:
        """Keep what they follow from."""
        self._config, self._compute, self._first = config, compute, first

    def __len__(self) -> int:
        return max(0, self._config.steps - self._first) * self._config.accumulation

    def __getitem__(self, place: int, /) -> BatchPart:
        step, number = divmod(place, self._config.accumulation)
        return self._compute.part(self._config, self._first + step, number)


class Ahead(Generic[_Made]):
    """Makes parts of batches when asked and, while a plan is known, the next ones beforehand.

    What is returned is what `make` returns, whatever was made ahead.

    Attributes:
        waited_share: Of the time of the last plan, unit range.
    """

    def __init__(self, make: Callable[[BatchPart], _Made], *, threads: int) -> None:
        """Keep the recipe; nothing is made yet.

        Args:
            make: Depends on the part alone; called from several threads.
            threads: That make parts ahead.
        """
        self._make, self._threads = make, threads
        self._plan: ReadingPlan = []
        self._next = 0
        self._queue: Prefetcher[_Made] | None = None
        self._waited_s = 0.0
        self.waited_share = 0.0

    def get(self, part: BatchPart) -> _Made:
        """One part, made ahead if it is the next of the plan."""
        if self._queue is None:
            return self._make(part)
        if self._next >= len(self._plan) or self._plan[self._next] != part:
            place = self._later(part)
            if place is None:
                return self._make(part)
            self._open(place)
        self._next += 1
        return next(self._queue)

    def _later(self, part: BatchPart) -> int | None:
        """Where the plan goes on after parts that nobody asked for, as when they were on disk."""
        places = range(self._next + 1, len(self._plan))
        return next((i for i in places if self._plan[i] == part), None)

    def _open(self, place: int) -> None:
        self._close()
        plan, self._next = self._plan, place
        self._queue = Prefetcher(
            lambda i: self._make(plan[i]), start=place, stop=len(plan), threads=self._threads,
            ahead=2 * self._threads,
        )  # fmt: skip

    def _close(self) -> None:
        if self._queue is not None:
            self._waited_s += self._queue.waited_s
            self._queue.close()
            self._queue = None

    @contextmanager
    def reading(self, plan: ReadingPlan, name: str) -> Iterator[None]:
        """Make the parts of a plan ahead for the length of a `with` block, and log the waiting.

        Args:
            plan: In the order in which they will be asked for; some may be left out.
            name: Of the stage, for the log.
        """
        self._plan, self._waited_s = plan, 0.0
        self._open(0)
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._close()
            self._plan = []
            self.waited_share = self._waited_s / max(time.perf_counter() - begun, 1e-9)
            level = logging.WARNING if self.waited_share > _GOAL else logging.INFO
            log.log(
                level, "%s waited for data %.1f %% of its time", name, 100.0 * self.waited_share
            )


class PairsAhead(Ahead[tuple[Tensor, Tensor]]):
    """Pairs read ahead, with the interface of `TrainingPairs`."""

    def __init__(self, pairs: TrainingPairs, *, crop: int, threads: int) -> None:
        """Keep the pairs and the side of all crops that will be asked for."""
        super().__init__(lambda part: pairs_of(pairs, part, crop=crop), threads=threads)
        self._crop = crop

    def batch(self, step: int, *, count: int, crop: int) -> tuple[Tensor, Tensor]:
        """As `TrainingPairs`."""
        return self.part(step, count=count, crop=crop, start=0, stop=count)

    def part(
        self, step: int, *, count: int, crop: int, start: int, stop: int
    ) -> tuple[Tensor, Tensor]:
        """As `DividedPairs`."""
        assert crop == self._crop
        return self.get(BatchPart(step, count, start, stop))


class ImagesAhead(Ahead[Tensor]):
    """Clean images read ahead, with the interface of `CleanImages`."""

    def __init__(self, images: CleanImages, *, crop: int, threads: int) -> None:
        """Keep the images and the side of all crops that will be asked for."""
        super().__init__(lambda part: images_of(images, part, crop=crop), threads=threads)
        self._crop = crop

    def batch(self, step: int, *, count: int, crop: int) -> Tensor:
        """As `CleanImages`."""
        return self.part(step, count=count, crop=crop, start=0, stop=count)

    def part(self, step: int, *, count: int, crop: int, start: int, stop: int) -> Tensor:
        """As `DividedImages`."""
        assert crop == self._crop
        return self.get(BatchPart(step, count, start, stop))
