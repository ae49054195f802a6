"""What a run hands on: the host it trained, and the taming file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..hosts.host import HostHeader, load_host, save_host
from ..taming.checkpoint import save_taming, taming_state
from ..taming.configs import StructureEncoderConfig, UNetTamingConfig
from ..taming.fusion import DecoderTaming
from ..taming.header import InputRecipe, TamingHeader
from ..taming.unet_taming import UNetTaming
from .autoencoder import TINY_VAE
from .config import TrainingConfig
from .data.skips import LeftOut
from .diffusion import TINY_UNET
from .hosting import TamableHost

HOST_NAME, TAMING_NAME = "host.safetensors", "taming.safetensors"


@dataclass(frozen=True)
class TrainedFiles:
    """What came out of a run.

    Attributes:
        host: The host: trained by the run, or the given one where it was found.
        taming: The taming file; of a run without taming stages it holds the prompt embedding
            alone.
        left_out: What of the data could not be read.
    """

    host: Path
    taming: Path
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Host and taming file."""
        return (self.host, self.taming)


def no_change_unet(config: UNetTamingConfig) -> UNetTaming:
    """The smallest UNet taming for a host's shape that changes nothing, bit for bit."""
    levels = len(config.widths)
    encoder = StructureEncoderConfig(
        width=64, multipliers=(1,) * levels, blocks=1, attention_levels=(), heads=1, features=64
    )
    shape = UNetTamingConfig(encoder, config.widths, config.blocks, hidden=1, kind="identity")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNetTaming(shape)


def no_change_decoder(decoder: DecoderTaming) -> DecoderTaming:
    """Decoder taming of the same shape that changes nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stand_in = DecoderTaming(decoder.config)
    stand_in.start_as_identity()
    return stand_in


def export_host(
    folder: Path, config: TrainingConfig, host: TamableHost, latent_rgb: list[list[float]]
) -> Path:
    """Write the small host that a run trained, in float16.

    Raises:
        OutputError: If it cannot be written.
    """
    path = folder / HOST_NAME
    header = HostHeader(
        host.family, host.latent_scale, host.prediction_type, dict(TINY_UNET), dict(TINY_VAE),
        training_summary(config), config.licence, latent_rgb,
    )  # fmt: skip
    save_host(path, header, host.unet, host.vae, dtype=torch.float16, overwrite=True)
    return path


def training_summary(config: TrainingConfig) -> dict[str, Any]:
    """Steps and seed, for a header."""
    steps = {s.name: s.steps if s.steps else f"{s.epochs} epochs" for s in config.stages}
    return {"steps": steps, "seed": config.seed}


def export_taming(
    folder: Path,
    config: TrainingConfig,
    host: TamableHost,
    host_path: Path,
    halves: tuple[UNetTaming, DecoderTaming] | None,
    recipe: InputRecipe,
    notes: dict[str, Any],
) -> Path:
    """Write the taming file, in float16.

    Args:
        folder: Of the run.
        config: Of the run.
        host: That was tamed.
        host_path: Its file or folder.
        halves: Trained; None after a run without taming stages. A half that the configuration
            leaves out is replaced by one that changes nothing.
        recipe: What the planes had undergone.
        notes: Go into the header beside the steps.

    Raises:
        OutputError: If it cannot be written.
    """
    path = folder / TAMING_NAME
    unet, decoder = halves if halves is not None else (None, None)
    if unet is not None and config.taming == "decoder":
        unet = no_change_unet(unet.config)
    if decoder is not None and config.taming == "unet":
        decoder = no_change_decoder(decoder)
    header = TamingHeader(
        host_family=host.family,
        cross_attention_width=host.prompt.shape[-1],
        prediction_type=host.prediction_type,
        latent_scale=host.latent_scale,
        input_recipe=replace(recipe, bands=config.bands),
        unet=None if unet is None else unet.config,
        decoder=None if decoder is None else decoder.config,
        training={**training_summary(config), "tamed": config.taming, **notes},
        licence=config.licence,
        host_sha256=host.sha256 or load_host(host_path).sha256,
    )
    state = taming_state(unet, decoder, host.prompt)
    save_taming(path, header, state, dtype=torch.float16, overwrite=True)
    return path
