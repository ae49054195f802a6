"""Latents that stage 1 generated, for stage 2: in a sliding window, on request on disk as well.

Generated samples are used several times; which samples a step sees follows from its number
alone, so that a run can resume and processes can share it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import CheckpointError, ConfigError
from ..hosts.sampling import sample_latent
from ..output.atomic import written_atomically
from ..safetensors_file import read_safetensors, write_safetensors
from ..sampling_grid import initial_noise
from ..taming.attach import PredictNoise
from ..wavelet import BandKind, make_bands
from .pairs import BatchPart, NamedPairs, ReadingPlan, TrainingPairs

_KEY_NAME = "key.txt"
_DRIFT_KNOTS = 4
_DRIFT_STREAM = 1 << 40


@dataclass(frozen=True)
class GenerationConfig:
    """How latents for decoder taming are generated.

    Attributes:
        window: Groups of samples held at a time.
        group: Samples generated together.
        renew_every: Training steps after which a new group replaces the oldest.
        steps: Sampling steps.
        disk_megabytes: Room for generated groups in the run's folder, where an interrupted run
            and other processes find them; the oldest go first. 0 keeps them in memory alone.
        drift: How far the latents are moved by `slow_drift`, in unscaled latents; 0 leaves them.
    """

    window: int = 24
    group: int = 8
    renew_every: int = 3
    steps: int = 6
    disk_megabytes: int = 0
    drift: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        if min(self.window, self.group, self.renew_every, self.steps) < 1:
            raise ConfigError(f"Expected all generation settings >= 1, found {self}.")
        if self.disk_megabytes < 0:
            raise ConfigError(f"Expected disk_megabytes >= 0, found {self.disk_megabytes}.")
        if not 0.0 <= self.drift <= 2.0:
            raise ConfigError(f"Expected drift from 0 to 2, found {self.drift}.")


@dataclass(frozen=True)
class GeneratedGroup:
    """Truth, planes and generated latents of a few samples.

    Attributes:
        image: `(G, 3, h, w)` sRGB, unit range.
        planes: `(G, 4, h, w)` model range.
        latent: `(G, 4, h/8, w/8)` unscaled.
    """

    image: Tensor
    planes: Tensor
    latent: Tensor


MakeGroup = Callable[[int], GeneratedGroup]


class GeneratedPool:
    """Groups of generated samples by number, made when first needed and dropped when old."""

    def __init__(
        self, make: MakeGroup, config: GenerationConfig, pairs: TrainingPairs | None = None
    ) -> None:
        """Keep the recipe.

        Args:
            make: Number of a group -> the group; depends on nothing else.
            config: Window and renewal.
            pairs: That groups are made of, asked for names.
        """
        self._make = make
        self._config = config
        self._pairs = pairs
        self._groups: dict[int, GeneratedGroup] = {}

    def _places(self, step: int, count: int) -> list[tuple[int, int]]:
        """Group and place in it of each sample of a step's global batch."""
        first = step // self._config.renew_every
        generator = torch.Generator().manual_seed(step)
        last = first + self._config.window
        groups = torch.randint(first, last, (count,), generator=generator).tolist()
        places = torch.randint(0, self._config.group, (count,), generator=generator).tolist()
        return list(zip(groups, places, strict=True))

    def names(self, step: int, *, count: int) -> tuple[str, ...]:
        """As `NamedPairs`."""
        found = []
        for group, place in self._places(step, count):
            name = f"generated {group}/{place}"
            if isinstance(self._pairs, NamedPairs):
                name = self._pairs.names(group, count=self._config.group)[place]
            found.append(name)
        return tuple(found)

    def groups_of(self, parts: ReadingPlan) -> list[BatchPart]:
        """Batches of pairs that passes have groups made of, in that order.

        Args:
            parts: Of consecutive steps; no group is there before the first.
        """
        here: set[int] = set()
        needed = []
        for place in range(len(parts)):
            part = parts[place]
            here = {i for i in here if i >= part.step // self._config.renew_every}
            for index, _ in self._places(part.step, part.count)[part.start : part.stop]:
                if index not in here:
                    here.add(index)
                    needed.append(BatchPart(index, self._config.group, 0, self._config.group))
        return needed

    def pick(self, part: BatchPart) -> GeneratedGroup:
        """The samples of one pass, out of the window at its step."""
        first = part.step // self._config.renew_every
        self._groups = {i: g for i, g in self._groups.items() if i >= first}
        own = self._places(part.step, part.count)[part.start : part.stop]
        for index, _ in own:
            if index not in self._groups:
                self._groups[index] = self._make(index)
        chosen = [(self._groups[i], place) for i, place in own]
        return GeneratedGroup(
            torch.stack([group.image[place] for group, place in chosen]),
            torch.stack([group.planes[place] for group, place in chosen]),
            torch.stack([group.latent[place] for group, place in chosen]),
        )


def slow_drift(shape: tuple[int, int, int, int], amount: float, *, seed: int) -> Tensor:
    """A smooth random field that moves brightness and colour of latents slowly over the picture.

    What a UNet generates for an area depends a little on how much else it sees: on the frame's
    size and its tiles. Latents moved like that teach the decoder to take the colour of areas from
    the bands.

    Args:
        shape: `(B, C, h, w)`.
        amount: Largest standard deviation; each sample has its own, uniform from 0.
        seed: Of the field.

    Returns:
        `shape`, float32: 4 x 4 normal numbers a channel, interpolated bicubically.
    """
    generator = torch.Generator().manual_seed(_DRIFT_STREAM + seed)
    share = torch.rand((shape[0], 1, 1, 1), generator=generator)
    knots = torch.randn((*shape[:2], _DRIFT_KNOTS, _DRIFT_KNOTS), generator=generator)
    field = functional.interpolate(knots, size=shape[2:], mode="bicubic", align_corners=True)
    return amount * share * field


def group_maker(
    predict: PredictNoise,
    pairs: TrainingPairs,
    prompt: Tensor,
    *,
    latent_scale: float,
    crop: int,
    generation: GenerationConfig,
    prediction_type: str = "epsilon",
    bands: BandKind = "dwt",
) -> MakeGroup:
    """The recipe of a `GeneratedPool`: pairs, and latents sampled from their planes.

    Args:
        predict: Of the tamed UNet.
        pairs: Truth and planes; the group's number is the batch's.
        prompt: `(tokens, width)` on the device of sampling.
        latent_scale: Of the host.
        crop: Side in packed pixels.
        generation: Group and steps.
        prediction_type: Of the host.
        bands: What the planes are split into.
    """

    def make(number: int) -> GeneratedGroup:
        image, planes = pairs.batch(number, count=generation.group, crop=crop)
        structure = make_bands(planes, bands).structure_input.to(prompt.device)
        context = prompt.expand(len(image), -1, -1)
        noise = initial_noise((len(image), 4, crop // 8, crop // 8), seed=number)
        with torch.no_grad():
            latent = sample_latent(
                lambda x, t: predict(x, t, context, structure),
                noise.to(prompt.device),
                steps=generation.steps,
                prediction_type=prediction_type,
            )
        latent = (latent / latent_scale).cpu()
        if generation.drift:
            shape = (len(image), 4, crop // 8, crop // 8)
            latent = latent + slow_drift(shape, generation.drift, seed=number)
        return GeneratedGroup(image, planes, latent)

    return make


class DiskGroups:
    """Groups kept in a folder of bounded size; made anew when what made them has changed."""

    def __init__(self, make: MakeGroup, folder: Path, *, megabytes: int, key: str) -> None:
        """Open the folder; groups of another key are removed.

        Args:
            make: Number of a group -> the group.
            folder: Made if needed; holds nothing but groups.
            megabytes: Room for all groups.
            key: Stands for everything that groups depend on beside their number.

        Raises:
            OutputError: If the folder takes no file.
        """
        self._make, self._folder, self._room = make, folder, megabytes * 1_000_000
        name = folder / _KEY_NAME
        if not name.exists() or name.read_text(encoding="utf-8") != key:
            self.clear()
            with written_atomically(name, overwrite=True) as partial:
                partial.write_text(key, encoding="utf-8")

    def clear(self) -> None:
        """Remove all groups, so that they are generated again."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def __call__(self, number: int) -> GeneratedGroup:
        """The group, read or made."""
        path = self._folder / f"group_{number:09d}.safetensors"
        if path.exists():
            try:
                state, _ = read_safetensors(path)
                # Copies: the file may be removed while its tensors are in use.
                parts = (state[k].clone() for k in ("image", "planes", "latent"))
                return GeneratedGroup(*parts)
            except (CheckpointError, KeyError):
                path.unlink(missing_ok=True)  # another process's leftover: what it held follows
        group = self._make(number)
        values = {"image": group.image, "planes": group.planes, "latent": group.latent}
        write_safetensors(path, values, {}, overwrite=True)
        self._make_room(path)
        return group

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("group_*.safetensors"))

    def _make_room(self, newest: Path) -> None:
        sizes = {}
        for path in self._files():
            try:
                sizes[path] = path.stat().st_size
            except FileNotFoundError:  # another process made room
                continue
        total = sum(sizes.values())
        for path, size in sizes.items():
            if total <= self._room:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                total -= size
