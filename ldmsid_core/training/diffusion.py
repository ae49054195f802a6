"""Stages 0b and 1: the small host's UNet, then the taming modules that steer it.

Both minimise the noise-prediction error at uniformly drawn timesteps on latents of clean images;
in stage 1 only the structure encoder and the SFT layers learn (paper, training stage 1).
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional

from ..hosts.schedule import make_scheduler
from ..taming.attach import PredictNoise
from ..wavelet import split_bands
from .darkness import DarknessConfig, darken
from .images import ImagePool
from .loop import LossFunction, StageConfig

PROMPT_TOKENS = 77
PROMPT_WIDTH = 64
TINY_UNET: dict[str, object] = {
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 64,
    "block_out_channels": (64, 64, 128, 128),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "attention_head_dim": (2, 2, 4, 4),  # diffusers' name for the number of heads, 32 wide each
    "cross_attention_dim": PROMPT_WIDTH,
    "use_linear_projection": True,
    "norm_num_groups": 32,
}


def build_tiny_unet(seed: int) -> UNet2DConditionModel:
    """A freshly initialised UNet of the embedded model's shape; the global RNG is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(**TINY_UNET)


def tiny_prompt_embedding(seed: int) -> Tensor:
    """The embedding that stands for the empty prompt of the small host, `(77, 64)`."""
    return torch.randn(PROMPT_TOKENS, PROMPT_WIDTH, generator=torch.Generator().manual_seed(seed))


class LatentSource:
    """Clean images with their latents: a fixed number, encoded when first asked for and kept."""

    def __init__(
        self,
        vae: AutoencoderKL,
        pool: ImagePool,
        *,
        count: int,
        crop: int,
        latent_scale: float,
        bf16: bool,
    ) -> None:
        """Keep the recipe; a resumed run whose diffusion stages are done encodes nothing.

        Args:
            vae: Frozen.
            pool: Source of clean images.
            count: How many, a multiple of 8.
            crop: Side in pixels.
            latent_scale: Multiplies the VAE's latents.
            bf16: Encode under bfloat16 autocast.
        """
        self._vae, self._pool = vae, pool
        self._count, self._crop = count, crop
        self.latent_scale, self._bf16 = latent_scale, bf16
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
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            mean = self._vae.encode(batch * 2.0 - 1.0).latent_dist.mean
        return mean.float() * self.latent_scale

    def pick(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Unit-range images and latents of one step."""
        images, latents = self.encoded()
        generator = torch.Generator().manual_seed(step)
        index = torch.randint(0, len(images), (count,), generator=generator)
        return images[index].float() / 255.0, latents[index]


def measure_latent_scale(vae: AutoencoderKL, pool: ImagePool, *, crop: int, bf16: bool) -> float:
    """One over the standard deviation of the VAE's latents over 64 crops."""
    source = LatentSource(vae, pool, count=64, crop=crop, latent_scale=1.0, bf16=bf16)
    return float(1.0 / source.encoded()[1].std())


def _noised(latent: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latent, timestep and noise of one step."""
    generator = torch.Generator().manual_seed(step + 1)
    timestep = torch.randint(0, 1000, (latent.shape[0],), generator=generator)
    noise = torch.randn(latent.shape, generator=generator)
    alpha = make_scheduler("ddim").alphas_cumprod[timestep][:, None, None, None]
    return alpha.sqrt() * latent + (1.0 - alpha).sqrt() * noise, timestep, noise


def unet_loss(
    unet: UNet2DConditionModel, source: LatentSource, prompt: Tensor, config: StageConfig
) -> LossFunction:
    """Noise-prediction error of the host alone."""

    def loss(step: int) -> dict[str, Tensor]:
        _, latent = source.pick(step, config.batch)
        noisy, timestep, noise = _noised(latent, step)
        context = prompt.expand(len(latent), -1, -1)
        found = unet(noisy, timestep, encoder_hidden_states=context).sample
        return {"loss": functional.mse_loss(found.float(), noise)}

    return loss


def unet_taming_loss(
    predict: PredictNoise,
    source: LatentSource,
    prompt: Tensor,
    config: StageConfig,
    darkness: DarknessConfig,
) -> LossFunction:
    """Noise-prediction error of the tamed host on latents of clean images."""

    def loss(step: int) -> dict[str, Tensor]:
        image, latent = source.pick(step, config.batch)
        noisy, timestep, noise = _noised(latent, step)
        bands = split_bands(darken(image, darkness, seed=(step, 1)))
        context = prompt.expand(len(latent), -1, -1)
        found = predict(noisy, timestep, context, bands.structure_input)
        return {"loss": functional.mse_loss(found.float(), noise)}

    return loss
