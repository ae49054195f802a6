"""Stages 0b and 1: the small host's UNet, then the taming modules that steer it.

Both minimise the noise-prediction error at uniformly drawn timesteps on latents of clean images;
in stage 1 only the structure encoder and the SFT layers learn (paper, training stage 1). A host
that predicts velocity is trained to predict that.
"""

from __future__ import annotations

from typing import Protocol

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional

from ..hosts.schedule import make_scheduler
from ..taming.attach import PredictNoise
from ..wavelet import BandKind, make_bands
from .loop import LossFunction
from .pairs import BatchPart, drawn_noise

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


class LatentPairs(Protocol):
    """Latents of clean images with their dark planes."""

    def pick(self, part: BatchPart) -> tuple[Tensor, Tensor]:
        """Latents `(B, 4, h/8, w/8)` as the UNet sees them and planes `(B, 4, h, w)`."""


class Latents(Protocol):
    """Latents of clean images."""

    def pick(self, part: BatchPart) -> Tensor:
        """Latents `(B, 4, h/8, w/8)` as the UNet sees them."""


class NoisyLatents:
    """Latents with noise at drawn timesteps, and what the UNet should say of them."""

    def __init__(self, prediction_type: str) -> None:
        """Keep the noise schedule.

        Args:
            prediction_type: `epsilon` or `v_prediction`.
        """
        self._alphas: Tensor = make_scheduler("ddim").alphas_cumprod
        self._is_velocity = prediction_type == "v_prediction"

    def draw(self, latent: Tensor, part: BatchPart) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latent, timestep and target of a pass."""
        generator = torch.Generator().manual_seed(part.step + 1)
        timestep = part.cut(torch.randint(0, 1000, (part.count,), generator=generator))
        noise = drawn_noise(latent.shape[1:], generator, part).to(latent.device)
        alpha = self._alphas[timestep][:, None, None, None].to(latent.device)
        noisy = alpha.sqrt() * latent + (1.0 - alpha).sqrt() * noise
        if self._is_velocity:
            noise = alpha.sqrt() * noise - (1.0 - alpha).sqrt() * latent
        return noisy, timestep.to(latent.device), noise


def unet_loss(
    unet: UNet2DConditionModel,
    source: Latents,
    prompt: Tensor,
    *,
    prediction_type: str = "epsilon",
) -> LossFunction:
    """Prediction error of the host alone; arguments as `unet_taming_loss`."""
    noisy_latents = NoisyLatents(prediction_type)

    def loss(part: BatchPart) -> dict[str, Tensor]:
        latent = source.pick(part).to(unet.device)
        noisy, timestep, wanted = noisy_latents.draw(latent, part)
        context = prompt.expand(len(latent), -1, -1)
        found = unet(noisy, timestep, encoder_hidden_states=context).sample
        return {"loss": functional.mse_loss(found.float(), wanted)}

    return loss


def unet_taming_loss(
    predict: PredictNoise,
    source: LatentPairs,
    prompt: Tensor,
    *,
    prediction_type: str = "epsilon",
    bands: BandKind = "dwt",
) -> LossFunction:
    """Noise-prediction error of the tamed host on latents of clean images.

    Args:
        predict: Of the tamed UNet.
        source: Latents and planes.
        prompt: `(tokens, width)` on the device of training.
        prediction_type: Of the host.
        bands: What the planes are split into.
    """
    noisy_latents = NoisyLatents(prediction_type)

    def loss(part: BatchPart) -> dict[str, Tensor]:
        latent, planes = source.pick(part)
        latent = latent.to(prompt.device)
        noisy, timestep, wanted = noisy_latents.draw(latent, part)
        structure = make_bands(planes, bands).structure_input.to(prompt.device)
        context = prompt.expand(len(latent), -1, -1)
        found = predict(noisy, timestep, context, structure)
        return {"loss": functional.mse_loss(found.float(), wanted)}

    return loss
