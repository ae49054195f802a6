"""Batches of crops from shards of pairs: a pure function of seed and step, so runs can resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ConfigError, DatasetError
from ...raw.cfa import CfaPattern
from ...raw.packing import network_planes, normalise
from ...taming.header import InputRecipe
from .bayer_flips import check_flips, flip_planes, flip_truth, spare_cells
from .pairs import MISALIGNED
from .shard_format import RawFacts, ShardPair, Window, read_window
from .shard_index import Skipped, load_complete_index
from .skips import ATTEMPTS, SkipList

# Streams of random numbers of one seed: crops, order of an epoch.
_CROPS, _ORDER = 11, 12


@dataclass(frozen=True)
class PairedBatch:
    """What a training step takes.

    Attributes:
        planes: `(B, 4, c, c)` in model range: white balance by the recipe, amplified, clipped.
        truth: `(B, 3, c, c)` sRGB, unit range.
        exposure_ratios: `(B,)`.
        names: Of the dark RAWs.
    """

    planes: Tensor
    truth: Tensor
    exposure_ratios: Tensor
    names: tuple[str, ...]


class PairedCrops:
    """Crops of dark RAWs with the truth of the same place.

    Each epoch goes through all pairs once, in an order of its own. What a batch holds follows from
    `(seed, step, count, crop)` and the shards alone, whatever was asked before; several threads
    may ask at once.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        recipe: InputRecipe = InputRecipe(),  # noqa: B008
        split: str = "train",
        flips: str = "cells",
        leave_out: Sequence[str] = (MISALIGNED,),
        whole_check: bool = False,
    ) -> None:
        """Read the index; shards are opened when a crop is.

        Args:
            folder: Shards of `ldmsid prepare`.
            seed: Names the sequence of crops.
            recipe: What the planes undergo: the white balance.
            split: Pairs of this split, or `all`.
            flips: `none`, `cells` or `bayer`: see `bayer_flips`.
            leave_out: Pairs with one of these flags are not drawn.
            whole_check: Compare every shard's checksum first, which reads all of them.

        Raises:
            DatasetError: If the folder is no finished set of pairs, is damaged, or has none left.
            ConfigError: If `flips` is unknown.
        """
        self._folder, self._seed, self._recipe = folder, seed, recipe
        self._flips = check_flips(flips)
        index = load_complete_index(folder, whole=whole_check)
        if index.kind == "folder":
            raise DatasetError(
                f"Expected pairs of RAWs in {folder}, found photographs; use them as clean images "
                "for simulated noise, or prepare a paired set."
            )
        self._pairs = [
            (file, pair, pair.raw)
            for file, pair in index.pairs
            if pair.raw is not None
            and split in ("all", pair.split)
            and not set(pair.flags) & set(leave_out)
        ]
        if not self._pairs:
            known = ", ".join(sorted({pair.split for _, pair in index.pairs})) or "none"
            raise DatasetError(
                f"Expected pairs of the split {split} in {folder}, found none without the flags "
                f"{', '.join(leave_out) or '(none)'}; splits there: {known}."
            )
        self._skips = SkipList()

    def __len__(self) -> int:
        """Pairs that are drawn from."""
        return len(self._pairs)

    @property
    def camera(self) -> str:
        """Of the dark RAWs, maker and model; empty where unknown."""
        return self._pairs[0][2].camera

    @property
    def skipped_crops(self) -> int:
        """Crops that other pairs took the place of."""
        return self._skips.count

    @property
    def skipped(self) -> list[Skipped]:
        """Pairs that could not be read so far, by name, each once; others took their places."""
        return self._skips.listed()

    def batch(self, step: int, *, count: int, crop: int) -> PairedBatch:
        """The crops of a step.

        Args:
            step: Training step.
            count: Batch size.
            crop: Side of the crops on the packed grid.

        Raises:
            ConfigError: If a pair is smaller than the crop.
            DatasetError: If too many pairs in a row cannot be read.
        """
        return self.part(step, count=count, crop=crop, start=0, stop=count)

    def part(self, step: int, *, count: int, crop: int, start: int, stop: int) -> PairedBatch:
        """Crops `start` to `stop` of `batch(step, count=count, crop=crop)`; reads no others."""
        self.check_crop(crop)
        drawn = [self._one(step, place, count, crop) for place in range(start, stop)]
        planes, truths, pairs = zip(*drawn, strict=True)
        ratios = torch.tensor([pair.exposure_ratio for pair in pairs])
        return PairedBatch(
            torch.stack(planes), torch.stack(truths), ratios, tuple(pair.name for pair in pairs)
        )

    def check_crop(self, crop: int) -> None:
        """Raise ConfigError if a pair is smaller than a crop of this side."""
        needed = crop + (self._flips == "bayer")
        for _, pair, _ in self._pairs:
            if min(pair.height, pair.width) < needed:
                raise ConfigError(
                    f"Expected crops of at most {min(pair.height, pair.width)} pixels, which is "
                    f"the smaller side of the packed planes of {pair.name}, found {crop}"
                    f"{' and one to spare for flips' if needed > crop else ''}; choose a smaller "
                    "crop."
                )

    def _one(
        self, step: int, place: int, count: int, crop: int
    ) -> tuple[Tensor, Tensor, ShardPair]:
        """One crop; pairs that cannot be read are noted and replaced, always by the same others."""
        rng = np.random.default_rng((self._seed, _CROPS, step, place))
        number = self._in_order(step * count + place)
        for _ in range(ATTEMPTS):
            file, pair, raw = self._pairs[number]
            flipped = (bool(rng.random() < 0.5), bool(rng.random() < 0.5))
            if self._flips == "none":
                flipped = (False, False)
            window = _draw_window(rng, pair, crop, spare_cells(self._flips, flipped))
            try:
                counts = read_window(self._folder / file, pair.planes, window)
                truth = read_window(self._folder / file, pair.truth, window)
            except DatasetError as error:
                self._skips.add(pair.name, error)
                number = int(rng.integers(len(self._pairs)))
                continue
            return *self._ready(counts, truth, pair, raw, flipped), pair
        raise DatasetError(
            f"Expected readable shards in {self._folder}, but {ATTEMPTS} pairs in a row could not "
            f"be read, the last {pair.name}; run `ldmsid prepare` again."
        )

    def _in_order(self, position: int) -> int:
        epoch, place = divmod(position, len(self._pairs))
        order = np.random.default_rng((self._seed, _ORDER, epoch)).permutation(len(self._pairs))
        return int(order[place])

    def _ready(
        self,
        counts: NDArray[np.uint16],
        truth: NDArray[np.uint8],
        pair: ShardPair,
        raw: RawFacts,
        flipped: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor]:
        light = normalise(
            torch.from_numpy(counts.astype(np.float32))[None],
            black_level=raw.black_level,
            white_level=raw.white_level,
        )
        as_shot = self._recipe.white_balance == "as shot"
        planes = network_planes(
            light,
            exposure_ratio=pair.exposure_ratio,
            white_balance=raw.white_balance if as_shot else (1.0, 1.0, 1.0),
            clip=self._recipe.clip,
        )[0]
        picture = torch.from_numpy(truth.astype(np.float32)) / 255.0
        cfa = cast(CfaPattern, raw.cfa)
        return (
            flip_planes(planes, flipped, flips=self._flips, cfa=cfa),
            flip_truth(picture, flipped, flips=self._flips),
        )


def _draw_window(
    rng: np.random.Generator, pair: ShardPair, crop: int, spare: tuple[int, int]
) -> Window:
    """A place on the packed grid, so that a crop keeps the phase of the filter layout."""
    height, width = crop + spare[0], crop + spare[1]
    top = int(rng.integers(0, pair.height - height + 1))
    left = int(rng.integers(0, pair.width - width + 1))
    return Window(top, left, height, width)
