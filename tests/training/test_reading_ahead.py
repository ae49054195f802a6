"""Parts of batches made ahead: the same parts, in the order of a plan, whatever is asked."""

from __future__ import annotations

import logging
import threading
import time

import pytest
import torch
from helpers.training_runs import RandomPairs, one_process, settings
from torch import Tensor

from ldmsid_core.training.ahead import Ahead, ImagesAhead, PairsAhead, StageParts
from ldmsid_core.training.generated import GeneratedGroup, GeneratedPool, GenerationConfig
from ldmsid_core.training.pairs import BatchPart, pairs_of


class Recorded:
    """Makes the step of a part and notes which thread did."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.made: list[int] = []
        self.beforehand: list[int] = []
        self._seconds = seconds

    def __call__(self, part: BatchPart) -> int:
        time.sleep(self._seconds)
        self.made.append(part.step)
        if threading.current_thread() is not threading.main_thread():
            self.beforehand.append(part.step)
        return part.step


def steps(*numbers: int) -> list[BatchPart]:
    return [BatchPart(number, 2, 0, 2) for number in numbers]


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 3)])
def test_a_plan_is_what_the_engine_will_ask_for(processes: int, accumulation: int) -> None:
    config = settings(steps=7, accumulation=accumulation)
    for process in range(processes):
        compute = one_process(process, processes)
        plan = StageParts(config, compute, 5)
        wanted = [
            compute.part(config, step, number) for step in (5, 6) for number in range(accumulation)
        ]
        assert [plan[i] for i in range(len(plan))] == wanted
    assert len(StageParts(config, one_process(), 7)) == 0


def test_the_plan_is_made_by_threads_and_nothing_twice() -> None:
    make = Recorded()
    ahead = Ahead(make, threads=2)
    plan = steps(*range(3, 9))
    with ahead.reading(plan, "s"):
        assert [ahead.get(part) for part in plan] == list(range(3, 9))
    assert sorted(make.made) == sorted(make.beforehand) == list(range(3, 9))
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_what_is_not_next_is_made_all_the_same() -> None:
    make = Recorded()
    ahead = Ahead(make, threads=1)
    (stranger,) = steps(99)
    assert ahead.get(stranger) == 99  # no plan yet
    with ahead.reading(steps(0, 1, 2, 3, 4, 5, 6, 7), "s"):
        assert ahead.get(steps(0)[0]) == 0
        assert ahead.get(stranger) == 99  # a sheet's
        assert ahead.get(steps(5)[0]) == 5  # 1 to 4 were on disk
        assert [ahead.get(part) for part in steps(6, 7)] == [6, 7]
        assert ahead.get(steps(2)[0]) == 2  # past already
    assert {5, 6, 7} <= set(make.beforehand)
    assert [make.made.count(step) - make.beforehand.count(step) for step in (99, 2)] == [2, 1]


def test_a_damaged_part_stops_where_it_is_asked_for() -> None:
    def make(part: BatchPart) -> int:
        if part.step == 2:
            raise OSError("gone")
        return part.step

    ahead = Ahead(make, threads=2)
    with pytest.raises(OSError, match="gone"), ahead.reading(steps(0, 1, 2, 3), "s"):
        assert [ahead.get(part) for part in steps(0, 1)] == [0, 1]
        ahead.get(steps(2)[0])


def test_waiting_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ldmsid_core")
    plan = steps(*range(8))
    slow = Ahead(Recorded(0.03), threads=1)
    with slow.reading(plan, "slow"):
        for part in plan:
            slow.get(part)
    # Nothing but waiting is done; the first part is nobody's fault and not counted.
    assert slow.waited_share > 0.6
    quick = Ahead(Recorded(), threads=1)
    with quick.reading(plan, "quick"):
        for part in plan:
            quick.get(part)
            time.sleep(0.03)
    assert quick.waited_share < 0.05
    levels = {r.getMessage().split()[0]: r.levelname for r in caplog.records}
    assert levels == {"slow": "WARNING", "quick": "INFO"}


def test_pairs_and_images_read_ahead_are_the_same() -> None:
    pairs, parts = RandomPairs(), [BatchPart(3, 4, 0, 2), BatchPart(3, 4, 2, 4)]

    class Images:
        def batch(self, step: int, *, count: int, crop: int) -> Tensor:
            return pairs.batch(step, count=count, crop=crop)[0]

    for plan in (parts, []):
        ahead = PairsAhead(pairs, crop=64, threads=1)
        images = ImagesAhead(Images(), crop=64, threads=1)
        with ahead.reading(plan, "a"), images.reading(plan, "b"):
            for part in parts:
                wanted = pairs_of(pairs, part, crop=64)
                found = pairs_of(ahead, part, crop=64)
                assert all(torch.equal(w, f) for w, f in zip(wanted, found, strict=True))
                place = {"start": part.start, "stop": part.stop}
                assert torch.equal(images.part(3, count=4, crop=64, **place), wanted[0])
            assert torch.equal(images.batch(1, count=2, crop=64),
                               pairs.batch(1, count=2, crop=64)[0])  # fmt: skip


@pytest.mark.parametrize("first", [0, 5])
def test_groups_are_foreseen_in_the_order_in_which_they_are_made(first: int) -> None:
    made: list[int] = []

    def make(number: int) -> GeneratedGroup:
        made.append(number)
        empty = torch.zeros(3, 1)
        return GeneratedGroup(empty, empty, empty)

    pool = GeneratedPool(make, GenerationConfig(window=4, group=3, renew_every=2, steps=1))
    plan = StageParts(settings(steps=12, batch=2, accumulation=2), one_process(1, 2), first)
    foreseen = pool.groups_of(plan)
    for place in range(len(plan)):
        pool.pick(plan[place])
    assert [part.step for part in foreseen] == made and len(made) > 4
    assert {(part.count, part.start, part.stop) for part in foreseen} == {(3, 0, 3)}
