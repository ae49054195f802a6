"""What the parts of a training run share: settings, folder, processes, data."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..hosts.host import Host
from ..taming.checkpoint import Taming
from ..taming.header import InputRecipe
from .ahead import Ahead, ImagesAhead, PairsAhead, StageParts
from .compute import Compute
from .config import Stage, TrainingConfig
from .data.skips import LeftOut
from .generated import GeneratedPool
from .images import CleanImages, ImagePool
from .loop import DrawSheet, LossFunction, StageExtras, run_stage
from .losses import Perceptual
from .pairs import CountedImagePairs, DarkImagePairs, ReadingPlan, TrainingPairs, samples_of
from .step_log import LogName

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """Data in place of the image pool.

    Attributes:
        open: Taming stage -> its pairs; what they return follows from the step alone.
        recipe: What their planes have undergone, for the taming file.
        images: Stage of the host -> its clean images; None takes the pool's.
        threads: That may ask for batches at once, ahead of the stage; 0 has none made ahead.
        left_out: What could not be read so far.
    """

    open: Callable[[Stage], TrainingPairs]
    recipe: InputRecipe
    images: Callable[[Stage], CleanImages] | None = None
    threads: int = 0
    left_out: Callable[[], LeftOut] = LeftOut


@dataclass(frozen=True)
class RunOptions:
    """What a run may be told beside its configuration, without changing what it computes.

    Attributes:
        quiet: No progress bars.
        log: Written beside the CSV.
        on_cpu: Leave accelerators alone.
        refresh_latents: Generate decoder taming's latents on disk again.
        loaders: Threads that read data from files ahead; None takes two.
    """

    quiet: bool = False
    log: LogName = "csv"
    on_cpu: bool = False
    refresh_latents: bool = False
    loaders: int | None = None


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
            mosaic=settings.mosaic,
        )

    def pairs(self, place: int, stage: Stage, *, stream: int) -> TrainingPairs:
        """Training pairs of a taming stage."""
        if self.data is not None:
            return self.data.open(stage)
        return self.dark_images(self.pool(place), stream=stream)

    def images(self, place: int, stage: Stage) -> CleanImages:
        """Clean images of a stage of the host."""
        if self.data is not None and self.data.images is not None:
            return self.data.images(stage)
        return self.pool(place)

    def counted(self, images: CleanImages) -> object:
        """What tells how long an epoch of clean images is."""
        return self.dark_images(images, stream=0) if isinstance(images, ImagePool) else images

    def pairs_ahead(self, pairs: TrainingPairs, stage: Stage) -> PairsAhead | None:
        """The same pairs read ahead, where their data allow it."""
        threads = 0 if self.data is None else self.data.threads
        return PairsAhead(pairs, crop=stage.crop, threads=threads) if threads else None

    def images_ahead(self, images: CleanImages, stage: Stage) -> ImagesAhead | None:
        """The same images read ahead, where their data allow it."""
        threads = 0 if self.data is None or self.data.images is None else self.data.threads
        return ImagesAhead(images, crop=stage.crop, threads=threads) if threads else None

    def dark_images(self, pool: CleanImages, *, stream: int) -> DarkImagePairs:
        """Pairs made of a pool's images."""
        samples, clip = self.config.pool.epoch_samples, self.config.clip
        if not samples:
            return DarkImagePairs(pool, self.config.darkness, stream=stream, clip=clip)
        return CountedImagePairs(
            pool, self.config.darkness, stream=stream, samples=samples, clip=clip
        )

    def train(
        self,
        stage: Stage,
        module: nn.Module,
        loss: LossFunction,
        *,
        pairs: object,
        ahead: Ahead[Any] | None = None,
        generated: GeneratedPool | None = None,
        sheet: DrawSheet | None = None,
    ) -> None:
        """Run one stage.

        Args:
            stage: Its settings.
            module: What learns.
            loss: Of a part of a batch.
            pairs: Tell how long an epoch is, and samples' names.
            ahead: Reads them while the stage computes.
            generated: What the loss sees of the pairs; knows samples' names better.
            sheet: Draws samples.
        """
        started = time.monotonic()
        settings = stage.counted_in_steps(samples_of(pairs), self.compute.processes, stage.name)

        def reading(first: int) -> AbstractContextManager[None]:
            if ahead is None:
                return nullcontext()
            parts: ReadingPlan = StageParts(settings, self.compute, first)
            plan = parts if generated is None else generated.groups_of(parts)
            return ahead.reading(plan, stage.name)

        extras = StageExtras(
            generated or pairs, sheet, self.options.log, self.options.quiet, reading
        )  # fmt: skip
        run_stage(
            stage.name, module, loss, settings, self.folder, compute=self.compute, extras=extras
        )
        log.info("%s took %.0f s", stage.name, time.monotonic() - started)

    def left_out(self) -> LeftOut:
        """What all processes could not read of their data."""
        own = LeftOut() if self.data is None else self.data.left_out()
        return LeftOut.together(self.compute.gathered(own))

    @property
    def notes(self) -> dict[str, Any]:
        """What a header says of data from files, and of the loss's perceptual term."""
        data = self.config.data
        notes: dict[str, Any] = {"data": data.kind} if data.is_from_files else {}
        if any(stage.loss.perceptual for _, stage in self.config.used_stages()):
            notes["perceptual"] = "weight-free" if self.perceptual is None else "network"
        return notes

    @property
    def recipe(self) -> InputRecipe:
        """What the planes have undergone."""
        own = InputRecipe(
            white_balance="as shot", sensor=self.config.darkness.sensor, clip=self.config.clip
        )
        return own if self.data is None else self.data.recipe
