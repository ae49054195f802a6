"""The taming stages: the UNet's modules, then the decoder's on latents that those generate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import torch

from ..errors import CheckpointError, ConfigError
from ..hosts.host import freeze
from ..taming.attach import PredictNoise, attach_decoder_taming, attach_unet_taming
from ..taming.fusion import DecoderTaming
from ..taming.unet_taming import UNetTaming
from .config import Stage
from .context import Run
from .decoding import decoder_taming_loss
from .diffusion import LatentPairs, unet_taming_loss
from .export import no_change_unet
from .generated import DiskGroups, GeneratedPool, GenerationConfig, MakeGroup, group_maker
from .hosting import TamableHost
from .latents import EncodedEachStep, EncodedPairs, LatentSource
from .learning import (
    check_only_taming_learns,
    checkpointed,
    set_trainable,
    unchanged_hosts,
    weights_sha256,
)
from .losses import ReconstructionLoss
from .pairs import TrainingPairs
from .sheets import SHEET_SAMPLES, decoder_sheet, unet_sheet

# Of the random numbers that make images dark, one for each use of a pool.
_UNET_STREAM, _DECODER_STREAM = 1, 2
_SHEET_STEPS = 12


def tame_host(
    run: Run, host: TamableHost, source: LatentSource | None
) -> tuple[UNetTaming, DecoderTaming]:
    """Train the halves that the configuration names; the host stays as it is.

    Args:
        run: The run.
        host: Frozen, on its device.
        source: Latents that were encoded once; None encodes at each step.

    Raises:
        ConfigError: If a half of a warm start is kept that was trained for something else.
        HostMismatchError: If the modules do not fit the host, or its weights changed.
    """
    _check_kept_half(run, host)
    unet_taming, decoder = _build_taming(run)
    for place, stage in run.config.of_kind("unet_taming"):
        _tame_unet(run, place, stage, host, source, unet_taming)
    freeze(unet_taming)
    for place, stage in run.config.of_kind("decoder_taming"):
        _tame_decoder(run, place, stage, host, unet_taming, decoder)
    freeze(decoder)
    return unet_taming, decoder


def _check_kept_half(run: Run, host: TamableHost) -> None:
    """Refuse to export an untrained half of a warm start under settings that are not its own."""
    config, start = run.config, run.start_taming
    kinds = {stage.kind for stage in config.stages}
    if start is None or config.taming != "both" or {"unet_taming", "decoder_taming"} <= kinds:
        return
    header = start.header
    pairs: tuple[tuple[str, object, object], ...] = (
        ("bands", header.input_recipe.bands, config.bands),
        ("clip", header.input_recipe.clip, run.recipe.clip),
        ("white balance", header.input_recipe.white_balance, run.recipe.white_balance),
        ("prediction type", header.prediction_type, host.prediction_type),
        ("latent scale", round(header.latent_scale, 4), round(host.latent_scale, 4)),
        ("host sha256", header.host_sha256 or host.sha256, host.sha256),
    )
    for what, wanted, found in pairs:
        if wanted != found:
            raise ConfigError(
                f"Expected {what} {wanted}, as the warm start {config.warm_start} was trained, "
                f"found {found}: a half without a stage stays as it is; give it one, or change "
                "the configuration."
            )


def _build_taming(run: Run) -> tuple[UNetTaming, DecoderTaming]:
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
    return unet.to(run.compute.device), decoder.to(run.compute.device)


def _tame_unet(
    run: Run,
    place: int,
    stage: Stage,
    host: TamableHost,
    source: LatentSource | None,
    taming: UNetTaming,
) -> None:
    set_trainable(taming, trainable=True)
    check_only_taming_learns(taming, host.unet, host.vae)
    pairs = run.pairs(place, stage, stream=_UNET_STREAM)
    ahead = run.pairs_ahead(pairs, stage)
    latents: LatentPairs
    if source is None:
        latents = EncodedEachStep(
            host.vae, ahead or pairs, crop=stage.crop, latent_scale=host.latent_scale,
            precision=stage.precision,
        )  # fmt: skip
    else:
        latents = EncodedPairs(source, run.dark_images(run.pool(place), stream=_UNET_STREAM))
    with (
        unchanged_hosts(stage.name, host.unet, host.vae),
        checkpointed(host.unet, enabled=stage.checkpointing),
        attach_unet_taming(host.unet, taming, recomputes=stage.checkpointing) as predict,
    ):
        loss = unet_taming_loss(
            predict, latents, host.prompt, prediction_type=host.prediction_type,
            bands=run.config.bands,
        )  # fmt: skip
        few = GenerationConfig(group=SHEET_SAMPLES, steps=_SHEET_STEPS)
        make = _maker(run, stage, host, predict, pairs, few)
        sheet = unet_sheet(make, host)
        run.train(stage, taming, loss, pairs=pairs, ahead=ahead, sheet=sheet)


def _tame_decoder(
    run: Run,
    place: int,
    stage: Stage,
    host: TamableHost,
    unet_taming: UNetTaming,
    taming: DecoderTaming,
) -> None:
    set_trainable(taming, trainable=True)
    check_only_taming_learns(taming, host.unet, host.vae, unet_taming)
    config, device = run.config, run.compute.device
    pairs = run.pairs(place, stage, stream=_DECODER_STREAM)
    ahead = run.pairs_ahead(pairs, stage)
    with (
        unchanged_hosts(stage.name, host.unet, host.vae),
        _generating(run, host, unet_taming) as predict,
        checkpointed(host.vae, enabled=stage.checkpointing),
        attach_decoder_taming(host.vae, taming, recomputes=stage.checkpointing) as decode,
    ):
        make = _maker(run, stage, host, predict, ahead or pairs, config.generation)
        kept = _kept_on_disk(run, stage, host, unet_taming, make)
        generated = GeneratedPool(kept, config.generation, pairs)
        measure = ReconstructionLoss(stage.loss, run.perceptual)
        loss = decoder_taming_loss(decode, generated, measure, device=device, bands=config.bands)
        # Sheets ask out of order and go past what is read ahead.
        plain = _maker(run, stage, host, predict, pairs, config.generation)
        sheet = decoder_sheet(plain, decode, device, config.bands)
        run.train(stage, taming, loss, pairs=pairs, ahead=ahead, generated=generated, sheet=sheet)


@contextmanager
def _generating(run: Run, host: TamableHost, taming: UNetTaming) -> Iterator[PredictNoise]:
    """The UNet that latents are sampled with: tamed, or untamed where that half is left out."""
    untamed = run.config.taming == "decoder"
    modules = no_change_unet(taming.config) if untamed else taming
    strength = 0.0 if untamed else 1.0
    with attach_unet_taming(host.unet, modules, strength=strength) as predict:
        yield predict


def _maker(
    run: Run,
    stage: Stage,
    host: TamableHost,
    predict: PredictNoise,
    pairs: TrainingPairs,
    generation: GenerationConfig,
) -> MakeGroup:
    return group_maker(
        predict, pairs, host.prompt, latent_scale=host.latent_scale, crop=stage.crop,
        generation=generation, prediction_type=host.prediction_type, bands=run.config.bands,
    )  # fmt: skip


def _kept_on_disk(
    run: Run, stage: Stage, host: TamableHost, unet_taming: UNetTaming, make: MakeGroup
) -> MakeGroup:
    """The same groups through the run's folder, where the configuration gives them room."""
    room = run.config.generation.disk_megabytes
    if not room:
        return make
    key = json.dumps(asdict(run.config.generation), sort_keys=True)
    key += f" {stage.crop} {stage.precision} {weights_sha256(host.unet, unet_taming)}"
    folder = run.folder / "latents" / stage.name
    if run.compute.is_main:
        groups = DiskGroups(make, folder, megabytes=room, key=key)
        if run.options.refresh_latents:
            groups.clear()
    run.compute.wait()
    return DiskGroups(make, folder, megabytes=room, key=key)
