"""Stage 0a: the small host's VAE, trained on clean images."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from .colour_path import start_as_colour_average
from .images import ImagePool
from .loop import LossFunction, StageConfig


def multiscale_l1(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error at full size, a quarter and a sixteenth, and that of coarse colour.

    An L1 at full size lets the colour and brightness of areas go in favour of edges; the coarse
    terms weigh them, and the differences of channels weigh colour apart from brightness.

    Args:
        found: `(B, 3, H, W)`.
        wanted: The same shape; H and W multiples of 16.
    """
    difference = found.float() - wanted.float()
    total = difference.abs().mean()
    for factor in (4, 16):
        coarse = functional.avg_pool2d(difference, factor)
        total = total + coarse.abs().mean() + coarse.diff(dim=1).abs().mean()
    return total


def gradient_l1(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error of horizontal and vertical differences: keeps edges sharp."""
    difference = found.float() - wanted.float()
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def autoencoder_loss(
    vae: AutoencoderKL, pool: ImagePool, config: StageConfig, *, kl_weight: float = 2e-6
) -> LossFunction:
    """Reconstruction loss of a VAE on crops of the pool.

    Args:
        vae: Takes and returns `(B, 3, H, W)` model range.
        pool: Source of clean images.
        config: Batch and crop.
        kl_weight: Weight of the Kullback-Leibler term, summed over a latent, per pixel.
    """

    def loss(step: int) -> dict[str, Tensor]:
        image = pool.batch(step, count=config.batch, crop=config.crop) * 2.0 - 1.0
        generator = torch.Generator().manual_seed(step)
        posterior = vae.encode(image).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        found = vae.decode(posterior.mean + posterior.std * noise).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).float().mean()
        areas, edges = multiscale_l1(found, image), gradient_l1(found, image)
        return {"loss": areas + 0.5 * edges + kl_weight * kl, "areas": areas, "edges": edges}

    return loss


def build_tiny_vae(seed: int) -> AutoencoderKL:
    """A fresh VAE of the embedded model's shape; the global RNG is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(**TINY_VAE)
    start_as_colour_average(vae)
    set_trainable(vae, trainable=True)
    return vae


TINY_VAE: dict[str, object] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (96, 96, 96, 96),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
}


def set_trainable(module: nn.Module, *, trainable: bool) -> None:
    """Let a module learn, or freeze it and put it in evaluation mode."""
    module.train(trainable)
    for parameter in module.parameters():
        parameter.requires_grad_(trainable)
