"""Frames with known truth for the benchmarks, larger than the bundled photographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmsid_core.cli_evaluate import simulated_raw
from ldmsid_core.cli_synth import dark_counts
from ldmsid_core.raw.packed_raw import PackedRaw
from ldmsid_core.training.photographs import EVALUATION_PHOTOGRAPHS, load_photograph

RATIO, ISO = 250.0, 1600.0
Picture = NDArray[np.uint8]


def photograph_frame(height: int, width: int) -> Picture:
    """The four evaluation photographs, two by two, each scaled to a quarter: `(H, W, 3)`."""
    tall, wide = height // 2, width // 2
    quarters = [
        np.asarray(Image.fromarray(load_photograph(name)).resize((wide, tall), Image.LANCZOS))
        for name in sorted(EVALUATION_PHOTOGRAPHS)
    ]
    return np.concatenate(
        [np.concatenate(quarters[:2], axis=1), np.concatenate(quarters[2:], axis=1)], axis=0
    )


def gradient_frame(height: int, width: int) -> Picture:
    """A smooth gradient of brightness and colour: `(H, W, 3)`."""
    down, across = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    channels = [0.2 + 0.5 * across, 0.2 + 0.5 * down, 0.7 - 0.4 * across * down]
    return (np.stack(channels, axis=-1) * 255).round().astype(np.uint8)


def dark_frame(truth: Picture, name: str, *, seed: int = 0) -> PackedRaw:
    """The truth, 250 times too dark, as an A7S II at ISO 1600 would record it."""
    return simulated_raw(dark_counts(truth, ratio=RATIO, iso=ISO, seed=seed), name)
