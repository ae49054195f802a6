"""The table that `ldmsid evaluate` prints: PSNR and SSIM by photograph, ratio and route."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class ScoreTable:
    """Scores of all routes.

    Attributes:
        rows: `photograph`, `ratio`, `route`, `psnr`, `ssim` each.
    """

    rows: list[Row]

    def routes(self) -> list[str]:
        """Route names in order of appearance."""
        return list(dict.fromkeys(row["route"] for row in self.rows))

    def ratios(self) -> list[float]:
        """Ratios in order of appearance."""
        return list(dict.fromkeys(row["ratio"] for row in self.rows))

    def mean(self, route: str, ratio: float, metric: str) -> float:
        """Mean of a metric over the photographs, each ratio by itself."""
        values = [
            row[metric] for row in self.rows if row["route"] == route and row["ratio"] == ratio
        ]
        return float(sum(values) / len(values))

    def to_markdown(self) -> str:
        """Means per ratio and route, then every photograph."""
        lines = ["| ratio | photograph | " + " | ".join(self.routes()) + " |"]
        lines.append("| --- | --- |" + " --- |" * len(self.routes()))
        for ratio in self.ratios():
            means = [
                f"**{self.mean(r, ratio, 'psnr'):.2f} / {self.mean(r, ratio, 'ssim'):.3f}**"
                for r in self.routes()
            ]
            lines.append(f"| **x{ratio:g}** | **mean** | {' | '.join(means)} |")
            lines.extend(self._photograph_lines(ratio))
        return "\n".join(lines) + "\n\nPSNR (RGB, dB) / SSIM (RGB mean)."

    def _photograph_lines(self, ratio: float) -> Iterable[str]:
        here = [row for row in self.rows if row["ratio"] == ratio]
        for name in dict.fromkeys(row["photograph"] for row in here):
            cells = {
                row["route"]: f"{row['psnr']:.2f} / {row['ssim']:.3f}"
                for row in here
                if row["photograph"] == name
            }
            yield f"| x{ratio:g} | {name} | " + " | ".join(cells[r] for r in self.routes()) + " |"
