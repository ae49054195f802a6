"""Clean images from a folder of photographs and RAWs, for the noise model: `ImagePool`'s way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...errors import ConfigError, DatasetError
from .shard_format import ShardPair, Window, read_window
from .shard_index import Skipped, load_complete_index
from .skips import ATTEMPTS, SkipList

_STREAM = 13
# A crop shows at most this many times its side, scaled down: photographs are often soft at 1:1.
_LARGEST_SCALE = 3.0


class PhotographPool:
    """Crops at random scale of prepared photographs.

    What a batch holds follows from `(seed, step, count, crop)` alone. The truth is the photograph
    itself; `darkness.darken` makes planes of it, with new noise every time.
    """

    def __init__(
        self, folder: Path, *, seed: int, split: str = "train", whole_check: bool = False
    ) -> None:
        """Read the index; shards are opened when a crop is.

        Args:
            folder: Shards of `ldmsid prepare --kind folder`, or of pairs, whose truths are used.
            seed: Names the sequence of crops.
            split: Photographs of this split, or `all`; a folder's are all of `train`.
            whole_check: Compare every shard's checksum first, which reads all of them.

        Raises:
            DatasetError: If the folder is no finished set, is damaged, or holds nothing.
        """
        self._folder, self._seed = folder, seed
        pairs = load_complete_index(folder, whole=whole_check).pairs
        chosen = [(file, pair) for file, pair in pairs if split in ("all", pair.split)]
        pictures = {(file, pair.truth): pair for file, pair in chosen}
        self._pictures = [(file, pair) for (file, _), pair in pictures.items()]
        if not self._pictures:
            raise DatasetError(
                f"Expected photographs of the split {split} in {folder}, found none; see what "
                "`ldmsid prepare` left out."
            )
        self._skips = SkipList()

    def __len__(self) -> int:
        """Photographs."""
        return len(self._pictures)

    @property
    def skipped_crops(self) -> int:
        """Crops that other photographs took the place of."""
        return self._skips.count

    @property
    def skipped(self) -> list[Skipped]:
        """Photographs that could not be read so far, by name; others took their places."""
        return self._skips.listed()

    def batch(self, step: int, *, count: int, crop: int) -> Tensor:
        """Crops at random scale, mirrored or not.

        Args:
            step: Training step.
            count: Batch size.
            crop: Side of the crops in pixels.

        Returns:
            `(count, 3, crop, crop)` sRGB, unit range.

        Raises:
            ConfigError: If no photograph is as large as the crop.
            DatasetError: If too many photographs in a row cannot be read.
        """
        return self.part(step, count=count, crop=crop, start=0, stop=count)

    def part(self, step: int, *, count: int, crop: int, start: int, stop: int) -> Tensor:
        """Crops `start` to `stop` of `batch(step, count=count, crop=crop)`; reads no others."""
        large = self.check_crop(crop)
        return torch.stack(
            [
                self._one(np.random.default_rng((self._seed, _STREAM, step, place)), large, crop)
                for place in range(start, stop)
            ]
        )

    def check_crop(self, crop: int) -> list[tuple[str, ShardPair]]:
        """The photographs that a crop of this side fits into, with their shards.

        Raises:
            ConfigError: If there is none.
        """
        large = [
            (file, pair) for file, pair in self._pictures if min(pair.height, pair.width) >= crop
        ]
        if not large:
            most = max(min(pair.height, pair.width) for _, pair in self._pictures)
            raise ConfigError(
                f"Expected crops of at most {most} pixels, the smaller side of the largest "
                f"photograph in {self._folder}, found {crop}; choose a smaller crop."
            )
        return large

    def _one(
        self, rng: np.random.Generator, large: list[tuple[str, ShardPair]], crop: int
    ) -> Tensor:
        """One crop; what cannot be read is noted and replaced, always by the same other."""
        for _ in range(ATTEMPTS):
            file, pair = large[int(rng.integers(len(large)))]
            try:
                return self._crop(rng, file, pair, crop)
            except DatasetError as error:
                self._skips.add(pair.long, error)
        raise DatasetError(
            f"Expected readable shards in {self._folder}, but {ATTEMPTS} photographs in a row "
            "could not be read; run `ldmsid prepare` again."
        )

    def _crop(self, rng: np.random.Generator, file: str, pair: ShardPair, crop: int) -> Tensor:
        largest = min(pair.height, pair.width, _LARGEST_SCALE * crop)
        # Of a logarithm's exponential a rounding may be missing: 512 would be 511.
        side = max(crop, int(np.exp(rng.uniform(np.log(crop), np.log(largest)))))
        top = int(rng.integers(0, pair.height - side + 1))
        left = int(rng.integers(0, pair.width - side + 1))
        piece = read_window(self._folder / file, pair.truth, Window(top, left, side, side))
        image = torch.from_numpy(piece.astype(np.float32))[None] / 255.0
        if side != crop:
            image = functional.interpolate(
                image, size=(crop, crop), mode="bilinear", antialias=True, align_corners=False
            )
        return image[0].flip(2) if rng.random() < 0.5 else image[0]
