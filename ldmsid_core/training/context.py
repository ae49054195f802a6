"""What the parts of a training run share: settings, folder, processes, data."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..hosts.host import Host
from ..taming.checkpoint import Taming
from ..taming.header import InputRecipe
from .compute import Compute
from .config import Stage, TrainingConfig
from .images import ImagePool
from .loop import DrawSheet, LossFunction, StageExtras, run_stage
from .losses import Perceptual
from .pairs import CountedImagePairs, DarkImagePairs, TrainingPairs, samples_of
from .step_log import LogName

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """Data in place of the image pool.

    Attributes:
        open: Stage -> its pairs; what they return follows from the step alone.
        recipe: What their planes have undergone, for the taming file.
    """

    open: Callable[[Stage], TrainingPairs]
    recipe: InputRecipe


@dataclass(frozen=True)
class RunOptions:
    """What a run may be told beside its configuration, without changing what it computes.

    Attributes:
        quiet: No progress bars.
        log: Written beside the CSV.
        on_cpu: Leave accelerators alone.
        refresh_latents: Generate decoder taming's latents on disk again.
    """

    quiet: bool = False
    log: LogName = "csv"
    on_cpu: bool = False
    refresh_latents: bool = False


@dataclass
class Run:
    """One training run: its settings, its folder and what it starts from."""

    config: TrainingConfig
    folder: Path
    options: RunOptions
    compute: Compute
    start_host: Host | None
    start_taming: Taming | None
    data: TrainingData | None = None
    perceptual: Perceptual | None = None

    def pool(self, place: int) -> ImagePool:
        """Clean images of the stage at a place of the list."""
        settings = self.config.pool
        return ImagePool(
            seed=self.config.seed + place,
            window=settings.window,
            side=settings.side,
            renew_every=settings.renew_every,
            photograph_share=settings.photograph_share,
        )

    def pairs(self, place: int, stage: Stage, *, stream: int) -> TrainingPairs:
        """Training pairs of a taming stage."""
        if self.data is not None:
            return self.data.open(stage)
        return self.dark_images(self.pool(place), stream=stream)

    def dark_images(self, pool: ImagePool, *, stream: int) -> DarkImagePairs:
        """Pairs made of a pool's images."""
        samples = self.config.pool.epoch_samples
        if not samples:
            return DarkImagePairs(pool, self.config.darkness, stream=stream)
        return CountedImagePairs(pool, self.config.darkness, stream=stream, samples=samples)

    def train(
        self,
        stage: Stage,
        module: nn.Module,
        loss: LossFunction,
        *,
        pairs: TrainingPairs,
        names: object = None,
        sheet: DrawSheet | None = None,
    ) -> None:
        """Run one stage.

        Args:
            stage: Its settings.
            module: What learns.
            loss: Of a part of a batch.
            pairs: Tell how long an epoch is.
            names: Asked for samples' names; None asks `pairs`.
            sheet: Draws samples.
        """
        started = time.monotonic()
        settings = stage.counted_in_steps(samples_of(pairs), self.compute.processes, stage.name)
        extras = StageExtras(names or pairs, sheet, self.options.log, self.options.quiet)
        run_stage(
            stage.name, module, loss, settings, self.folder, compute=self.compute, extras=extras
        )
        log.info("%s took %.0f s", stage.name, time.monotonic() - started)

    @property
    def recipe(self) -> InputRecipe:
        """What the planes have undergone."""
        own = InputRecipe(white_balance="as shot")
        return own if self.data is None else self.data.recipe
