"""Stage 0a: the small host's VAE, trained on clean images."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from .colour_path import start_as_colour_average
from .images import CleanImages
from .learning import set_trainable
from .loop import LossFunction
from .losses import gradient_l1, multiscale_l1
from .pairs import BatchPart, drawn_noise, images_of
from .stage import StageConfig


def autoencoder_loss(
    vae: AutoencoderKL, images: CleanImages, config: StageConfig, *, kl_weight: float = 2e-6
) -> LossFunction:
    """Reconstruction loss of a VAE on clean crops.

    Args:
        vae: Takes and returns `(B, 3, H, W)` model range.
        images: Their source.
        config: Its crop.
        kl_weight: Weight of the Kullback-Leibler term, summed over a latent, per pixel.
    """

    def loss(part: BatchPart) -> dict[str, Tensor]:
        unit = images_of(images, part, crop=config.crop)
        image = (unit * 2.0 - 1.0).to(vae.device)
        posterior = vae.encode(image).latent_dist
        generator = torch.Generator().manual_seed(part.step)
        noise = drawn_noise(posterior.mean.shape[1:], generator, part).to(vae.device)
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
