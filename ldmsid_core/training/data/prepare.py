"""A dataset folder -> a folder of shards: resumable, in several processes, nothing half-written."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ...errors import DatasetError, LdmSidError, OutputError
from ...output.atomic import check_folder, refuse_existing
from .adapters import list_pairs
from .exposures import check_one_camera
from .make_shard import ShardJob, make_shard
from .pairs import Kind, SourcePair, missing_files, name_some
from .shard_format import read_shard_pairs
from .shard_index import (
    INDEX_NAME,
    ShardEntry,
    ShardIndex,
    check_shard,
    load_index,
    save_index,
)
from .sources import has_changed

# Dark RAWs of one long exposure in a shard: 16 of an A7S II take 0.4 GB.
_PAIRS = 16
_PICTURES = 4
# A process that is killed loses the shards finished since the index was last written.
_SAVE_EVERY_S = 2.0


@dataclass(frozen=True)
class PreparedSet:
    """What a run of `prepare_dataset` found and did.

    Attributes:
        index: Of the folder, complete.
        made: Shards written now.
        kept: Shards that were there, whole.
        missing: Files that the dataset lists and lacks.
        changed: Files that are no longer what their shard was made from.
    """

    index: ShardIndex
    made: int
    kept: int
    missing: list[str]
    changed: list[str]


def deal_out(pairs: Sequence[SourcePair]) -> list[tuple[SourcePair, ...]]:
    """Pairs by shard: those of one long exposure and split together, photographs in fours."""
    groups: dict[tuple[str, str], list[SourcePair]] = {}
    for pair in pairs:
        key = ("", "") if pair.short is None else (pair.long, pair.split)
        groups.setdefault(key, []).append(pair)
    dealt = []
    for key, group in groups.items():
        most = _PICTURES if key == ("", "") else _PAIRS
        dealt += [tuple(group[i : i + most]) for i in range(0, len(group), most)]
    return dealt


def _plan_digest(kind: Kind, dealt: Sequence[tuple[SourcePair, ...]]) -> str:
    plan = json.dumps([kind, [[asdict(pair) for pair in pairs] for pairs in dealt]])
    return hashlib.sha256(plan.encode()).hexdigest()


def _begin(output: Path, fresh: ShardIndex, *, overwrite: bool) -> ShardIndex:
    """The index to go on with: the one that is there, or an empty one.

    Raises:
        DatasetError: If the index there is damaged.
        OutputError: If it is of another plan and may not be replaced.
    """
    if overwrite or not (output / INDEX_NAME).exists():
        return fresh
    found = load_index(output)
    if found.plan != fresh.plan:
        raise OutputError(
            f"{output} holds shards of other pairs ({found.kind}, split {found.split}) and was "
            "kept; choose another folder with -o, or give --overwrite."
        )
    return found


def _is_to_make(job: ShardJob, entry: ShardEntry | None) -> bool:
    """Whether a shard has to be made: it is new, gone, or something it lacked has changed.

    Raises:
        DatasetError: If the shard is damaged.
    """
    if entry is None or (entry.file and not (job.output / entry.file).exists()):
        return True
    check_shard(job.output, entry, whole=True)
    return any(has_changed(job.dataset, source) for source in entry.sources if not source.sha256)


def _is_ours(path: Path) -> bool:
    """Whether a file is a shard, left by a run that was killed before its index knew."""
    try:
        read_shard_pairs(path)
    except DatasetError:
        return False
    return True


def _use_one_thread() -> None:
    """Of PyTorch, in each worker process."""
    torch.set_num_threads(1)


def _finished(jobs: Sequence[ShardJob], workers: int) -> Iterator[ShardEntry]:
    """Shards as they are finished; jobs not begun are dropped when the caller stops."""
    if workers == 1 or len(jobs) <= 1:
        yield from map(make_shard, jobs)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_use_one_thread,
    )
    try:
        for future in as_completed([pool.submit(make_shard, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise LdmSidError(
            "A worker process ended before its work was done, most often for lack of memory; run "
            "the command again with fewer --workers: finished shards are kept."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def prepare_dataset(
    folder: Path,
    output: Path,
    *,
    kind: Kind,
    split: str = "all",
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PreparedSet:
    """Make shards of a dataset, or go on where an interrupted run stopped.

    Args:
        folder: The dataset as distributed.
        output: Folder of the shards.
        kind: Layout of the dataset.
        split: Part of it.
        workers: Processes.
        overwrite: Make every shard anew; those of a set that is there are kept until the first is
            made.
        progress: Told shards done and shards in all.

    Raises:
        DatasetError: If the folder is no such dataset, all its files are missing, its RAWs come
            from several cameras, or a finished shard is damaged.
        OutputError: If the output folder holds other shards, or the disk is full.
    """
    pairs = list_pairs(folder, kind=kind, split=split)
    missing = missing_files(folder, pairs)
    if not any(set(pair.files).isdisjoint(missing) for pair in pairs):
        raise DatasetError(
            f"Expected the files of {len(pairs)} pairs in {folder}, but not one pair is there: "
            f"{len(missing)} files are missing, {name_some(missing)}."
        )
    check_folder(output)
    dealt = deal_out(pairs)
    fresh = ShardIndex(kind, split, _plan_digest(kind, dealt))
    index = _begin(output, fresh, overwrite=overwrite)
    jobs = [ShardJob(number, folder, output, part) for number, part in enumerate(dealt)]
    todo = []
    for job in jobs:
        if _is_to_make(job, index.shards.get(job.number)):
            todo.append(replace(job, replaces=overwrite or _is_ours(output / job.file)))
        progress(job.number + 1 - len(todo), len(jobs))
    kept = {n: entry for n, entry in index.shards.items() if n not in {j.number for j in todo}}
    if kind != "folder":
        _check_cameras(folder, todo, kept)
    _remove_partials(output)
    begun, left = replace(index, shards=kept), todo
    if overwrite and (output / INDEX_NAME).exists():
        begun, left = _begin_anew(todo, begun, output)
        progress(len(begun.shards), len(jobs))
    done = _make_all(left, begun, output, total=len(jobs), workers=workers, progress=progress)
    changed = [s.path for e in kept.values() for s in e.sources if has_changed(folder, s)]
    return PreparedSet(done, len(todo), len(kept), missing, list(dict.fromkeys(changed)))


def _check_cameras(folder: Path, todo: Sequence[ShardJob], kept: dict[int, ShardEntry]) -> None:
    cameras = {
        pair.raw.camera: pair.name
        for entry in kept.values() for pair in entry.pairs if pair.raw is not None
    }  # fmt: skip
    files = dict.fromkeys(file for job in todo for pair in job.pairs for file in pair.files)
    check_one_camera(folder, files, cameras)


def _remove_partials(output: Path) -> None:
    """Remove temporary files of runs that were killed."""
    for start in (".", ".."):  # two: of a shard that is itself written aside
        for path in output.glob(f"{start}shard-*.partial.safetensors"):
            path.unlink(missing_ok=True)


def _begin_anew(
    todo: list[ShardJob], index: ShardIndex, output: Path
) -> tuple[ShardIndex, list[ShardJob]]:
    """Make the first shard of a new set beside the old set, then put it in the old one's place.

    Returns:
        The new index so far, and what is still to be made.

    Raises:
        DatasetError: If nothing can be read; the old set is kept, as whenever this fails.
        OutputError: If the disk takes no shard.
    """
    entries: dict[int, ShardEntry] = {}
    for place, job in enumerate(todo):
        aside = replace(job, aside=True)
        entries[job.number] = make_shard(aside)
        if entries[job.number].file:
            refuse_existing(output / job.file, overwrite=True)
            _remove_set(output)
            os.replace(aside.path, output / job.file)
            return replace(index, shards=entries), todo[place + 1 :]
    reasons = [skip.reason for entry in entries.values() for skip in entry.skipped]
    raise DatasetError(
        f"Expected a pair that can be read in {todo[0].dataset}, found none among {len(reasons)} "
        f"({reasons[0]}); the shards in {output} were kept."
    )


def _remove_set(output: Path) -> None:
    """Remove the shards that the index names, then the index."""
    stale = []
    with suppress(DatasetError):  # a damaged index names no shards
        stale = [output / e.file for e in load_index(output).shards.values() if e.file]
    for path in (*stale, output / INDEX_NAME):
        path.unlink(missing_ok=True)


def _make_all(
    todo: Sequence[ShardJob],
    index: ShardIndex,
    output: Path,
    *,
    total: int,
    workers: int,
    progress: Callable[[int, int], None],
) -> ShardIndex:
    """Make the shards; the index is written as they come, and when the run is cut short.

    It forgets shards to be made again before they are: killed or not, it never means another file.
    """
    shards, saved = dict(index.shards), time.monotonic()
    if todo:
        save_index(output, replace(index, complete=False))
    try:
        for entry in _finished(todo, workers):
            shards[entry.number] = entry
            progress(len(shards), total)
            if time.monotonic() - saved >= _SAVE_EVERY_S:
                save_index(output, replace(index, shards=shards, complete=False))
                saved = time.monotonic()
    finally:
        done = replace(index, shards=shards, complete=len(shards) == total)
        save_index(output, done)
    return done
