"""Real camera files of the folder named by `LDMSID_RAWS`: what must load, and as what.

`facts.json` says what a loader must report; what is refused follows from the facts alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.raws import need_raw, raw_facts, raws_folder

from ldmsid_core.errors import UnsupportedRawError
from ldmsid_core.raw.loader import load_raw

FACTS = raw_facts()
NAMES = [fact["file"] for fact in FACTS]


def _is_loadable(fact: dict[str, Any]) -> bool:
    if not fact.get("opens") or "Flat" not in fact["raw_type"]:
        return False
    if np.asarray(fact["raw_pattern"]).shape != (2, 2):
        return False
    return bool(fact["min"] < fact["max"] and fact["max"] > max(fact["black"]))


def test_raws_folder_is_there() -> None:
    if not FACTS:
        pytest.skip(f"no camera files in {raws_folder()}: set LDMSID_RAWS")
    assert any(_is_loadable(fact) for fact in FACTS)


@pytest.mark.parametrize("fact", FACTS, ids=NAMES)
def test_raws_report_what_the_facts_say(fact: dict[str, Any]) -> None:
    path = need_raw(fact["file"])
    if not _is_loadable(fact):
        with pytest.raises(UnsupportedRawError) as caught:
            load_raw(path)
        assert path.name in str(caught.value)
        return
    raw = load_raw(path)
    pattern = np.asarray(fact["raw_pattern"])
    assert raw.cfa == "".join(fact["color_desc"][i] for i in pattern.flat)
    assert list(raw.black_level) == _black_by_plane(fact)
    assert raw.white_level == fact["white"]
    assert raw.orientation == fact["flip"]
    height, width = fact["visible_shape"]
    assert tuple(raw.planes.shape) == (1, 4, height // 2, width // 2)
    _check_signal(raw.planes, fact)
    _check_white_balance(raw.white_balance, raw.white_balance_source, fact)
    assert (raw.metadata.make, raw.metadata.model) == (fact["make"], fact["model"])
    assert raw.metadata.iso == fact["iso"]
    if fact["exposure_s"] is None:
        assert raw.metadata.shutter_s is None
    else:
        assert raw.metadata.shutter_s == pytest.approx(fact["exposure_s"], rel=1e-3)


def _black_by_plane(fact: dict[str, Any]) -> list[float]:
    """Black levels, given per colour index, in the order R, G1 (on red's row), B, G2."""
    letters = [[fact["color_desc"][i] for i in row] for row in fact["raw_pattern"]]
    red_row = 0 if "R" in letters[0] else 1
    order = [(red_row, "R"), (red_row, "G"), (1 - red_row, "B"), (1 - red_row, "G")]
    return [fact["black"][fact["raw_pattern"][y][letters[y].index(c)]] for y, c in order]


def _check_signal(planes: torch.Tensor, fact: dict[str, Any]) -> None:
    values = planes.double()
    # The facts are rounded to five digits; an odd last row or column is not in the planes.
    assert float(values.mean()) == pytest.approx(fact["mean_signal"], abs=2e-4)
    assert float(values.median()) == pytest.approx(fact["median_signal"], abs=1e-3)
    over = float((values >= 1).double().mean())
    assert over == pytest.approx(fact["at_or_over_white"], abs=2e-4)


def _check_white_balance(
    found: tuple[float, float, float], source: str, fact: dict[str, Any]
) -> None:
    for name, values in (("as shot", fact["wb"]), ("daylight", fact["daylight"])):
        red, green, blue = values[:3]
        if min(red, green, blue) > 0:
            assert source == name
            assert found == pytest.approx((red / green, 1.0, blue / green), rel=1e-3)
            return
    assert (source, found) == ("none", (1.0, 1.0, 1.0))
