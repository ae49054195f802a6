"""Batches of clean training images: a pure function of seed and step, so runs can resume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..errors import ConfigError
from .palette import FloatArray, draw_palette
from .photographs import training_photographs
from .procedural import procedural_image


class CleanImages(Protocol):
    """A source of clean images; what `batch` returns follows from its arguments alone.

    Its images may also be had in parts (`pairs.DividedImages`).
    """

    def batch(self, step: int, *, count: int, crop: int) -> Tensor:
        """The images of a step, `(count, 3, crop, crop)` sRGB, unit range."""


@dataclass(frozen=True)
class PoolConfig:
    """Where clean images come from.

    Attributes:
        window: Procedural images held at a time.
        side: Their side in pixels.
        renew_every: Steps after which the oldest is replaced.
        photograph_share: Share of crops from bundled photographs.
        encoded: Crops encoded once for the diffusion stages, a multiple of 8; 0 encodes new ones
            at each step, which UNet taming of a given host can.
        mosaic: Share of images that are put together of four crops of half the side: as much in one
            picture as a large frame shows, whose norm statistics those of a single crop are not.
        epoch_samples: Samples that count as one epoch; 0: the sequence has no end, stages count
            in steps.
    """

    window: int = 300
    side: int = 320
    renew_every: int = 4
    photograph_share: float = 0.2
    encoded: int = 1600
    mosaic: float = 0.0
    epoch_samples: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        if min(self.window, self.side, self.renew_every) < 1:
            raise ConfigError(f"Expected window, side and renew_every >= 1, found {self}.")
        if self.encoded < 0 or self.encoded % 8:
            raise ConfigError(f"Expected encoded as a multiple of 8, found {self.encoded}.")
        if self.epoch_samples < 0:
            raise ConfigError(f"Expected epoch_samples >= 0, found {self.epoch_samples}.")
        if not 0.0 <= self.photograph_share <= 1.0:
            raise ConfigError(f"Expected photograph_share in 0..1, found {self.photograph_share}.")
        if not 0.0 <= self.mosaic <= 1.0:
            raise ConfigError(f"Expected mosaic in 0..1, found {self.mosaic}.")


@dataclass(frozen=True)
class _Look:
    """How a crop is turned, flipped and tinted."""

    turns: int
    is_flipped: bool
    saturation: float
    tint: NDArray[np.float32]
    brightness: float


@dataclass(frozen=True)
class _Draw:
    """All that is random in one crop; `place` is side, top and left."""

    of_photograph: bool
    number: int
    colours: FloatArray | None
    place: tuple[int, int, int]
    look: _Look


class ImagePool:
    """A sliding window over the endless procedural sequence, with photographs beside it.

    The window moves on by one image every `renew_every` steps; what a batch holds follows
    from `(seed, step)` alone, whatever was asked before.
    """

    def __init__(
        self,
        *,
        seed: int,
        window: int,
        side: int,
        renew_every: int,
        photograph_share: float,
        mosaic: float = 0.0,
    ) -> None:
        """Load the photographs; procedural images are drawn when first needed.

        Args:
            seed: Names the sequence of images and of crops.
            window: Procedural images held at a time.
            side: Their side in pixels.
            renew_every: Steps after which the oldest is replaced by a new one.
            photograph_share: Share of crops taken from photographs, unit range.
            mosaic: Share of images made of four crops, unit range.
        """
        self._seed = seed
        self._window = window
        self._side = side
        self._renew_every = renew_every
        self._photograph_share = photograph_share
        self._mosaic = mosaic
        self._photographs = training_photographs() if photograph_share > 0 else []
        self._drawn: dict[int, NDArray[np.uint8]] = {}

    def _procedural(self, index: int, first: int) -> NDArray[np.uint8]:
        if index not in self._drawn:
            self._drawn = {i: image for i, image in self._drawn.items() if i >= first}
            self._drawn[index] = procedural_image(self._seed, index, size=self._side)
        return self._drawn[index]

    def batch(self, step: int, *, count: int, crop: int) -> Tensor:
        """Crops at random scale, turned, flipped and tinted.

        Args:
            step: Training step.
            count: Batch size.
            crop: Side of the crops in pixels, at most the pool's side.

        Returns:
            `(count, 3, crop, crop)` sRGB, unit range.
        """
        return self.part(step, count=count, crop=crop, start=0, stop=count)

    def part(self, step: int, *, count: int, crop: int, start: int, stop: int) -> Tensor:
        """Images `start` to `stop` of `batch(step, count=count, crop=crop)`; makes no others."""
        rng = np.random.default_rng((self._seed, 7, step))
        # One generator serves the batch: what comes before `start` is drawn, though not made.
        drawn = [self._draw_image(rng, step, crop) for _ in range(stop)]
        return torch.stack([self._made_image(each, step, crop) for each in drawn[start:]])

    def _draw_image(self, rng: np.random.Generator, step: int, crop: int) -> tuple[_Draw, ...]:
        """The one crop of an image, or the four of a mosaic."""
        if self._mosaic and rng.random() < self._mosaic:
            return tuple(self._draw(rng, step, crop // 2) for _ in range(4))
        return (self._draw(rng, step, crop),)

    def _made_image(self, drawn: tuple[_Draw, ...], step: int, crop: int) -> Tensor:
        if len(drawn) == 1:
            return self._made(drawn[0], step, crop)
        quarters = [self._made(each, step, crop // 2) for each in drawn]
        rows = [torch.cat(quarters[i : i + 2], dim=2) for i in (0, 2)]
        return torch.cat(rows, dim=1)

    def _draw(self, rng: np.random.Generator, step: int, crop: int) -> _Draw:
        if self._photographs and rng.random() < self._photograph_share:
            number = int(rng.integers(len(self._photographs)))
            image = self._photographs[number]
            colours = draw_palette(rng, 2) if _is_grey(image) else None
            return _Draw(True, number, colours, *_draw_crop(rng, image.shape, crop))
        first = step // self._renew_every
        number = int(rng.integers(first, first + self._window))
        return _Draw(False, number, None, *_draw_crop(rng, (self._side, self._side), crop))

    def _made(self, draw: _Draw, step: int, crop: int) -> Tensor:
        if draw.of_photograph:
            image = self._photographs[draw.number]
        else:
            image = self._procedural(draw.number, step // self._renew_every)
        if draw.colours is not None:
            image = _colourised(image, draw.colours)
        return _altered(_cropped(image, draw.place, crop), draw.look)


def _draw_crop(
    rng: np.random.Generator, size: tuple[int, ...], crop: int
) -> tuple[tuple[int, int, int], _Look]:
    """Side, top and left of a square of an image of this size, and what is done to it."""
    largest = min(size[0], size[1], 3 * crop)
    side = int(np.exp(rng.uniform(np.log(min(crop, largest)), np.log(largest))))
    top = int(rng.integers(0, size[0] - side + 1))
    left = int(rng.integers(0, size[1] - side + 1))
    look = _Look(
        turns=int(rng.integers(0, 4)),
        is_flipped=bool(rng.random() < 0.5),
        saturation=float(np.exp(rng.normal(0.0, 0.25))),
        tint=np.exp(rng.normal(0.0, 0.06, (3, 1, 1))).astype(np.float32),
        brightness=float(np.exp(rng.normal(0.0, 0.2))),
    )
    return (side, top, left), look


def _cropped(image: NDArray[np.uint8], place: tuple[int, int, int], crop: int) -> Tensor:
    side, top, left = place
    piece = torch.from_numpy(image[top : top + side, left : left + side].copy()).permute(2, 0, 1)
    unit = piece.float()[None] / 255.0
    if side != crop:
        unit = functional.interpolate(
            unit, size=(crop, crop), mode="bilinear", antialias=True, align_corners=False
        )
    return unit[0]


def _is_grey(image: NDArray[np.uint8]) -> bool:
    sample = image[::17, ::17].astype(np.int16)
    return bool(np.abs(sample[..., 0] - sample[..., 1]).max() <= 2)


def _colourised(image: NDArray[np.uint8], colours: FloatArray) -> NDArray[np.uint8]:
    """A grey photograph in two colours of a natural palette, the darker one for its shadows."""
    first, second = colours
    if first.sum() > second.sum():
        first, second = second, first
    ramp = np.linspace(0.0, 1.0, 256, dtype=np.float32)[:, None]
    table = np.clip((first * 0.3) * (1.0 - ramp) + (0.4 + 0.6 * second) * ramp, 0.0, 1.0)
    return np.asarray((table * 255.0).astype(np.uint8)[image[..., 0]])


def _altered(image: Tensor, look: _Look) -> Tensor:
    image = torch.rot90(image, look.turns, dims=(1, 2))
    if look.is_flipped:
        image = image.flip(2)
    grey = image.mean(dim=0, keepdim=True)
    image = grey + (image - grey) * look.saturation
    image = image * torch.from_numpy(look.tint) * look.brightness
    return image.clamp(0.0, 1.0)
