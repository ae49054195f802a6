"""Waiting for data over all time of training steps (goal: at most 0.05).

Shards of the size of Sony A7S II frames are made in a temporary folder and read as training reads
them, from the file cache of the system. A step is simulated by sleeping, as a program sleeps while
its GPU works. Beside it stands what one batch costs without threads, in units of a step.

`--short` takes small frames and short steps. `--step` is a step's time: set your own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ldmsid_core.training.data.paired_crops import PairedCrops
from ldmsid_core.training.data.prefetch import Prefetcher
from ldmsid_core.training.data.shard_format import RawFacts, ShardPair, write_shard
from ldmsid_core.training.data.shard_index import ShardEntry, ShardIndex, save_index
from ldmsid_core.weight_file import sha256_of

GOAL = 0.05
FACTS = RawFacts(
    "RGGB", (512.0,) * 4, 16383.0, (2.05, 1.0, 1.65), "as shot", (), "SONY ILCE-7SM2", 1600.0, 0.04
)


def make_shards(folder: Path, *, shards: int, pairs: int, height: int, width: int) -> None:
    """Shards of random counts and truths: what they show costs nothing."""
    rng = np.random.default_rng(0)
    entries = {}
    for number in range(shards):
        tensors = {"truth.0": rng.integers(0, 256, (3, height, width), dtype=np.uint8)}
        held = []
        for shot in range(pairs):
            counts = rng.integers(500, 600, (4, height, width), dtype=np.uint16)
            tensors[f"planes.{shot}"] = counts
            name = f"{number}-{shot}"
            held.append(
                ShardPair(name, name, "truth.0", height, width, f"planes.{shot}", 250.0, raw=FACTS)
            )
        path = folder / f"shard-{number:05d}.safetensors"
        write_shard(path, tensors, tuple(held), overwrite=False)
        entries[number] = ShardEntry(
            number, path.name, path.stat().st_size, sha256_of(path), tuple(held)
        )
    save_index(folder, ShardIndex("sid", "all", "benchmark", True, entries))


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="small frames, a few seconds")
    parser.add_argument("--step", type=float, default=None, help="seconds of a step")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    height, width, crop, steps = (512, 640, 256, 20) if chosen.short else (1424, 2128, 512, 40)
    step_s = chosen.step or (0.1 if chosen.short else 0.5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shards(folder, shards=4, pairs=4, height=height, width=width)
        crops = PairedCrops(folder, seed=0)
        alone = time.perf_counter()
        for step in range(5):
            crops.batch(step, count=6, crop=crop)
        alone = (time.perf_counter() - alone) / 5
        with Prefetcher(
            lambda step: crops.batch(step, count=6, crop=crop),
            start=0, stop=steps, threads=chosen.threads,
        ) as batches:  # fmt: skip
            for _ in batches:
                time.sleep(step_s)
            share = batches.waited_share
    print(
        f"6 crops of {crop} from {width}x{height}, steps of {step_s:g} s, {chosen.threads} threads"
    )
    print(f"waiting / all time        {share:.3f}  (goal <= {GOAL})")
    print(f"one batch alone / step    {alone / step_s:.3f}")


if __name__ == "__main__":
    main()
