"""Means, intervals and differences by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ldmsid_core.errors import ConfigError
from ldmsid_core.evaluation.bootstrap import bootstrap_mean
from ldmsid_core.evaluation.report import page
from ldmsid_core.evaluation.ruler import Ruler, choose_metrics
from ldmsid_core.evaluation.scores import Score, Scores
from ldmsid_core.evaluation.summary import (
    Evaluation,
    rows_csv,
    shown,
    summary_json,
    summary_markdown,
)

KEY = "psnr_rgb"


def row(
    image: str, route: str, value: float | None, *, ratio: float | None = None,
    scene: str | None = None, group: str | None = None,
) -> Score:  # fmt: skip
    return Score(image, route, scene or image, ratio, group, {KEY: value})


def evaluation(*rows: Score) -> Evaluation:
    ruler = Ruler(choose_metrics(KEY), ("LPIPS: not computed",))
    return Evaluation("Test", Scores(tuple(rows)), ruler, (), {})


def test_every_ratio_starts_from_zero() -> None:
    """Sums carried on would make 40 and 45 of the means 10 and 5 of the later ratios."""
    rows = [row("a", "m", 20.0, ratio=100.0), row("b", "m", 30.0, ratio=100.0),
            row("a", "m", 10.0, ratio=250.0), row("b", "m", 10.0, ratio=250.0),
            row("a", "m", 5.0, ratio=300.0)]  # fmt: skip
    scores = Scores(tuple(rows))
    means = {part.title: scores.mean(part, "m", KEY) for part in scores.parts()}
    assert {title: found.mean for title, found in means.items()} == {
        "all": 15.0, "x100": 25.0, "x250": 10.0, "x300": 5.0,
    }  # fmt: skip
    assert {title: found.count for title, found in means.items()} == {
        "all": 5, "x100": 2, "x250": 2, "x300": 1,
    }  # fmt: skip


def test_the_overall_mean_is_over_images_not_over_means_of_ratios() -> None:
    rows = [row(f"i{n}", "m", 10.0, ratio=100.0) for n in range(9)] + [
        row("j", "m", 20.0, ratio=300.0)
    ]
    scores = Scores(tuple(rows))
    assert scores.mean(scores.parts()[0], "m", KEY).mean == pytest.approx(11.0)


@pytest.mark.parametrize(
    ("value", "sign", "wanted"),
    [
        (1.234, "", "1.23"), (1.234, "+", "+1.23"), (-1.234, "+", "-1.23"), (None, "+", "–"),
        (math.inf, "", "∞"), (math.inf, "+", "+∞"), (-math.inf, "", "-∞"), (-math.inf, "+", "-∞"),
        (math.nan, "", "nan"), (math.nan, "+", "nan"),
    ],
)  # fmt: skip
def test_numbers_in_tables(value: float | None, sign: Any, wanted: str) -> None:
    assert shown(value, 2, sign=sign) == wanted


def test_nan_is_never_the_best_and_is_said() -> None:
    (metric,) = choose_metrics(KEY)
    lower = replace(metric, higher_is_better=False)
    for values in ((math.nan, 1.0, None, 2.0), (1.0, 2.0, math.nan), (2.0, math.nan, 1.0)):
        assert (metric.better(values), lower.better(values)) == (2.0, 1.0)
    assert metric.better((math.inf, math.nan, 1.0)) == math.inf
    assert math.isnan(metric.better((None, math.nan)) or 0.0)
    scores = evaluation(row("a", "m", math.nan), row("a", "n", math.inf))
    assert "| m | nan |" in summary_markdown(scores)
    words = page(scores)
    assert "<td>nan</td>" in words and "<td><b>∞</b></td>" in words
    lost = page(evaluation(row("a", "m", math.inf), row("a", "n", 3.0)))
    assert "<td>-∞</td>" in lost and "inf" not in lost.split("Differences")[1].split("<h2>")[0]


def test_groups_are_parts_of_their_own() -> None:
    scores = Scores((row("a", "m", 1.0, group="night"), row("b", "m", 3.0, group="day"),
                     row("c", "m", 5.0)))  # fmt: skip
    means = {part.title: scores.mean(part, "m", KEY).mean for part in scores.parts()}
    assert means == {"all": 3.0, "group day": 3.0, "group night": 1.0}


def test_means_compare_only_pictures_that_every_route_has() -> None:
    found = evaluation(
        row("easy", "A", 30.0), row("hard", "A", 10.0), row("easy", "B", 28.0),
    )  # fmt: skip
    part = found.scores.parts()[0]
    assert found.scores.mean(part, "A", KEY).mean == 30.0
    assert "1 of 2 pictures are left out" in found.all_notes()[0]
    assert found.all_notes()[0].endswith("hard")
    assert "hard,hard,,,A,10.0" in rows_csv(found)


def test_paired_difference_by_hand_and_narrower_than_the_means() -> None:
    levels = np.random.default_rng(0).uniform(10, 40, 30)
    rows = []
    for number, level in enumerate(levels):
        rows += [row(f"i{number}", "A", float(level)),
                 row(f"i{number}", "B", float(level) + 1.0 + 0.1 * (number % 2))]  # fmt: skip
    scores = Scores(tuple(rows))
    part = scores.parts()[0]
    found = scores.difference(part, "B", "A", KEY)
    assert found.mean == pytest.approx(1.05) and found.count == 30 and found.excludes_zero
    assert found.low is not None and found.high is not None and 1.0 < found.low < found.high < 1.1
    alone = scores.mean(part, "B", KEY)
    assert alone.low is not None and alone.high is not None and alone.high - alone.low > 3
    back = scores.difference(part, "A", "B", KEY)
    assert back.mean == pytest.approx(-1.05) and back.low == pytest.approx(-found.high)


def test_two_perfect_routes_differ_by_nothing() -> None:
    scores = Scores((row("a", "A", math.inf), row("a", "B", math.inf)))
    assert scores.difference(scores.parts()[0], "A", "B", KEY).mean == 0.0


def test_interval_covers_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    scenes = [str(n) for n in range(40)]
    hits = 0
    for trial in range(200):
        found = bootstrap_mean(
            random.normal(5.0, 2.0, 40).tolist(), scenes, resamples=400, seed=trial
        )
        assert found.low is not None and found.high is not None
        hits += found.low <= 5.0 <= found.high
    # Of 200 trials at 95 %: 190 +- 3; percentile intervals of 40 values cover a little less.
    assert 178 <= hits <= 199


def test_interval_is_seeded_and_matches_the_normal_law() -> None:
    values = np.random.default_rng(2).normal(0, 1, 400)
    scenes = [str(n) for n in range(400)]
    first, again = (bootstrap_mean(values.tolist(), scenes) for _ in range(2))
    assert first == again != bootstrap_mean(values.tolist(), scenes, seed=1)
    assert first.low is not None and first.high is not None
    # 2 * 1.96 * s / 20; 2000 draws know the ends to some percent.
    assert first.high - first.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_frames_of_one_scene_count_as_one_draw() -> None:
    """Ten copies of each frame tell nothing new, so the interval must not shrink."""
    values = np.random.default_rng(3).normal(0, 1, 20).tolist()
    once = bootstrap_mean(values, [str(n) for n in range(20)])
    copies = bootstrap_mean(values * 10, [str(n) for n in range(20)] * 10)
    assert copies.count == 200 and copies.scenes == 20
    assert copies.low == pytest.approx(once.low) and copies.high == pytest.approx(once.high)


def test_no_interval_of_one_scene_or_of_infinities() -> None:
    alone = bootstrap_mean([1.0, 3.0], ["s", "s"])
    assert (alone.mean, alone.low, alone.count, alone.scenes) == (2.0, None, 2, 1)
    assert bootstrap_mean([math.inf, 1.0], ["a", "b"]).low is None
    assert bootstrap_mean([], []).mean is None
    with pytest.raises(ConfigError, match="at least 100"):
        bootstrap_mean([1.0], ["a"], resamples=10)


def test_summary_is_strict_json_and_says_what_is_absent() -> None:
    found = evaluation(row("a", "A", math.inf), row("b", "A", 20.0), row("a", "B", None),
                       row("b", "B", 21.0))  # fmt: skip
    said = json.loads(summary_json(found), parse_constant=lambda name: pytest.fail(name))
    assert said["absent"] == ["LPIPS: not computed"]
    assert said["parts"]["all"]["means"]["A"][KEY]["mean"] is None
    assert said["parts"]["all"]["means"]["B"][KEY] == {
        "mean": 21.0, "low": None, "high": None, "count": 1, "scenes": 1,
    }  # fmt: skip
    assert said["parts"]["all"]["differences"]["B - A"][KEY]["mean"] == 1.0
    assert any("not computed for 1 of 4" in note for note in said["notes"])
    text = summary_markdown(found)
    assert "LPIPS: not computed" in text and "| A | ∞ |" in text


def test_csv_has_one_row_an_image_and_route() -> None:
    found = evaluation(row("a, b", "A", 1.25, ratio=100.0, scene="s", group="g"),
                       row("a, b", "B", None, ratio=100.0, scene="s", group="g"))  # fmt: skip
    assert rows_csv(found).splitlines() == [
        "image,scene,ratio,group,route,psnr_rgb",
        '"a, b",s,100,g,A,1.25',
        '"a, b",s,100,g,B,',
    ]
