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

    def exposure_ratios(self) -> list[float]:
        """Ratios in order of appearance."""
        return list(dict.fromkeys(row["ratio"] for row in self.rows))

    def mean(self, route: str, exposure_ratio: float, metric: str) -> float:
        """Mean of a metric over the photographs, each ratio by itself."""
        values = [
            row[metric]
            for row in self.rows
            if row["route"] == route and row["ratio"] == exposure_ratio
        ]
        return float(sum(values) / len(values))

    def to_markdown(self) -> str:
        """Means per ratio and route, then every photograph."""
        lines = ["| ratio | photograph | " + " | ".join(self.routes()) + " |"]
        lines.append("| --- | --- |" + " --- |" * len(self.routes()))
        for exposure_ratio in self.exposure_ratios():
            found = [
                [self.mean(route, exposure_ratio, metric) for metric in ("psnr", "ssim")]
                for route in self.routes()
            ]
            means = " | ".join(f"**{psnr:.2f} / {ssim:.3f}**" for psnr, ssim in found)
            lines.append(f"| **x{exposure_ratio:g}** | **mean** | {means} |")
            lines.extend(self._photograph_lines(exposure_ratio))
        return "\n".join(lines) + "\n\nPSNR (RGB, dB) / SSIM (RGB mean)."

    def _photograph_lines(self, exposure_ratio: float) -> Iterable[str]:
        here = [row for row in self.rows if row["ratio"] == exposure_ratio]
        for name in dict.fromkeys(row["photograph"] for row in here):
            cells = {
                row["route"]: f"{row['psnr']:.2f} / {row['ssim']:.3f}"
                for row in here
                if row["photograph"] == name
            }
            values = " | ".join(cells[route] for route in self.routes())
            yield f"| x{exposure_ratio:g} | {name} | {values} |"
