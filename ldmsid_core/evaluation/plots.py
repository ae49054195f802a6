"""One plot a metric: means with intervals of every route, by exposure ratio."""

from __future__ import annotations

import math
from pathlib import Path

from .ruler import Metric
from .scores import Scores

_WIDTH = 7.0
_HEIGHT = 3.2


def save_plot(path: Path, scores: Scores, metric: Metric) -> None:
    """Draw through matplotlib's Agg alone; no window, no global state.

    Args:
        path: PNG.
        scores: All rows.
        metric: To draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    parts = scores.parts()
    step = 0.8 / max(1, len(scores.routes))
    for number, route in enumerate(scores.routes):
        label: str | None = _plain(route)
        for place, part in enumerate(parts):
            found = scores.mean(part, route, metric.key)
            if found.mean is None or not math.isfinite(found.mean):
                continue
            low = found.mean if found.low is None else found.low
            high = found.mean if found.high is None else found.high
            axes.errorbar(
                place - 0.4 + step * (number + 0.5), found.mean,
                # The percentile interval need not hold the mean of few scenes.
                [[max(0.0, found.mean - low)], [max(0.0, high - found.mean)]],
                fmt="o", color=f"C{number % 10}", capsize=3,
                label=label,
            )  # fmt: skip
            label = None  # once, at the first part that is drawn
    axes.set_xticks(range(len(parts)), [_plain(part.title) for part in parts])
    axes.set_xlim(-0.5, len(parts) - 0.5)
    direction = "higher" if metric.higher_is_better else "lower"
    axes.set_ylabel(f"{metric.label} ({direction} is better)")
    axes.grid(axis="y", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, format="png", dpi=110)


def _plain(text: str) -> str:
    """Shown as it is: dollars would begin a formula, a leading underscore hides a label."""
    shown = text.replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{shown}" if shown.startswith("_") else shown
