"""Interleaved pairs in one process: ratios of CPU time, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

PAIRS = 11
Work = Callable[[], object]


def cpu_seconds(work: Work) -> float:
    """CPU time of one call, all threads together."""
    started = time.process_time()
    work()
    return time.process_time() - started


def wall_seconds(work: Work) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratio(
    ours: Work, theirs: Work, *, clock: Callable[[Work], float] = cpu_seconds, pairs: int = PAIRS
) -> tuple[float, float]:
    """Median of ours / theirs over interleaved pairs, and half the spread of the middle half."""
    ours(), theirs()
    found = []
    for pair in range(pairs):
        if pair % 2:
            mine, other = clock(ours), clock(theirs)
        else:
            other, mine = clock(theirs), clock(ours)
        found.append(mine / other)
    low, middle, high = statistics.quantiles(found, n=4)
    return middle, (high - low) / 2
