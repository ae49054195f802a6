"""What every kind of `ldmsid evaluate` shares: how pictures are measured and reported."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .evaluation.defaults import RESAMPLES, SHEETS
from .evaluation.learned import LearnedFiles, build_ruler
from .evaluation.metrics import FloatImage
from .evaluation.pairing import Pair
from .evaluation.report import check_report, write_report
from .evaluation.report_sheet import Sheet, build_sheet, chosen_sheets
from .evaluation.ruler import Ruler
from .evaluation.scores import Score, Scores
from .evaluation.summary import Evaluation


@dataclass(frozen=True)
class MeasureOptions:
    """Options of measuring and reporting.

    Attributes:
        output: Folder of the report; None writes none.
        metrics: Comma-separated weight-free metrics; None is all.
        lpips_weights: File for LPIPS.
        clip_folder: Folder for CLIP-IQA.
        nima_weights: File for NIMA.
        resamples: Of the bootstrap.
        sheets: At most so many sheets.
        overwrite: Replace an older report.
        quiet: No progress bar.
    """

    output: Path | None = None
    metrics: str | None = None
    lpips_weights: Path | None = None
    clip_folder: Path | None = None
    nima_weights: Path | None = None
    resamples: int = RESAMPLES
    sheets: int = SHEETS
    overwrite: bool = False
    quiet: bool = False


@dataclass
class Measuring:
    """An evaluation under way.

    Attributes:
        options: Of the command.
        ruler: Metrics, and those that are absent.
        count: Dark pictures to come.
        rows: Scores so far.
        notes: What a reader must know.
    """

    options: MeasureOptions
    ruler: Ruler
    count: int
    rows: list[Score] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _sheets: list[Sheet] = field(default_factory=list)
    _seen: int = 0

    @classmethod
    def begin(cls, options: MeasureOptions, count: int) -> Measuring:
        """Load weight files and see that the report can be written.

        Raises:
            ConfigError: If a metric is unknown.
            CheckpointError: If a weight file is of another layout.
            OutputError: If a report is there and may not be replaced.
        """
        ruler = build_ruler(options.metrics, LearnedFiles(
            options.lpips_weights, options.clip_folder, options.nima_weights,
        ))  # fmt: skip
        if options.output is not None:
            shown = len(chosen_sheets(count, options.sheets))
            check_report(options.output, ruler.metrics, shown, overwrite=options.overwrite)
        return cls(options, ruler, count)

    def add(self, pair: Pair, routes: dict[str, list[FloatImage]], truth: FloatImage) -> None:
        """Score all routes of one dark picture; of several pictures the best of each metric.

        Args:
            pair: Which one.
            routes: Pictures by route, `(H, W, 3)` unit range.
            truth: The same shape.
        """
        self.rows += [
            Score(pair.image, route, pair.truth.stem, pair.exposure_ratio, pair.group,
                  self.ruler.measure(found, truth))
            for route, found in routes.items()
        ]  # fmt: skip
        wanted = self.options.output is not None
        if wanted and self._seen in chosen_sheets(self.count, self.options.sheets):
            middle = {route: found[len(found) // 2] for route, found in routes.items()}
            self._sheets.append(build_sheet(pair.image, pair.exposure_ratio, middle, truth))
        self._seen += 1

    def finish(self, title: str, settings: dict[str, Any]) -> Evaluation:
        """Put everything together and write the report, where one is wanted.

        Raises:
            ConfigError: If no picture was scored, or none by all routes.
            OutputError: If it cannot be written.
        """
        scores = Scores(tuple(self.rows), self.options.resamples)
        if not scores.common:
            raise ConfigError(
                "Expected at least one picture that every route has, found none: "
                f"{'; '.join(self.notes) or 'nothing was scored'}."
            )
        notes, sheets = tuple(self.notes), tuple(self._sheets)
        evaluation = Evaluation(title, scores, self.ruler, notes, settings, sheets)
        if self.options.output is not None:
            write_report(self.options.output, evaluation, overwrite=self.options.overwrite)
        return evaluation
