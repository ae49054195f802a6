"""Latents of clean images for the two diffusion stages: encoded once, or at each step."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from .images import CleanImages
from .pairs import BatchPart, DarkImagePairs, TrainingPairs, pairs_of
from .stage import Precision

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def encode_clean(
    vae: AutoencoderKL, image: Tensor, *, latent_scale: float, precision: Precision
) -> Tensor:
    """Latents of clean images, the encoder's mean.

    Args:
        vae: Frozen.
        image: `(B, 3, h, w)` unit range.
        latent_scale: Multiplies the VAE's latents.
        precision: Encode under autocast to this dtype.

    Returns:
        `(B, 4, h/8, w/8)` float32 on the VAE's device.
    """
    kind, dtype = vae.device.type, _AUTOCAST.get(precision, torch.bfloat16)
    pixels = image.to(vae.device) * 2.0 - 1.0
    with torch.no_grad(), torch.autocast(kind, dtype, enabled=precision != "no"):
        mean = vae.encode(pixels.to(vae.dtype)).latent_dist.mean
    return mean.float() * latent_scale


class LatentSource:
    """Clean images with their latents: a fixed number, encoded when first asked for and kept."""

    def __init__(
        self,
        vae: AutoencoderKL,
        pool: CleanImages,
        *,
        count: int,
        crop: int,
        latent_scale: float,
        precision: Precision,
    ) -> None:
        """Keep the recipe; a resumed run whose diffusion stages are done encodes nothing.

        Args:
            vae: Frozen.
            pool: Source of clean images.
            count: How many, a multiple of 8.
            crop: Side in pixels.
            latent_scale: Multiplies the VAE's latents.
            precision: Encode under autocast to this dtype.
        """
        self._vae, self._pool = vae, pool
        self._count, self._crop = count, crop
        self.latent_scale, self._precision = latent_scale, precision
        self._encoded: tuple[Tensor, Tensor] | None = None

    def encoded(self) -> tuple[Tensor, Tensor]:
        """All images, `(N, 3, h, w)` 8 bit, and latents, `(N, 4, h/8, w/8)` scaled."""
        if self._encoded is None:
            images, latents = [], []
            for step in range(self._count // 8):
                batch = self._pool.batch(step, count=8, crop=self._crop)
                images.append((batch * 255.0).round().to(torch.uint8))
                latents.append(self._encode(batch))
            self._encoded = torch.cat(images), torch.cat(latents)
        return self._encoded

    def _encode(self, batch: Tensor) -> Tensor:
        return encode_clean(
            self._vae, batch, latent_scale=self.latent_scale, precision=self._precision
        ).cpu()

    def index(self, part: BatchPart) -> Tensor:
        """Which images a step's global batch has, all processes' together."""
        generator = torch.Generator().manual_seed(part.step)
        return torch.randint(0, self._count, (part.count,), generator=generator)

    def pick(self, part: BatchPart) -> Tensor:
        """Latents of one pass."""
        return self.encoded()[1][part.cut(self.index(part))]


class EncodedPairs:
    """Latents that were encoded once, with new dark RAWs of their images at each step."""

    def __init__(self, source: LatentSource, pairs: DarkImagePairs) -> None:
        """Join a source of latents and what makes images dark."""
        self._source, self._pairs = source, pairs

    def pick(self, part: BatchPart) -> tuple[Tensor, Tensor]:
        """As `LatentPairs`; a batch is made dark as a whole, see `DarkImagePairs`."""
        images, latents = self._source.encoded()
        index = self._source.index(part)
        planes = self._pairs.darkened(images[index].float() / 255.0, part.step)
        return latents[part.cut(index)], part.cut(planes)


class EncodedEachStep:
    """Pairs whose truth is encoded when a step sees it."""

    def __init__(
        self,
        vae: AutoencoderKL,
        pairs: TrainingPairs,
        *,
        crop: int,
        latent_scale: float,
        precision: Precision,
    ) -> None:
        """Keep the recipe; see `encode_clean`."""
        self._vae, self._pairs, self._crop = vae, pairs, crop
        self._latent_scale, self._precision = latent_scale, precision

    def pick(self, part: BatchPart) -> tuple[Tensor, Tensor]:
        """As `LatentPairs`."""
        image, planes = pairs_of(self._pairs, part, crop=self._crop)
        latent = encode_clean(
            self._vae, image, latent_scale=self._latent_scale, precision=self._precision
        )
        return latent, planes


def measure_latent_scale(
    vae: AutoencoderKL, pool: CleanImages, *, crop: int, precision: Precision
) -> float:
    """One over the standard deviation of the VAE's latents over 64 crops."""
    source = LatentSource(vae, pool, count=64, crop=crop, latent_scale=1.0, precision=precision)
    return float(1.0 / source.encoded()[1].std())
