"""A run of the baseline: the same data, losses and engine, without a host."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from ..hosts.host import load_host
from ..taming.fusion import DecoderTaming
from ..taming.unet_taming import UNetTaming
from .autoencoder import TINY_VAE
from .config import Stage, TrainingConfig
from .context import Run, RunOptions, TrainingData
from .data.skips import LeftOut
from .diffusion import TINY_UNET
from .export import training_summary
from .hosting import find_host
from .loop import DrawSheet, LossFunction
from .losses import Perceptual, ReconstructionLoss
from .pairs import BatchPart, TrainingPairs, pairs_of
from .regression import RegressionNet, build_regression, regression_widths
from .regression_file import RegressionHeader, save_regression
from .sheets import SHEET_SAMPLES, write_sheet
from .start import open_run

REGRESSION_NAME = "regression.safetensors"
_DEFAULTS = RunOptions()
# Of the random numbers that make images dark, beside those of `tame`.
_STREAM = 3


@dataclass(frozen=True)
class TrainedRegression:
    """What came out of a run of the baseline.

    Attributes:
        file: The weights.
        left_out: What of the data could not be read.
    """

    file: Path
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        return (self.file,)


def model_parameters(config: TrainingConfig) -> int:
    """Parameters of the host and the taming modules that a configuration names.

    Raises:
        CheckpointError: If a given host is missing or damaged.
    """
    if config.host:
        host = load_host(find_host(config.host))
        unet, vae = host.unet, host.vae
    with torch.device("meta"):
        if not config.host:
            unet, vae = UNet2DConditionModel(**TINY_UNET), AutoencoderKL(**TINY_VAE)
        halves = UNetTaming(config.unet_modules), DecoderTaming(config.decoder_modules)
    modules: tuple[torch.nn.Module, ...] = (unet, vae, *halves)
    return sum(p.numel() for module in modules for p in module.parameters())


def regression_loss(
    network: RegressionNet,
    pairs: TrainingPairs,
    measure: ReconstructionLoss,
    *,
    crop: int,
    device: torch.device,
) -> LossFunction:
    """Reconstruction error of the baseline on dark planes.

    Args:
        network: What learns.
        pairs: Truth and planes.
        measure: The loss.
        crop: Side in packed pixels.
        device: Of the network.
    """

    def loss(part: BatchPart) -> dict[str, Tensor]:
        image, planes = pairs_of(pairs, part, crop=crop)
        return measure(network(planes.to(device)), image.to(device) * 2.0 - 1.0)

    return loss


def _sheet(network: RegressionNet, pairs: TrainingPairs, crop: int, device: torch.device
           ) -> DrawSheet:  # fmt: skip
    def draw(path: Path) -> None:
        image, planes = pairs.batch(0, count=SHEET_SAMPLES, crop=crop)
        write_sheet(path, planes, network(planes.to(device)), image)

    return draw


def _train_stage(run: Run, place: int, stage: Stage, network: RegressionNet) -> None:
    device = run.compute.device
    pairs = run.pairs(place, stage, stream=_STREAM)
    ahead = run.pairs_ahead(pairs, stage)
    measure = ReconstructionLoss(stage.loss, run.perceptual)
    loss = regression_loss(network, ahead or pairs, measure, crop=stage.crop, device=device)
    sheet = _sheet(network, pairs, stage.crop, device)
    run.train(stage, network, loss, pairs=pairs, ahead=ahead, sheet=sheet)


def train_regression(
    config: TrainingConfig,
    folder: Path,
    *,
    options: RunOptions = _DEFAULTS,
    data: TrainingData | None = None,
    perceptual: Perceptual | None = None,
) -> TrainedRegression:
    """Train the baseline of a configuration; resumes what it finds in the folder.

    Args:
        config: With regression stages.
        folder: As for `train_model`.
        options: As for `train_model`.
        data: As for `train_model`.
        perceptual: As for `train_model`.

    Returns:
        The weight file, in float16.

    Raises:
        LdmSidError: As `train_model`.
    """
    wanted = config.regression.parameters or model_parameters(config)
    widths = regression_widths(wanted)
    with open_run(config, folder, options, data, perceptual) as run:
        network = build_regression(widths, seed=config.seed).to(run.compute.device)
        for place, stage in config.of_kind("regression"):
            _train_stage(run, place, stage, network)
        path = folder / REGRESSION_NAME
        if run.compute.is_main:
            count = sum(p.numel() for p in network.parameters())
            size = {"parameters": count, "parameters_wanted": wanted}
            summary = {**training_summary(config), **size, **run.notes}
            header = RegressionHeader(run.recipe, widths, summary, config.licence)
            save_regression(path, header, network, dtype=torch.float16, overwrite=True)
        run.compute.wait()
        return TrainedRegression(path, run.left_out())
