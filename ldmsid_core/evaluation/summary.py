"""An evaluation as numbers: everything that a report, a CSV or a JSON file says."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from .bootstrap import LEVEL, SEED
from .report_sheet import Sheet
from .ruler import Ruler
from .scores import Scores

_FEW_SCENES = 20


@dataclass(frozen=True)
class Evaluation:
    """A finished comparison.

    Attributes:
        title: What was compared.
        scores: All rows.
        ruler: What they were measured by.
        notes: What a reader must know: missing files, failures, how routes were made.
        settings: Plain JSON values.
        sheets: Pictures to look at.
    """

    title: str
    scores: Scores
    ruler: Ruler
    notes: tuple[str, ...]
    settings: dict[str, Any]
    sheets: tuple[Sheet, ...] = ()

    def all_notes(self) -> list[str]:
        """The notes, and which images are left out of means because a route lacks them."""
        common = {row.case for row in self.scores.common}
        left_out = [case[0] for case in self.scores.cases if case not in common]
        notes = list(self.notes)
        if left_out:
            notes.append(
                f"means: {len(left_out)} of {len(self.scores.cases)} pictures are left out, since "
                f"not every route has them: {', '.join(dict.fromkeys(left_out))}"
            )
        scenes = len({row.scene for row in self.scores.common})
        if scenes < _FEW_SCENES:
            notes.append(
                f"intervals: scenes drawn from are {scenes}; from so few the intervals are too "
                "narrow, read them as a spread only"
            )
        for metric in self.ruler.metrics:
            lacking = sum(row.values[metric.key] is None for row in self.scores.rows)
            if lacking:
                notes.append(
                    f"{metric.label}: not computed for {lacking} of {len(self.scores.rows)} "
                    "pictures, which are too small for it"
                )
        return notes


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Means with intervals, differences, notes and definitions as plain JSON values."""
    scores, metrics = evaluation.scores, evaluation.ruler.metrics
    parts: dict[str, Any] = {}
    for part in scores.parts():
        means = {
            route: {m.key: scores.mean(part, route, m.key).to_dict() for m in metrics}
            for route in scores.routes
        }
        differences = {
            f"{route} - {scores.routes[0]}": {
                m.key: scores.difference(part, route, scores.routes[0], m.key).to_dict()
                for m in metrics
            }
            for route in scores.routes[1:]
        }
        parts[part.title] = {"means": means, "differences": differences}
    return {
        "title": evaluation.title,
        "settings": evaluation.settings,
        "pictures": len(scores.cases),
        "routes": list(scores.routes),
        "metrics": {
            m.key: {
                "label": m.label,
                "better": "higher" if m.higher_is_better else "lower",
                "definition": m.definition,
            }
            for m in metrics
        },
        "absent": list(evaluation.ruler.absent),
        "notes": evaluation.all_notes(),
        "bootstrap": {"level": LEVEL, "resamples": scores.resamples, "seed": SEED, "unit": "scene"},
        "parts": parts,
    }


def summary_json(evaluation: Evaluation) -> str:
    """`summary` as text; infinities have no place in JSON and are null."""
    return json.dumps(summary(evaluation), indent=1, allow_nan=False, ensure_ascii=False)


def rows_csv(evaluation: Evaluation) -> str:
    """One line an image and route; an empty cell is a value that was not computed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [metric.key for metric in evaluation.ruler.metrics]
    writer.writerow(["image", "scene", "ratio", "group", "route", *keys])
    for row in evaluation.scores.rows:
        exposure_ratio = "" if row.exposure_ratio is None else f"{row.exposure_ratio:g}"
        values = ["" if row.values[key] is None else repr(row.values[key]) for key in keys]
        writer.writerow([row.image, row.scene, exposure_ratio, row.group or "", row.route, *values])
    return text.getvalue()


def shown(value: float | None, digits: int, *, sign: Literal["", "+"] = "") -> str:
    """A number in a table, `∞` and `nan` included; a dash for none, `+` in front if wanted."""
    if value is None:
        return "–"
    if math.isinf(value):
        return f"{'-' if value < 0 else sign}∞"
    return "nan" if math.isnan(value) else f"{value:{sign}.{digits}f}"


def summary_markdown(evaluation: Evaluation) -> str:
    """The means of every part as tables, then notes and absent metrics."""
    scores, metrics = evaluation.scores, evaluation.ruler.metrics
    lines = []
    for part in scores.parts():
        count = len({row.case for row in part.scores})
        lines += [
            f"**{part.title}** ({count} pictures)",
            "",
            "| route | " + " | ".join(metric.label for metric in metrics) + " |",
            "| --- |" + " --- |" * len(metrics),
        ]
        for route in scores.routes:
            cells = []
            for metric in metrics:
                found = scores.mean(part, route, metric.key)
                cell = shown(found.mean, metric.digits)
                if found.low is not None:
                    low, high = (shown(end, metric.digits) for end in (found.low, found.high))
                    cell += f" [{low}, {high}]"
                cells.append(cell)
            lines.append(f"| {route} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join([*lines, *evaluation.all_notes(), *evaluation.ruler.absent])
