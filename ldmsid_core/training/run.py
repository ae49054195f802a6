"""A whole training run: the host or a given one, UNet taming, decoder taming, export."""

from __future__ import annotations

from pathlib import Path

from .config import TrainingConfig
from .context import Run, RunOptions, TrainingData
from .export import HOST_NAME, TAMING_NAME, TrainedFiles, export_host, export_taming
from .hosting import TamableHost, given_host
from .latent_rgb import fit_latent_rgb
from .latents import LatentSource
from .losses import Perceptual
from .small_host import train_small_host
from .start import open_run
from .tame import tame_host

_DEFAULTS = RunOptions()


def train_model(
    config: TrainingConfig,
    folder: Path,
    *,
    options: RunOptions = _DEFAULTS,
    data: TrainingData | None = None,
    perceptual: Perceptual | None = None,
) -> TrainedFiles:
    """Train what a configuration says; resumes what it finds in the folder.

    Args:
        config: All settings.
        folder: States, logs, sheets, the resolved configuration and, at the end, the weights.
        options: Logs, progress, device.
        data: Pairs in place of the configuration's image pool, for the taming stages.
        perceptual: Network of the loss term `perceptual`; see `ReconstructionLoss`.

    Returns:
        Host and taming file; what the run wrote is in float16.

    Raises:
        ConfigError: If the folder holds a run with other settings, an option cannot be met, or
            the data do not belong to the warm start.
        DatasetError: If the configuration's shards are missing, damaged or of another kind.
        NonFiniteError: If a loss is NaN or infinite.
        HostMismatchError: If host and modules do not fit, or a host's weights changed.
        OutputError: If the folder takes no file.
    """
    with open_run(config, folder, options, data, perceptual) as run:
        compute = run.compute
        host, source = _host(run)
        encoded = source if run.data is None else None
        halves = tame_host(run, host, encoded) if _tames(config) else None
        files = TrainedFiles(host.given or folder / HOST_NAME, folder / TAMING_NAME, run.left_out())
        if compute.is_main:
            if host.given is None:
                assert source is not None
                images, latents = source.encoded()
                export_host(folder, config, host, fit_latent_rgb(latents, images.float() / 255.0))
            export_taming(folder, config, host, files.host, halves, run.recipe, run.notes)
        compute.wait()
        return files


def _tames(config: TrainingConfig) -> bool:
    return bool(config.of_kind("unet_taming") or config.of_kind("decoder_taming"))


def _host(run: Run) -> tuple[TamableHost, LatentSource | None]:
    """The host on its device, and latents that were encoded once."""
    config = run.config
    if not config.host:
        return train_small_host(run)
    host = given_host(config.host).to(run.compute.device)
    stages = config.of_kind("unet_taming")
    if not config.pool.encoded or run.data is not None or not stages:
        return host, None
    place, stage = stages[0]
    source = LatentSource(
        host.vae, run.pool(place), count=config.pool.encoded, crop=stage.crop,
        latent_scale=host.latent_scale, precision=stage.precision,
    )  # fmt: skip
    return host, source
