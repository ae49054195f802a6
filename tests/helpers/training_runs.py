"""Small taming stages on random hosts, with pairs that follow from the step alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from helpers.tiny_model import build_modules
from torch import Tensor, nn

from ldmsid_core.taming.attach import attach_decoder_taming, attach_unet_taming
from ldmsid_core.taming.fusion import DecoderTaming
from ldmsid_core.taming.unet_taming import UNetTaming
from ldmsid_core.training.compute import Compute
from ldmsid_core.training.decoding import decoder_taming_loss
from ldmsid_core.training.diffusion import unet_taming_loss
from ldmsid_core.training.generated import GeneratedGroup, GeneratedPool, GenerationConfig
from ldmsid_core.training.latents import EncodedEachStep
from ldmsid_core.training.learning import checkpointed, set_trainable
from ldmsid_core.training.loop import LossFunction, StageExtras, run_stage
from ldmsid_core.training.losses import LossConfig, ReconstructionLoss
from ldmsid_core.training.pairs import BatchPart
from ldmsid_core.training.stage import StageConfig

CROP = 128  # the coarsest level of 64 has one pixel, which no GroupNorm of 32 channels takes
PROMPT = torch.linspace(-1.0, 1.0, 77 * 16).reshape(77, 16)
STAGE = StageConfig(
    steps=4, batch=2, crop=CROP, learning_rate=1e-3, warmup=0, precision="no", save_seconds=1e9
)
QUIET = StageExtras(quiet=True)


class RandomPairs:
    """Pictures of noise, their planes the same colours; samples have names."""

    def batch(self, step: int, *, count: int, crop: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 + step)
        image = torch.rand(count, 3, crop, crop, generator=generator)
        planes = image[:, [0, 1, 2, 1]] * 2.0 - 1.0
        return image, planes

    def names(self, step: int, *, count: int) -> tuple[str, ...]:
        return tuple(f"s{step}n{i}" for i in range(count))


def one_process(process: int = 0, processes: int = 1) -> Compute:
    """The CPU as one of some processes."""
    return Compute(torch.device("cpu"), process, processes, on_cpu=True)


def unet_stage(
    folder: Path,
    config: StageConfig = STAGE,
    *,
    stop_at: int | None = None,
    compute: Compute | None = None,
    seed: int = 0,
) -> tuple[UNetTaming, nn.Module, nn.Module]:
    """Train UNet taming of a random host; the modules, the UNet and the VAE."""
    unet, vae, taming, _ = build_modules(seed)
    set_trainable(taming, trainable=True)
    pairs = RandomPairs()
    latents = EncodedEachStep(vae, pairs, crop=CROP, latent_scale=0.5, precision="no")
    with (
        checkpointed(unet, enabled=config.checkpointing),
        attach_unet_taming(unet, taming, recomputes=config.checkpointing) as predict,
    ):
        loss = interrupted(unet_taming_loss(predict, latents, PROMPT), stop_at)
        extras = replace(QUIET, data=pairs)
        run_stage("s", taming, loss, config, folder, compute=compute, extras=extras)
    return taming, unet, vae


def interrupted(loss: LossFunction, stop_at: int | None) -> LossFunction:
    """The same loss, as if somebody pressed Ctrl-C at a step."""

    def stopping(part: BatchPart) -> dict[str, Tensor]:
        if part.step == stop_at:
            raise KeyboardInterrupt
        return loss(part)

    return stopping


def random_group(number: int) -> GeneratedGroup:
    """A group of pairs with latents that were never sampled."""
    image, planes = RandomPairs().batch(number, count=2, crop=CROP)
    generator = torch.Generator().manual_seed(number)
    return GeneratedGroup(
        image, planes, torch.randn(2, 4, CROP // 8, CROP // 8, generator=generator)
    )


def decoder_stage(
    folder: Path, config: StageConfig = STAGE, *, loss_config: LossConfig | None = None
) -> tuple[DecoderTaming, nn.Module]:
    """Train decoder taming of a random host; the modules and the VAE."""
    _, vae, _, taming = build_modules()
    set_trainable(taming, trainable=True)
    generation = GenerationConfig(window=2, group=2, renew_every=1, steps=1)
    with (
        checkpointed(vae, enabled=config.checkpointing),
        attach_decoder_taming(vae, taming, recomputes=config.checkpointing) as decode,
    ):
        loss = decoder_taming_loss(
            decode, GeneratedPool(random_group, generation, RandomPairs()),
            ReconstructionLoss(loss_config or LossConfig()), device=torch.device("cpu"),
        )  # fmt: skip
        run_stage("d", taming, loss, config, folder, extras=QUIET)
    return taming, vae


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Bit for bit."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def largest_difference(first: nn.Module, second: nn.Module) -> float:
    """Of all weights."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def losses_in(path: Path, column: str = "loss") -> list[float]:
    """The losses, or another column, of a stage's CSV, a step each; the steps are 0, 1, 2, ..."""
    lines = path.read_text().splitlines()
    place = lines[0].split(",").index(column)
    rows = [line.split(",") for line in lines[1:]]
    assert [int(row[0]) for row in rows] == list(range(len(rows)))
    return [float(row[place]) for row in rows]


def settings(**changes: Any) -> StageConfig:
    """`STAGE` with other settings."""
    return replace(STAGE, **changes)
