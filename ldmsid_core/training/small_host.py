"""Stages 0a and 0b: a small host, its VAE and then its UNet."""

from __future__ import annotations

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from ..hosts.host import freeze
from .autoencoder import autoencoder_loss, build_tiny_vae
from .context import Run
from .diffusion import build_tiny_unet, tiny_prompt_embedding, unet_loss
from .hosting import TamableHost
from .latents import LatentSource, measure_latent_scale
from .learning import checkpointed, set_trainable

TINY_FAMILY = "tiny"


def train_small_host(run: Run) -> tuple[TamableHost, LatentSource]:
    """Train the host of the embedded model's shape; resumes what it finds."""
    config, device = run.config, run.compute.device
    vae = _train_vae(run)
    place, stage = config.of_kind("unet")[0]
    pool = run.images(place, stage)
    latent_scale = measure_latent_scale(vae, pool, crop=stage.crop, precision=stage.precision)
    source = LatentSource(
        vae, pool, count=config.pool.encoded, crop=stage.crop, latent_scale=latent_scale,
        precision=stage.precision,
    )  # fmt: skip
    prompt = tiny_prompt_embedding(config.seed).to(device)
    unet = _train_unet(run, source, prompt)
    host = TamableHost(unet, vae, prompt, latent_scale, config.prediction_type, TINY_FAMILY)
    return host.to(device), source


def _train_vae(run: Run) -> AutoencoderKL:
    vae = build_tiny_vae(run.config.seed - 1)
    if run.start_host is not None:
        vae.load_state_dict(run.start_host.vae.state_dict())
    for place, stage in run.config.of_kind("vae"):
        images = run.images(place, stage)
        ahead = run.images_ahead(images, stage)
        with checkpointed(vae, enabled=stage.checkpointing):
            loss = autoencoder_loss(vae, ahead or images, stage)
            run.train(stage, vae, loss, pairs=run.counted(images), ahead=ahead)
    freeze(vae)
    return vae


def _train_unet(run: Run, source: LatentSource, prompt: Tensor) -> UNet2DConditionModel:
    unet = build_tiny_unet(run.config.seed)
    if run.start_host is not None:
        unet.load_state_dict(run.start_host.unet.state_dict())
    set_trainable(unet, trainable=True)
    for place, stage in run.config.of_kind("unet"):
        pairs = run.counted(run.images(place, stage))
        with checkpointed(unet, enabled=stage.checkpointing):
            loss = unet_loss(unet, source, prompt, prediction_type=run.config.prediction_type)
            run.train(stage, unet, loss, pairs=pairs)
    freeze(unet)
    return unet
