"""What taming Stable Diffusion 2.1 at the paper's scale costs, counted on the meta device.

Operations (a multiplication and an addition are two) of one sample of each stage of `paper_sd21`,
forward and backward, times its samples. Hours follow from a rate that the reader names: what a GPU
delivers in training, not what its data sheet says. LPIPS is not counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from synthetic_sd import Size, build_decoder_taming, build_unet, build_unet_taming, build_vae
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ldmsid_core.taming.attach import attach_decoder_taming, attach_unet_taming
from ldmsid_core.training.config import (
    Stage,
    TrainingConfig,
    find_training_config,
    load_training_config,
)
from ldmsid_core.training.learning import checkpointed, set_trainable
from ldmsid_core.wavelet import SubBands, split_bands

_PROMPT = 77
# An H100's dense bf16 rate is 989 TFLOP/s; large networks train at a third to a half of it.
RATE = 400.0


def counted(work: Callable[[], Tensor], *, backward: bool) -> float:
    """TFLOP of a forward pass, and of the backward pass of its mean."""
    # Attention as two matrix products, whose backward pass the counter knows on every device.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        found = work()
        if backward:
            found.float().abs().mean().backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops() / 1e12


class Costs:
    """TFLOP a sample at one crop, full shapes."""

    def __init__(self, crop: int) -> None:
        """Count everything once.

        Args:
            crop: Side in packed pixels.
        """
        size, side = Size(), crop // 8
        bands = split_bands(torch.zeros(1, 4, crop, crop))
        with torch.device("meta"):
            unet, taming = build_unet(size), build_unet_taming(size)
            vae, decoder = build_vae(size), build_decoder_taming(size)
            image, latent = torch.zeros(1, 3, crop, crop), torch.zeros(1, 4, side, side)
            context, timestep = torch.zeros(1, _PROMPT, size.prompt), torch.zeros(1)
            low, detail = ([band.to("meta") for band in part] for part in (bands.ll, bands.detail))
            split = SubBands(tuple(low), tuple(detail), bands.content_size)  # type: ignore[arg-type]
        for module in (unet, vae):
            set_trainable(module, trainable=False)
        for module in (taming, decoder):
            set_trainable(module, trainable=True)
        self.encode = counted(lambda: vae.encode(image).latent_dist.mean, backward=False)
        self.unet, self.decode = {}, {}
        for again in (False, True):
            with (
                checkpointed(unet, vae, enabled=again),
                attach_unet_taming(unet, taming, recomputes=again) as predict,
                attach_decoder_taming(vae, decoder, recomputes=again) as decoded,
            ):
                self.unet[again] = counted(
                    lambda predict=predict: predict(latent, timestep, context, latent),
                    backward=True,
                )
                self.decode[again] = counted(
                    lambda decoded=decoded: decoded(latent, split), backward=True
                )
        with torch.no_grad(), attach_unet_taming(unet, taming) as predict:
            self.step = counted(lambda: predict(latent, timestep, context, latent), backward=False)


def stage_cost(costs: Costs, config: TrainingConfig, stage: Stage) -> tuple[int, int, float]:
    """Optimiser steps, samples and TFLOP a sample of one stage."""
    global_batch = stage.batch * stage.accumulation
    samples = stage.epochs * config.pool.epoch_samples
    steps = samples // global_batch
    if stage.kind == "unet_taming":
        return steps, samples, costs.encode + costs.unet[stage.checkpointing]
    make = config.generation
    generated = make.group / (make.renew_every * global_batch) * make.steps * costs.step
    return steps, samples, costs.decode[stage.checkpointing] + generated


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("paper_sd21"), help="Name or path.")
    parser.add_argument("--rate", type=float, default=RATE, help="TFLOP/s that a GPU delivers.")
    options = parser.parse_args()
    config = load_training_config(find_training_config(options.config))
    costs = Costs(config.stages[0].crop)
    print(
        f"TFLOP a sample of {config.stages[0].crop} x {config.stages[0].crop}: encoder "
        f"{costs.encode:.2f}, sampling step {costs.step:.2f}; forward and backward, checkpointing "
        f"off / on: UNet {costs.unet[False]:.2f} / {costs.unet[True]:.2f}, decoder "
        f"{costs.decode[False]:.2f} / {costs.decode[True]:.2f}"
    )
    total = 0.0
    print(f"{'stage':>16} {'steps':>7} {'samples':>8} {'TFLOP each':>10} {'EFLOP':>7} {'GPU h':>6}")
    for stage in config.stages:
        steps, samples, each = stage_cost(costs, config, stage)
        hours = samples * each / options.rate / 3600
        total += hours
        print(
            f"{stage.name:>16} {steps:7d} {samples:8d} {each:10.2f} "
            f"{samples * each / 1e6:7.2f} {hours:6.1f}"
        )
    print(f"together {total:.1f} GPU hours at {options.rate:g} TFLOP/s")


if __name__ == "__main__":
    main()
