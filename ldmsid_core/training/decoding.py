"""Stage 2: decoder taming on latents that the tamed UNet generated from dark RAWs (paper).

Generated samples live in a sliding window and are used several times; which samples a step sees
follows from its number alone, so that a run can resume.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ..hosts.sampling import sample_latent
from ..sampling_grid import initial_noise
from ..taming.attach import Decode, PredictNoise
from ..wavelet import SubBands, split_bands
from .autoencoder import gradient_l1, multiscale_l1
from .darkness import DarknessConfig, darken
from .images import ImagePool
from .loop import LossFunction, StageConfig


@dataclass(frozen=True)
class GenerationConfig:
    """How latents for decoder taming are generated.

    Attributes:
        window: Groups of samples held at a time.
        group: Samples generated together.
        renew_every: Training steps after which a new group replaces the oldest.
        steps: Sampling steps.
    """

    window: int = 24
    group: int = 8
    renew_every: int = 3
    steps: int = 6

    def __post_init__(self) -> None:
        """Check ranges."""
        if min(self.window, self.group, self.renew_every, self.steps) < 1:
            raise ConfigError(f"Expected all generation settings >= 1, found {self}.")


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


class GeneratedPool:
    """Groups of generated samples by number, made when first needed and dropped when old."""

    def __init__(self, make: Callable[[int], GeneratedGroup], config: GenerationConfig) -> None:
        """Keep the recipe.

        Args:
            make: Number of a group -> the group; depends on nothing else.
            config: Window and renewal.
        """
        self._make = make
        self._config = config
        self._groups: dict[int, GeneratedGroup] = {}

    def pick(self, step: int, count: int) -> GeneratedGroup:
        """`count` samples of the window at a step."""
        first = step // self._config.renew_every
        self._groups = {i: g for i, g in self._groups.items() if i >= first}
        generator = torch.Generator().manual_seed(step)
        last = first + self._config.window
        groups = torch.randint(first, last, (count,), generator=generator).tolist()
        places = torch.randint(0, self._config.group, (count,), generator=generator).tolist()
        for index in groups:
            if index not in self._groups:
                self._groups[index] = self._make(index)
        chosen = [(self._groups[i], place) for i, place in zip(groups, places, strict=True)]
        return GeneratedGroup(
            torch.stack([group.image[place] for group, place in chosen]),
            torch.stack([group.planes[place] for group, place in chosen]),
            torch.stack([group.latent[place] for group, place in chosen]),
        )


def group_maker(
    predict: PredictNoise,
    pool: ImagePool,
    prompt: Tensor,
    *,
    latent_scale: float,
    crop: int,
    generation: GenerationConfig,
    darkness: DarknessConfig,
) -> Callable[[int], GeneratedGroup]:
    """The recipe of a `GeneratedPool`: clean crops, their dark RAWs, latents sampled from these."""

    def make(number: int) -> GeneratedGroup:
        image = pool.batch(number, count=generation.group, crop=crop)
        planes = darken(image, darkness, seed=(number, 2))
        bands = split_bands(planes)
        context = prompt.expand(len(image), -1, -1)
        noise = initial_noise((len(image), 4, crop // 8, crop // 8), seed=number)
        with torch.no_grad():
            latent = sample_latent(
                lambda x, t: predict(x, t, context, bands.structure_input),
                noise,
                steps=generation.steps,
            )
        return GeneratedGroup(image, planes, latent / latent_scale)

    return make


def decoder_taming_loss(
    decode: Decode, generated: GeneratedPool, config: StageConfig
) -> LossFunction:
    """Reconstruction error of the tamed decoder on generated latents."""

    def loss(step: int) -> dict[str, Tensor]:
        group = generated.pick(step, config.batch)
        bands: SubBands = split_bands(group.planes)
        found = decode(group.latent, bands)
        truth = group.image * 2.0 - 1.0
        areas, edges = multiscale_l1(found, truth), gradient_l1(found, truth)
        return {"loss": areas + 0.3 * edges, "areas": areas, "edges": edges}

    return loss
