"""Peak memory of a training step at Stable Diffusion 2.1's shape, measured on the CPU.

Forward and backward pass of UNet taming and of decoder taming, batch 1, float32, with and without
gradient checkpointing, one process each: the peak of its anonymous memory, sampled every 20 ms,
above what it held before the step, weights among it. `training_step.py --sd21` counts what the
forward pass keeps of that.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from convert import sampled_peak
from synthetic_sd import (
    SMALL,
    Size,
    build_decoder_taming,
    build_unet,
    build_unet_taming,
    build_vae,
    fill,
)

from ldmsid_core.taming.attach import attach_decoder_taming, attach_unet_taming
from ldmsid_core.training.learning import checkpointed, set_trainable
from ldmsid_core.wavelet import split_bands

PARTS = ("UNet", "decoder")
GIGA = 1e9


def step(part: str, size: Size, side: int, *, checkpointing: bool) -> float:
    """Gigabytes that one step adds to the process."""
    host = fill(build_unet(size) if part == "UNet" else build_vae(size))
    taming = fill(build_unet_taming(size) if part == "UNet" else build_decoder_taming(size))
    set_trainable(host, trainable=False)
    set_trainable(taming, trainable=True)
    bands = split_bands(torch.rand(1, 4, 8 * side, 8 * side) * 2.0 - 1.0)
    latent, context = torch.randn(1, 4, side, side), torch.zeros(1, 77, size.prompt)
    timestep = torch.full((1,), 500)
    with sampled_peak() as samples, checkpointed(host, enabled=checkpointing):
        if part == "UNet":
            with attach_unet_taming(host, taming, recomputes=checkpointing) as predict:  # type: ignore[arg-type]
                found = predict(latent, timestep, context, bands.structure_input)
                found.square().mean().backward()
        else:
            with attach_decoder_taming(host, taming, recomputes=checkpointing) as decode:  # type: ignore[arg-type]
                found = decode(latent, bands)
                found.square().mean().backward()
    assert all(p.grad is not None for p in taming.parameters())
    return (max(samples) - samples[0]) / GIGA


def main() -> None:
    """Print a line a part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="Small networks.")
    parser.add_argument("--latent", type=int, default=64, help="Side of the latent.")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        part, enabled = options.worker
        size = SMALL if options.short else Size()
        print(step(part, size, options.latent, checkpointing=enabled == "on"))
        return
    extra = ["--latent", str(options.latent), *(["--short"] if options.short else [])]
    for part in PARTS:
        found = []
        for enabled in ("off", "on"):
            command = [sys.executable, str(Path(__file__)), *extra, "--worker", part, enabled]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(float(done.stdout.split()[-1]))
        print(
            f"peak of a training step above weights, float32, batch 1, latent {options.latent} x "
            f"{options.latent}, {part}: {found[0]:.2f} GB, with checkpointing {found[1]:.2f} GB",
            flush=True,
        )


if __name__ == "__main__":
    main()
