"""What training reads: pairs of truth and dark planes, and which of them a process takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .darkness import DarknessConfig, darken
from .images import CleanImages


@dataclass(frozen=True)
class BatchPart:
    """The samples of one step's global batch that one pass computes.

    Attributes:
        step: Optimiser step.
        count: Samples of the global batch: all processes and accumulated passes together.
        start: First sample of this pass.
        stop: One past its last.
    """

    step: int
    count: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Samples of this pass."""
        return self.stop - self.start

    def cut(self, whole: Tensor) -> Tensor:
        """This pass's samples of a tensor of the global batch."""
        return whole[self.start : self.stop]


class ReadingPlan(Protocol):
    """Parts in the order in which they will be asked for; a list is one."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> BatchPart: ...


class TrainingPairs(Protocol):
    """Training data; what `batch` returns follows from its arguments alone.

    It may also be a `DividedPairs`, a `NamedPairs`, or have a length (`CountedPairs`).
    """

    def batch(self, step: int, *, count: int, crop: int) -> tuple[Tensor, Tensor]:
        """The global batch of a step.

        Args:
            step: Number of the batch.
            count: Samples.
            crop: Side in packed pixels.

        Returns:
            Truth `(count, 3, crop, crop)` sRGB unit range, and planes `(count, 4, crop, crop)`
            model range, both float32 on the CPU.
        """


@runtime_checkable
class DividedPairs(Protocol):
    """Data that can make a few samples of a batch without the others."""

    def part(
        self, step: int, *, count: int, crop: int, start: int, stop: int
    ) -> tuple[Tensor, Tensor]:
        """Samples `start` to `stop` of `batch(step, count=count, crop=crop)`."""


@runtime_checkable
class DividedImages(CleanImages, Protocol):
    """Clean images of which a few of a batch can be made without the others."""

    def part(self, step: int, *, count: int, crop: int, start: int, stop: int) -> Tensor:
        """Images `start` to `stop` of `batch(step, count=count, crop=crop)`."""


@runtime_checkable
class NamedPairs(Protocol):
    """Data whose samples have names, for messages."""

    def names(self, step: int, *, count: int) -> tuple[str, ...]:
        """One name a sample of `batch(step, count=count)`."""


@runtime_checkable
class CountedPairs(Protocol):
    """Data with an end."""

    def __len__(self) -> int:
        """Samples of one epoch."""


def pairs_of(data: TrainingPairs, part: BatchPart, *, crop: int) -> tuple[Tensor, Tensor]:
    """Truth and planes of one pass, whatever other processes take."""
    if isinstance(data, DividedPairs):
        return data.part(
            part.step, count=part.count, crop=crop, start=part.start, stop=part.stop
        )  # fmt: skip
    image, planes = data.batch(part.step, count=part.count, crop=crop)
    return part.cut(image), part.cut(planes)


def images_of(images: CleanImages, part: BatchPart, *, crop: int) -> Tensor:
    """Clean images of one pass, whatever other processes take."""
    if isinstance(images, DividedImages):
        return images.part(
            part.step, count=part.count, crop=crop, start=part.start, stop=part.stop
        )  # fmt: skip
    return part.cut(images.batch(part.step, count=part.count, crop=crop))


def names_of(data: object, part: BatchPart) -> tuple[str, ...]:
    """Names of one pass's samples; empty where the data give none."""
    if not isinstance(data, NamedPairs):
        return ()
    return tuple(data.names(part.step, count=part.count)[part.start : part.stop])


def samples_of(data: object) -> int | None:
    """Samples of one epoch; None where the data have no end."""
    return len(data) if isinstance(data, CountedPairs) else None


class DarkImagePairs:
    """Clean crops of an image pool with simulated dark RAWs of them.

    It is no `DividedPairs`: the photons of a batch come from one generator, which takes as many
    numbers for a pixel as its light wants, so a sample's noise follows from all images before it.
    """

    def __init__(
        self,
        pool: CleanImages,
        darkness: DarknessConfig,
        *,
        stream: int,
        clip: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """Keep the recipe.

        Args:
            pool: Source of clean images.
            darkness: What dark RAWs are drawn.
            stream: Tells the random numbers of this use of the pool from those of others.
            clip: Range that amplified planes keep.
        """
        self.pool = pool
        self._darkness, self._stream, self._clip = darkness, stream, clip

    def batch(self, step: int, *, count: int, crop: int) -> tuple[Tensor, Tensor]:
        """As `TrainingPairs`."""
        image = self.pool.batch(step, count=count, crop=crop)
        return image, self.darkened(image, step)

    def darkened(self, image: Tensor, step: int) -> Tensor:
        """Planes of the dark RAWs of a step's images."""
        return darken(image, self._darkness, seed=(step, self._stream), clip=self._clip)


class CountedImagePairs(DarkImagePairs):
    """The same, where so many samples of the endless sequence count as one epoch."""

    def __init__(
        self,
        pool: CleanImages,
        darkness: DarknessConfig,
        *,
        stream: int,
        samples: int,
        clip: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """As `DarkImagePairs`; `samples` is the length of an epoch."""
        super().__init__(pool, darkness, stream=stream, clip=clip)
        self._samples = samples

    def __len__(self) -> int:
        """Samples of one epoch."""
        return self._samples


def drawn_noise(shape: tuple[int, ...], generator: torch.Generator, part: BatchPart) -> Tensor:
    """Normal noise of one pass's samples, drawn for the global batch; `shape` is of a sample."""
    return part.cut(torch.randn((part.count, *shape), generator=generator))
