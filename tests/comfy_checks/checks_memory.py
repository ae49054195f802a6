"""Memory after many runs, in a process that has done little else."""

from __future__ import annotations

import gc

import psutil
from runner import Pack
from scene import apply, decode, ksample, scene


def check_memory_stays_level_over_thirty_runs(pack: Pack) -> None:
    s = scene(pack)

    def level(runs: int) -> int:
        """Least memory held after any of some runs; the allocator keeps more now and then."""
        held = []
        for _ in range(runs):
            bound, latent = apply(pack, s)
            samples = ksample(bound, latent, s.conditioning, steps=2)
            decode(pack, s, {**latent, "samples": samples})
            gc.collect()
            held.append(psutil.Process().memory_info().rss)
        return min(held)

    level(2)  # from the second decode on, what the bands alone determine is kept
    before = level(6)
    level(24)
    after = level(6)
    assert after < 1.02 * before, (before, after)
