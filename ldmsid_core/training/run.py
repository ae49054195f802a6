"""The whole training of a small model: host, UNet taming, decoder taming, export."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from ..hosts.host import Host, HostHeader, freeze, load_host, save_host
from ..model_files import EMBEDDED, ModelFiles
from ..output.atomic import written_atomically
from ..taming.attach import attach_decoder_taming, attach_unet_taming
from ..taming.checkpoint import (
    Taming,
    load_taming,
    save_taming,
    taming_state,
)
from ..taming.fusion import DecoderTaming
from ..taming.header import InputRecipe, TamingHeader
from ..taming.unet_taming import UNetTaming
from .autoencoder import TINY_VAE, autoencoder_loss, build_tiny_vae, set_trainable
from .config import STAGES, TrainingConfig, parse_training_config
from .decoding import GeneratedPool, decoder_taming_loss, group_maker
from .diffusion import (
    TINY_UNET,
    LatentSource,
    build_tiny_unet,
    measure_latent_scale,
    tiny_prompt_embedding,
    unet_loss,
    unet_taming_loss,
)
from .images import ImagePool
from .latent_rgb import fit_latent_rgb
from .loop import StageConfig, run_stage

log = logging.getLogger(__name__)
CONFIG_NAME = "config.json"
TINY_FAMILY = "tiny"


@dataclass
class _Run:
    """One training run: its settings, its folder and what it starts from."""

    config: TrainingConfig
    folder: Path
    quiet: bool
    start_host: Host | None
    start_taming: Taming | None

    def pool(self, offset: int) -> ImagePool:
        settings = self.config.pool
        return ImagePool(
            seed=self.config.seed + offset,
            window=settings.window,
            side=settings.side,
            renew_every=settings.renew_every,
            photograph_share=settings.photograph_share,
        )

    def train(self, name: str, module: nn.Module, loss: object, stage: StageConfig) -> None:
        started = time.monotonic()
        run_stage(name, module, loss, stage, self.folder, quiet=self.quiet)  # type: ignore[arg-type]
        log.info("%s took %.0f s", name, time.monotonic() - started)


def _prepare(config: TrainingConfig, folder: Path) -> None:
    """Save the resolved configuration, or check that a resumed run has the same one."""
    path = folder / CONFIG_NAME
    if path.exists():
        try:
            before = parse_training_config(json.loads(path.read_text()), source=str(path))
        except ValueError as error:
            raise ConfigError(f"{path} is unreadable ({error}); choose a new folder.") from error
        if before != config:
            changed = sorted(k for k, v in asdict(config).items() if asdict(before)[k] != v)
            raise ConfigError(
                f"{folder} holds a run with other settings ({', '.join(changed)}); resume it with "
                f"its own {CONFIG_NAME} or choose a new folder."
            )
        return
    with written_atomically(path, overwrite=False) as partial:
        partial.write_text(config.to_json(), encoding="utf-8")


def _start(config: TrainingConfig) -> tuple[Host | None, Taming | None]:
    if not config.warm_start:
        return None, None
    files = (
        EMBEDDED
        if config.warm_start == "embedded"
        else ModelFiles(
            Path(config.warm_start) / "host.safetensors",
            Path(config.warm_start) / "taming.safetensors",
        )
    )
    return load_host(files.host), load_taming(files.taming)


def _train_vae(run: _Run) -> AutoencoderKL:
    vae = build_tiny_vae(run.config.seed - 1)
    if run.start_host is not None:
        vae.load_state_dict(run.start_host.vae.state_dict())
    for offset, name in enumerate(("vae_small", "vae")):
        stage: StageConfig = getattr(run.config, name)
        loss = autoencoder_loss(vae, run.pool(offset), stage)
        run.train(name, vae, loss, stage)
    freeze(vae)
    return vae


def _train_unet(run: _Run, source: LatentSource, prompt: Tensor) -> UNet2DConditionModel:
    unet = build_tiny_unet(run.config.seed)
    if run.start_host is not None:
        unet.load_state_dict(run.start_host.unet.state_dict())
    set_trainable(unet, trainable=True)
    run.train("unet", unet, unet_loss(unet, source, prompt, run.config.unet), run.config.unet)
    freeze(unet)
    return unet


def _build_taming(run: _Run) -> tuple[UNetTaming, DecoderTaming]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed + 1)
        unet = UNetTaming(run.config.unet_modules)
        decoder = DecoderTaming(run.config.decoder_modules)
    decoder.start_as_identity()
    start = run.start_taming
    if start is not None:
        if start.unet is None or start.decoder is None:
            raise CheckpointError(f"Expected both halves of taming in {start.name} to start from.")
        unet.load_state_dict(start.unet.state_dict())
        decoder.load_state_dict(start.decoder.state_dict())
    return unet, decoder


def _train_taming(
    run: _Run,
    host: tuple[UNet2DConditionModel, AutoencoderKL],
    source: LatentSource,
    prompt: Tensor,
    latent_scale: float,
) -> tuple[UNetTaming, DecoderTaming]:
    unet, vae = host
    config = run.config
    unet_taming, decoder = _build_taming(run)
    with attach_unet_taming(unet, unet_taming) as predict:
        loss = unet_taming_loss(predict, source, prompt, config.unet_taming, config.darkness)
        run.train("unet_taming", unet_taming, loss, config.unet_taming)
        freeze(unet_taming)
        with attach_decoder_taming(vae, decoder) as decode:
            for offset, name in ((4, "decoder_taming"), (5, "decoder_taming_large")):
                stage: StageConfig = getattr(config, name)
                make = group_maker(
                    predict,
                    run.pool(offset),
                    prompt,
                    latent_scale=latent_scale,
                    crop=stage.crop,
                    generation=config.generation,
                    darkness=config.darkness,
                )
                generated = GeneratedPool(make, config.generation)
                run.train(name, decoder, decoder_taming_loss(decode, generated, stage), stage)
            freeze(decoder)
    return unet_taming, decoder


def train_small_model(config: TrainingConfig, folder: Path, *, quiet: bool = False) -> ModelFiles:
    """Train host and taming modules; resumes what it finds in the folder.

    Args:
        config: All settings.
        folder: States, logs, the resolved configuration and, at the end, the two weight files.
        quiet: No progress bars.

    Returns:
        The two weight files, in float16.

    Raises:
        ConfigError: If the folder holds a run with other settings.
        NonFiniteError: If a loss is NaN or infinite.
        OutputError: If the folder takes no file.
    """
    _prepare(config, folder)
    run = _Run(config, folder, quiet, *_start(config))
    vae = _train_vae(run)
    pool = run.pool(2)
    latent_scale = measure_latent_scale(vae, pool, crop=config.unet.crop, bf16=config.unet.bf16)
    source = LatentSource(
        vae,
        pool,
        count=config.pool.encoded,
        crop=config.unet.crop,
        latent_scale=latent_scale,
        bf16=config.unet.bf16,
    )
    prompt = tiny_prompt_embedding(config.seed)
    unet = _train_unet(run, source, prompt)
    halves = _train_taming(run, (unet, vae), source, prompt, latent_scale)
    return _export(run, (unet, vae), halves, prompt, source)


def _export(
    run: _Run,
    host: tuple[UNet2DConditionModel, AutoencoderKL],
    halves: tuple[UNetTaming, DecoderTaming],
    prompt: Tensor,
    source: LatentSource,
) -> ModelFiles:
    config, latent_scale = run.config, source.latent_scale
    images, latents = source.encoded()
    latent_rgb = fit_latent_rgb(latents, images.float() / 255.0)
    files = ModelFiles(run.folder / "host.safetensors", run.folder / "taming.safetensors")
    summary = {name: getattr(config, name).steps for name in STAGES}
    header = HostHeader(
        TINY_FAMILY, latent_scale, "epsilon", dict(TINY_UNET), dict(TINY_VAE),
        {"steps": summary, "seed": config.seed}, config.licence, latent_rgb,
    )  # fmt: skip
    save_host(files.host, header, *host, dtype=torch.float16, overwrite=True)
    taming_header = TamingHeader(
        host_family=TINY_FAMILY,
        cross_attention_width=prompt.shape[-1],
        latent_scale=latent_scale,
        input_recipe=InputRecipe(white_balance="as shot"),
        unet=config.unet_modules,
        decoder=config.decoder_modules,
        training={"steps": summary, "seed": config.seed},
        licence=config.licence,
        host_sha256=load_host(files.host).sha256,
    )
    state = taming_state(*halves, prompt)
    save_taming(files.taming, taming_header, state, dtype=torch.float16, overwrite=True)
    return files
