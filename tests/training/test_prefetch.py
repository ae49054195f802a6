"""Batches made ahead: in order, bounded, and threads that end."""

from __future__ import annotations

import threading
import time

import pytest

from ldmsid_core.errors import ConfigError
from ldmsid_core.training.data.prefetch import Prefetcher


def running() -> int:
    return sum(thread.name.startswith("batches") for thread in threading.enumerate())


def test_steps_come_in_order_whoever_is_done_first() -> None:
    def make(step: int) -> int:
        time.sleep(0.01 * ((step * 7) % 3))
        return step * step

    with Prefetcher(make, start=3, stop=20, threads=4, ahead=6) as batches:
        assert list(batches) == [step * step for step in range(3, 20)]
    assert running() == 0


def test_no_more_than_asked_for_are_made_ahead() -> None:
    made: list[int] = []
    with Prefetcher(made.append, start=0, stop=100, threads=3, ahead=5) as batches:
        for taken in range(1, 8):
            next(batches)
            time.sleep(0.02)
            assert taken <= len(made) <= taken + 5
    assert len(made) <= 7 + 5


def test_leaving_early_ends_the_threads() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        time.sleep(0.01)
        made.append(step)
        return step

    with Prefetcher(make, start=0, stop=10**6, threads=2, ahead=4) as batches:
        assert next(batches) == 0
    assert running() == 0
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count
    assert next(batches, None) is None
    batches.close()


def test_an_error_comes_at_its_own_step_and_ends_the_threads() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise OSError("disk gone")
        return step

    batches = Prefetcher(make, start=0, stop=9)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(OSError, match="disk gone"):
        next(batches)
    assert running() == 0
    assert next(batches, None) is None


def test_waiting_is_told() -> None:
    def slow(step: int) -> int:
        time.sleep(0.03)
        return step

    with Prefetcher(slow, start=0, stop=8, threads=1, ahead=1) as batches:
        assert batches.waited_share == 0.0
        for _ in batches:
            pass
        # Nothing but waiting is done here; the rest is Python between two batches.
        assert batches.waited_share > 0.8
    with Prefetcher(slow, start=0, stop=6, threads=2, ahead=4) as batches:
        for _ in batches:
            time.sleep(0.06)
        # Twice two threads' pace: whatever is waited is the scheduler's.
        assert batches.waited_share < 0.2


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 and 4"):
        Prefetcher(lambda step: step, start=0, stop=1, threads=0)
    with Prefetcher(lambda step: step, start=5, stop=5) as nothing:
        assert list(nothing) == []
