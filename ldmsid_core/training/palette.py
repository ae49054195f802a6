"""Colours of procedural training images: desaturated, correlated, now and then vivid.

Natural photographs hold a few related hues at low saturation; a network that is to learn
true colour from drawn images needs that statistic more than it needs shapes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def hsv_to_rgb(hue: FloatArray, saturation: FloatArray, value: FloatArray) -> FloatArray:
    """RGB of HSV colours, all in unit range.

    Args:
        hue: `(n,)`, one turn is 1; any real number wraps.
        saturation: `(n,)`, unit range.
        value: `(n,)`, unit range.

    Returns:
        `(n, 3)` unit range.
    """
    offset = np.array([0.0, 2.0 / 3.0, 1.0 / 3.0], np.float32)
    ramp = np.abs((hue[:, None] + offset) % 1.0 * 6.0 - 3.0) - 1.0
    pure = np.clip(ramp, 0.0, 1.0)
    tinted = 1.0 + saturation[:, None] * (pure - 1.0)
    return np.asarray(value[:, None] * tinted, dtype=np.float32)


def draw_palette(rng: np.random.Generator, count: int) -> FloatArray:
    """A palette of `count` related colours, `(count, 3)` unit range."""
    anchors = rng.uniform(0.0, 1.0, rng.integers(1, 4))
    if rng.random() < 0.5:  # skin, wood, earth, brick, dry grass: most of what people photograph
        anchors[0] = rng.normal(0.07, 0.035)
    spread = rng.choice([0.015, 0.04, 0.12])
    hue = rng.choice(anchors, count) + rng.normal(0.0, spread, count)
    vivid = rng.random()
    if vivid < 0.6:
        saturation = rng.beta(1.4, 3.6, count)
    elif vivid < 0.9:
        saturation = rng.beta(2.0, 2.0, count)
    else:
        saturation = rng.beta(1.0, 8.0, count)
    saturation = np.where(rng.random(count) < 0.08, rng.uniform(0.7, 1.0, count), saturation)
    value = rng.beta(rng.uniform(0.8, 2.0), rng.uniform(0.8, 2.2), count)
    return hsv_to_rgb(
        hue.astype(np.float32), saturation.astype(np.float32), value.astype(np.float32)
    )
