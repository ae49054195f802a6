"""Training data from shards, as a configuration's section `data` names them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError
from ..taming.header import InputRecipe
from .config import Stage, TrainingConfig
from .context import TrainingData
from .darkness import DarknessConfig, darken
from .data.paired_crops import PairedCrops
from .data.photograph_pool import PhotographPool
from .data.skips import LeftOut
from .images import CleanImages
from .pairs import TrainingPairs

_A7S2 = InputRecipe().sensor
# What cameras call themselves in their files, where taming files call them otherwise.
_SENSORS = {"sony ilce-7sm2": _A7S2}
_STREAM = 4


def sensor_name(camera: str) -> str:
    """What taming files call a camera, of its maker and model."""
    return _SENSORS.get(camera.lower(), camera)


class CropPairs:
    """`PairedCrops` with the interface of `TrainingPairs`."""

    def __init__(self, crops: PairedCrops, *, crop: int) -> None:
        """Keep the pairs and the side of the crops, which their names depend on."""
        self._crops, self._crop = crops, crop

    def __len__(self) -> int:
        return len(self._crops)

    def batch(self, step: int, *, count: int, crop: int) -> tuple[Tensor, Tensor]:
        """As `TrainingPairs`."""
        return self.part(step, count=count, crop=crop, start=0, stop=count)

    def part(
        self, step: int, *, count: int, crop: int, start: int, stop: int
    ) -> tuple[Tensor, Tensor]:
        """As `DividedPairs`."""
        found = self._crops.part(step, count=count, crop=crop, start=start, stop=stop)
        return found.truth, found.planes

    def names(self, step: int, *, count: int) -> tuple[str, ...]:
        """As `NamedPairs`: of the dark RAWs; reads the batch again."""
        return self._crops.batch(step, count=count, crop=self._crop).names


class DarkPhotographs:
    """Photographs with simulated dark RAWs of them, each sample by itself."""

    def __init__(
        self,
        pool: PhotographPool,
        darkness: DarknessConfig,
        *,
        seed: int,
        clip: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """Keep the recipe; `seed` is of the darkness, `clip` as `darken`."""
        self._pool, self._darkness, self._seed, self._clip = pool, darkness, seed, clip

    def __len__(self) -> int:
        return len(self._pool)

    def batch(self, step: int, *, count: int, crop: int) -> tuple[Tensor, Tensor]:
        """As `TrainingPairs`."""
        return self.part(step, count=count, crop=crop, start=0, stop=count)

    def part(
        self, step: int, *, count: int, crop: int, start: int, stop: int
    ) -> tuple[Tensor, Tensor]:
        """As `DividedPairs`."""
        image = self._pool.part(step, count=count, crop=crop, start=start, stop=stop)
        planes = [
            darken(
                image[i : i + 1], self._darkness,
                seed=(self._seed, _STREAM, step, start + i), clip=self._clip,
            )
            for i in range(stop - start)
        ]  # fmt: skip
        return image, torch.cat(planes)


@dataclass
class FileData:
    """All stages' data, opened before training begins.

    Attributes:
        recipe: What the planes undergo.
    """

    recipe: InputRecipe
    _pairs: dict[str, TrainingPairs] = field(default_factory=dict)
    _images: dict[str, CleanImages] = field(default_factory=dict)
    _read: list[PairedCrops | PhotographPool] = field(default_factory=list)

    def open(self, stage: Stage) -> TrainingPairs:
        """Pairs of a taming stage; several threads may ask them."""
        return self._pairs[stage.name]

    def images(self, stage: Stage) -> CleanImages:
        """Clean images of a stage of the host; several threads may ask them."""
        return self._images[stage.name]

    def left_out(self) -> LeftOut:
        """What could not be read so far."""
        return LeftOut.together(LeftOut(s.skipped_crops, tuple(s.skipped)) for s in self._read)

    def for_run(self, threads: int) -> TrainingData:
        """The same as a run takes it, read ahead by so many threads."""
        return TrainingData(self.open, self.recipe, self.images, threads, self.left_out)

    def add(self, config: TrainingConfig, place: int, stage: Stage) -> None:
        """Open the data of the stage at a place of the list.

        Raises:
            DatasetError: If the shards are missing, unfinished, damaged or of another kind.
            ConfigError: If they are smaller than the stage's crop.
        """
        data, seed = config.data, config.seed + place
        folder = Path(data.folder)
        if data.kind == "pairs" and not stage.trains_host:
            crops = PairedCrops(
                folder, seed=seed, recipe=self.recipe, split=data.split, flips=data.flips,
                leave_out=data.leave_out,
            )  # fmt: skip
            crops.check_crop(stage.crop)
            self.recipe = self._recipe_of(crops)
            self._pairs[stage.name] = CropPairs(crops, crop=stage.crop)
            self._read.append(crops)
            return
        pool = PhotographPool(folder, seed=seed, split=data.split)
        pool.check_crop(stage.crop)
        self._read.append(pool)
        if stage.trains_host:
            self._images[stage.name] = pool
        else:
            self._pairs[stage.name] = DarkPhotographs(
                pool, config.darkness, seed=seed, clip=config.clip
            )

    def _recipe_of(self, crops: PairedCrops) -> InputRecipe:
        sensor = sensor_name(crops.camera) or "unknown"
        return replace(self.recipe, sensor=sensor)


def open_file_data(config: TrainingConfig) -> FileData | None:
    """The data of all stages of a configuration; None of drawn data.

    Raises:
        DatasetError: If the shards are missing, unfinished, damaged or of another kind.
        ConfigError: If they are smaller than a stage's crop.
    """
    if not config.data.is_from_files:
        return None
    found = FileData(
        InputRecipe(config.data.white_balance, sensor=config.darkness.sensor, clip=config.clip)
    )
    for place, stage in config.used_stages():
        found.add(config, place, stage)
    return found


def check_warm_start(config: TrainingConfig, data: FileData, start: InputRecipe) -> None:
    """Refuse to go on from taming that saw other planes.

    Args:
        config: With a warm start.
        data: Opened.
        start: Recipe of the taming to start from.

    Raises:
        ConfigError: If sensor or white balance differ.
    """
    now = data.recipe
    if now.white_balance != start.white_balance:
        raise ConfigError(
            f"Expected data with white balance {start.white_balance!r}, as the warm start "
            f"{config.warm_start} was trained, found {now.white_balance!r}; set white_balance "
            "under data with pairs, or start from another file."
        )
    if now.clip != start.clip:
        raise ConfigError(
            f"Expected clip {start.clip}, as the warm start {config.warm_start} was trained, found "
            f"{now.clip}; set clip in the configuration."
        )
    unknown = "unknown" in (now.sensor, start.sensor)
    if now.sensor != start.sensor and not unknown and not config.data.other_sensor:
        raise ConfigError(
            f"Expected data of the sensor {start.sensor}, for which the warm start "
            f"{config.warm_start} was trained, found {now.sensor} in {config.data.folder}; where "
            "that is meant, set other_sensor to true under data."
        )
