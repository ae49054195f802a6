"""A folder that shows an evaluation: `index.html`, plots and sheets beside it, nothing remote."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Literal

from PIL import Image

from ..output.atomic import check_folder, refuse_existing, written_atomically
from .bootstrap import LEVEL, Interval
from .plots import save_plot
from .report_sheet import Sheet
from .ruler import Metric
from .scores import Part, Scores
from .summary import Evaluation, rows_csv, shown, summary_json

INDEX, ROWS, SUMMARY = "index.html", "per_image.csv", "summary.json"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
th, td { border: 1px solid #bbb; padding: .25rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
small { color: #555; white-space: nowrap; }
.wide { overflow-x: auto; }
img { max-width: 100%; }
figure { margin: 1rem 0 2rem; }
"""


def check_report(
    folder: Path, metrics: tuple[Metric, ...], sheets: int, *, overwrite: bool
) -> None:
    """See that a report can be written, before long work starts.

    Args:
        folder: Where.
        metrics: That get plots.
        sheets: How many it will have.
        overwrite: Whether older files may be replaced.

    Raises:
        OutputError: If one is there and may not be replaced, or the folder takes no files.
    """
    names = [INDEX, ROWS, SUMMARY, *(_plot_name(metric) for metric in metrics)]
    for name in (*names, *(_sheet_name(number) for number in range(sheets))):
        refuse_existing(folder / name, overwrite=overwrite)
    check_folder(folder)


def write_report(folder: Path, evaluation: Evaluation, *, overwrite: bool = False) -> None:
    """Write page, plots, sheets, `per_image.csv` and `summary.json`; the page comes last.

    Raises:
        OutputError: If a file exists and may not be replaced, or cannot be written.
    """
    for metric in evaluation.ruler.metrics:
        with written_atomically(folder / _plot_name(metric), overwrite=overwrite) as partial:
            save_plot(partial, evaluation.scores, metric)
    for number, sheet in enumerate(evaluation.sheets):
        with written_atomically(folder / _sheet_name(number), overwrite=overwrite) as partial:
            Image.fromarray(sheet.pixels).save(partial)
    for name, text in (
        (ROWS, rows_csv(evaluation)),
        (SUMMARY, summary_json(evaluation)),
        (INDEX, page(evaluation)),
    ):
        with written_atomically(folder / name, overwrite=overwrite) as partial:
            partial.write_text(text, encoding="utf-8")


def _plot_name(metric: Metric) -> str:
    return f"plots/{metric.key}.png"


def _sheet_name(number: int) -> str:
    return f"sheets/{number + 1:04d}.png"


def _escaped(text: object) -> str:
    return html.escape(str(text), quote=True)


def page(evaluation: Evaluation) -> str:
    """The whole page; every name in it is escaped."""
    scores, title = evaluation.scores, _escaped(evaluation.title)
    body = [
        f"<h1>{title}</h1>",
        f"<p>{len(scores.cases)} pictures, {len(scores.routes)} routes. "
        f'<a href="{ROWS}">Every picture as CSV</a>, '
        f'<a href="{SUMMARY}">all means as JSON</a>.</p>',
        _listed("What this report lacks, and what to know", [
            *evaluation.ruler.absent, *evaluation.all_notes(),
        ]),
        "<h2>Means</h2>",
        f"<p>Each row of a table starts from zero and counts every picture once. In brackets: "
        f"{LEVEL:.0%} percentile bootstrap interval over scenes, {scores.resamples} draws; none "
        "where there are fewer than two scenes. Bold: best mean.</p>",
        *(_means(evaluation, part) for part in scores.parts()),
        *_difference_tables(evaluation),
        "<h2>Plots</h2>",
        *(
            f'<figure><img src="{_plot_name(metric)}" alt="{_escaped(metric.label)} by ratio and '
            'route"></figure>'
            for metric in evaluation.ruler.metrics
        ),
        *_sheets(evaluation),
        "<h2>Definitions</h2>",
        _definitions(evaluation.ruler.metrics),
        _listed("Settings", [f"{k}: {v}" for k, v in evaluation.settings.items()]),
    ]  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _listed(title: str, texts: list[str]) -> str:
    if not texts:
        return ""
    items = "\n".join(f"<li>{_escaped(text)}</li>" for text in texts)
    return f"<h2>{_escaped(title)}</h2>\n<ul>\n{items}\n</ul>"


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Cells are HTML already."""
    lines = ["".join(f"<th>{cell}</th>" for cell in head)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>\n{body}\n</table></div>'


def _cell(found: Interval, digits: int, *, is_bold: bool, sign: Literal["", "+"] = "") -> str:
    if found.mean is None:
        return "–"
    text = shown(found.mean, digits, sign=sign)
    if found.low is not None:
        low, high = (shown(end, digits) for end in (found.low, found.high))
        text = f"{'<b>' + text + '</b>' if is_bold else text} <small>[{low}, {high}]</small>"
    elif is_bold:
        text = f"<b>{text}</b>"
    return text


def _means(evaluation: Evaluation, part: Part) -> str:
    scores, metrics = evaluation.scores, evaluation.ruler.metrics
    found = {
        (route, metric.key): scores.mean(part, route, metric.key)
        for route in scores.routes
        for metric in metrics
    }
    best = {m.key: m.better(found[route, m.key].mean for route in scores.routes) for m in metrics}
    rows = [
        [_escaped(route), *(
            _cell(found[route, m.key], m.digits,
                  is_bold=len(scores.routes) > 1 and found[route, m.key].mean == best[m.key])
            for m in metrics
        )]
        for route in scores.routes
    ]  # fmt: skip
    count = len({row.case for row in part.scores})
    return f"<h3>{_escaped(part.title)}: {count} pictures</h3>\n" + _table(_head(metrics), rows)


def _head(metrics: tuple[Metric, ...]) -> list[str]:
    return [
        "route",
        *(f"{_escaped(m.label)} {'↑' if m.higher_is_better else '↓'}" for m in metrics),
    ]


def _difference_tables(evaluation: Evaluation) -> list[str]:
    scores = evaluation.scores
    if len(scores.routes) < 2:
        return []
    reference = _escaped(scores.routes[0])
    return [
        "<h2>Differences on the same pictures</h2>",
        f"<p>Route minus {reference}, paired by picture. Bold: the interval of at least six "
        "scenes leaves out zero; elsewhere the data do not tell the two apart.</p>",
        *(_differences(scores, part, evaluation.ruler.metrics) for part in scores.parts()),
    ]


def _differences(scores: Scores, part: Part, metrics: tuple[Metric, ...]) -> str:
    rows = []
    for route in scores.routes[1:]:
        found = [scores.difference(part, route, scores.routes[0], m.key) for m in metrics]
        cells = [
            _cell(interval, metric.digits, is_bold=interval.excludes_zero, sign="+")
            for interval, metric in zip(found, metrics, strict=True)
        ]
        rows.append([_escaped(route), *cells])
    return f"<h3>{_escaped(part.title)}</h3>\n" + _table(_head(metrics), rows)


def _sheets(evaluation: Evaluation) -> list[str]:
    if not evaluation.sheets:
        return []
    total = len(evaluation.scores.cases)
    return [
        "<h2>Side by side</h2>",
        f"<p>{len(evaluation.sheets)} of {total} pictures, spread evenly over the list. Above the "
        "whole picture scaled, below its middle pixel by pixel.</p>",
        *(_figure(sheet, number) for number, sheet in enumerate(evaluation.sheets)),
    ]


def _figure(sheet: Sheet, number: int) -> str:
    exposure_ratio = "" if sheet.exposure_ratio is None else f", x{sheet.exposure_ratio:g}"
    caption = f"{_escaped(sheet.image)}{exposure_ratio}: {_escaped(' | '.join(sheet.columns))}"
    return (
        f'<figure><img src="{_sheet_name(number)}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _definitions(metrics: tuple[Metric, ...]) -> str:
    return (
        "<dl>\n"
        + "\n".join(
            f"<dt><b>{_escaped(m.label)}</b> <code>{m.key}</code></dt>"
            f"<dd>{_escaped(m.definition)}</dd>"
            for m in metrics
        )
        + "\n</dl>"
    )
