"""Calibrations per ISO as plain numbers, and how to read between their rows.

Sony A7S II: published with PMN (megvii-research/PMN, Apache-2.0), counts on the camera's 14-bit
scale. Phone-like sensor: published with PMRID for the OPPO Reno 10x (megvii-research/PMRID,
Apache-2.0), counts on its 10-bit scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Row = tuple[float, ...]

# ISO: (Tukey-lambda scale, Tukey-lambda shape, row deviation, Gaussian deviation), counts.
_A7S2_LOW_GAIN: dict[float, Row] = {
    100: (0.7018, 0.1488, 0.1391, 1.0067),
    200: (0.8117, 0.0790, 0.2282, 1.2926),
    400: (1.1817, 0.0223, 0.3621, 2.0596),
    800: (1.9347, -0.0082, 0.5724, 3.5476),
    1250: (2.7084, -0.0324, 0.8177, 5.1776),
    1600: (3.2284, -0.0441, 0.9888, 6.2992),
}
_A7S2_HIGH_GAIN: dict[float, Row] = {
    2000: (1.4357, -0.0130, 0.3312, 2.6539),
    3200: (2.0418, -0.0349, 0.4454, 3.9194),
    4000: (2.4629, -0.0437, 0.5235, 4.8016),
    6400: (3.4503, -0.0752, 0.7219, 7.1164),
    10000: (5.4953, -0.0733, 1.0522, 11.2915),
    12800: (7.0383, -0.0650, 1.2750, 14.2459),
    20000: (11.0024, -0.0602, 1.8811, 22.0848),
    25600: (12.1757, -0.0909, 2.2760, 25.8530),
}
A7S2_TABLE: dict[float, Row] = {**_A7S2_LOW_GAIN, **_A7S2_HIGH_GAIN}
A7S2_GAIN_STEPS = (1600.0,)
A7S2_COUNTS_PER_ELECTRON_PER_ISO = 0.000956

# Shot gain = a * ISO + b; read variance = a * ISO**2 + b * ISO + c, counts of 959 above black.
PHONE_SHOT_GAIN = (0.0005995267, 0.00868861)
PHONE_READ_VARIANCE = (7.11772e-7, 6.514934e-4, 0.11492713)
# Our limits: the source states the law without any, and uses it around ISO 1600.
PHONE_ISO = (100.0, 6400.0)


def gain_stage(isos: Sequence[float], steps: Sequence[float], iso: float) -> list[float]:
    """The calibrated ISOs that share a gain stage with an ISO, in rising order.

    Args:
        isos: Calibrated ones.
        steps: The last ISO of each gain stage but the highest.
        iso: Any; may lie outside.

    Returns:
        Empty where the stage holds no calibrated ISO.
    """
    above = max((step for step in steps if step < iso), default=-math.inf)
    upto = min((step for step in steps if step >= iso), default=math.inf)
    return [known for known in sorted(isos) if above < known <= upto]


def read_between(table: Mapping[float, Row], steps: Sequence[float], iso: float) -> Row:
    """A row of a table, linear in log ISO between its neighbours of the same gain stage.

    In the gap beside a gain step the nearest row of the ISO's own stage is held.

    Args:
        table: ISO -> values.
        steps: The last ISO of each gain stage but the highest.
        iso: Within the table, in a stage that has a row.
    """
    isos = gain_stage(list(table), steps, iso)
    held = min(max(iso, isos[0]), isos[-1])
    upper = next(known for known in isos if known >= held)
    lower = max(known for known in isos if known <= held)
    part = 0.0 if upper == lower else math.log(held / lower) / math.log(upper / lower)
    return tuple(
        low * (1.0 - part) + high * part
        for low, high in zip(table[lower], table[upper], strict=True)
    )
