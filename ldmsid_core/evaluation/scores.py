"""Scores of images and routes, and their means: every mean starts from zero.

The released score script carried its sums on from one exposure ratio to the next; here each part
of the rows is selected first and then averaged, so that cannot happen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from .bootstrap import Interval, bootstrap_mean
from .defaults import RESAMPLES
from .ruler import Values


@dataclass(frozen=True)
class Score:
    """One row: a picture of one route.

    Attributes:
        image: Name of the picture.
        route: What made it.
        scene: Name of the truth; several images may share it.
        exposure_ratio: None where unknown.
        group: Named group; None where there is none.
        values: By metric; None where one could not be computed.
    """

    image: str
    route: str
    scene: str
    exposure_ratio: float | None
    group: str | None
    values: Values

    @property
    def case(self) -> tuple[str, float | None]:
        """Image and ratio: one dark picture."""
        return self.image, self.exposure_ratio


@dataclass(frozen=True)
class Part:
    """Rows that are averaged together.

    Attributes:
        title: In tables.
        scores: Rows of all routes.
    """

    title: str
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Scores:
    """All rows of an evaluation.

    Attributes:
        rows: In order of scoring.
        resamples: Of the bootstrap.
    """

    rows: tuple[Score, ...]
    resamples: int = RESAMPLES

    @cached_property
    def routes(self) -> tuple[str, ...]:
        """Route names in order of appearance."""
        return tuple(dict.fromkeys(row.route for row in self.rows))

    @cached_property
    def cases(self) -> tuple[tuple[str, float | None], ...]:
        """Dark pictures in order of appearance."""
        return tuple(dict.fromkeys(row.case for row in self.rows))

    @cached_property
    def common(self) -> tuple[Score, ...]:
        """Rows of those pictures that every route has, so that means compare like with like."""
        have = {route: {r.case for r in self.rows if r.route == route} for route in self.routes}
        return tuple(r for r in self.rows if all(r.case in cases for cases in have.values()))

    def parts(self) -> list[Part]:
        """All common rows, then those of each ratio, then those of each group."""
        parts = [Part("all", self.common)]
        known = {r.exposure_ratio for r in self.common if r.exposure_ratio is not None}
        for exposure_ratio in sorted(known):
            rows = tuple(r for r in self.common if r.exposure_ratio == exposure_ratio)
            parts.append(Part(f"x{exposure_ratio:g}", rows))
        for group in sorted({r.group for r in self.common if r.group is not None}):
            parts.append(Part(f"group {group}", tuple(r for r in self.common if r.group == group)))
        return parts

    def mean(self, part: Part, route: str, metric: str) -> Interval:
        """A route's mean of a metric over a part, each image counting once."""
        rows = [row for row in part.scores if row.route == route]
        return self._interval((row.values[metric], row.scene) for row in rows)

    def difference(self, part: Part, first: str, second: str, metric: str) -> Interval:
        """Mean of `first - second` on the same images."""
        other = {row.case: row.values[metric] for row in part.scores if row.route == second}
        pairs = []
        for row in part.scores:
            mine, theirs = row.values[metric], other.get(row.case)
            if row.route == first and mine is not None and theirs is not None:
                pairs.append((0.0 if mine == theirs else mine - theirs, row.scene))
        return self._interval(pairs)

    def _interval(self, pairs: Iterable[tuple[float | None, str]]) -> Interval:
        known = [(value, scene) for value, scene in pairs if value is not None]
        return bootstrap_mean(
            [value for value, _ in known], [scene for _, scene in known], resamples=self.resamples
        )
