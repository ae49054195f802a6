"""The Haar pyramid of a 4 x 1424 x 2128 float32 tensor against PyWavelets, ptwt and a copy.

Goals: three times as fast as PyWavelets on one thread, five times on two; each level within 1.5
times a copy of the same bytes into fresh memory.
"""

from __future__ import annotations

from collections.abc import Callable

import ptwt
import pywt
import torch
from measure import ratio, wall_seconds

from ldmsid_core.wavelet import LEVELS, haar_dwt2

SHAPE = (1, 4, 1424, 2128)


def pyramid(planes: torch.Tensor) -> object:
    """Three levels of ours."""
    details = []
    for _ in range(LEVELS):
        planes, detail = haar_dwt2(planes)
        details.append(detail)
    return planes, details


def level_against_copy(planes: torch.Tensor) -> tuple[float, float]:
    """One level / a copy of the same bytes, both into fresh memory."""
    return ratio(lambda: haar_dwt2(planes), planes.clone, clock=wall_seconds, pairs=21)


def main() -> None:
    """Print all ratios, wall time."""
    planes = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    array = planes.numpy()
    rivals: dict[str, Callable[[], object]] = {
        "PyWavelets": lambda: pywt.wavedec2(array, "haar", level=LEVELS),
        "ptwt": lambda: ptwt.wavedec2(planes, "haar", level=LEVELS),
    }
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, rival in rivals.items():
            middle, _ = ratio(rival, lambda: pyramid(planes), clock=wall_seconds)
            print(f"{name} / ours, {threads} thread(s): {middle:.1f} times as fast")
        current = planes
        for level in range(1, LEVELS + 1):
            middle, spread = level_against_copy(current)
            print(f"level {level} / copy, {threads} thread(s): {middle:.2f} +- {spread:.2f}")
            current = haar_dwt2(current)[0]


if __name__ == "__main__":
    main()
