"""What the training engine costs, and what it holds.

Engine step / a bare loop of the same forward, backward and optimiser step on the same tensors,
interleaved, CPU time: goal at most 1.10. Parameters with gradients and optimiser state: taming's
alone. Samples a second of two gloo processes of one thread / one process of one thread, batches and
crops as `tiny.json` has them for UNet taming, median of rounds: goal at least 1.7, on a machine
with two idle cores. `--sd21` counts the bytes that Stable Diffusion 2.1's
tamed UNet and decoder keep for the backward pass, with and without checkpointing, on the meta
device.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from measure import PAIRS, ratio
from synthetic_sd import (
    SMALL,
    Size,
    build_decoder_taming,
    build_unet,
    build_unet_taming,
    build_vae,
    fill,
)
from torch import Tensor, nn

from ldmsid_core.taming.attach import PredictNoise, attach_decoder_taming, attach_unet_taming
from ldmsid_core.training.compute import Compute, open_compute
from ldmsid_core.training.diffusion import unet_taming_loss
from ldmsid_core.training.learning import build_optimiser, checkpointed, set_trainable
from ldmsid_core.training.loop import LossFunction, StageExtras, StageRun, open_stage
from ldmsid_core.training.pairs import BatchPart
from ldmsid_core.training.stage import StageConfig
from ldmsid_core.wavelet import SubBands, split_bands

_PROMPT = 77
_ROUNDS = 3


class FixedPairs:
    """Latents and planes made once: data cost nothing."""

    def __init__(self, count: int, crop: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.latent = torch.randn(count, 4, crop // 8, crop // 8, generator=generator)
        self.planes = torch.rand(count, 4, crop, crop, generator=generator) * 2.0 - 1.0

    def pick(self, part: BatchPart) -> tuple[Tensor, Tensor]:
        """As `LatentPairs`."""
        return part.cut(self.latent), part.cut(self.planes)


@contextmanager
def tamed(size: Size) -> Iterator[tuple[nn.Module, nn.Module, PredictNoise]]:
    """UNet, its taming, ready to learn, and the tamed prediction."""
    unet, taming = fill(build_unet(size)), fill(build_unet_taming(size))
    set_trainable(taming, trainable=True)
    with attach_unet_taming(unet, taming) as predict:  # type: ignore[arg-type]
        yield unet, taming, predict


@contextmanager
def opened(size: Size, config: StageConfig, compute: Compute) -> Iterator[
    tuple[StageRun, LossFunction, nn.Module]
]:  # fmt: skip
    """A stage of UNet taming, its loss and the host."""
    with tamed(size) as (unet, taming, predict):
        prompt = torch.zeros(_PROMPT, size.prompt)
        pairs = FixedPairs(config.global_batch(compute.processes), config.crop)
        loss = unet_taming_loss(predict, pairs, prompt)
        with open_stage("b", taming, loss, config, compute, StageExtras(quiet=True)) as run:
            yield run, loss, unet


def bare_step(module: nn.Module, optimiser: torch.optim.Optimizer, loss: LossFunction,
              config: StageConfig) -> None:  # fmt: skip
    """What any training loop does."""
    optimiser.zero_grad(set_to_none=True)
    value = loss(BatchPart(0, config.batch, 0, config.batch))["loss"]
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(module.parameters(), config.max_gradient_norm)
    optimiser.step()


def compare_step(size: Size, config: StageConfig, pairs: int) -> None:
    """Print engine / bare, and what holds gradients and state."""
    with open_compute(on_cpu=True) as compute, opened(size, config, compute) as (run, loss, unet):
        plain = build_optimiser(run.module, config)
        middle, spread = ratio(
            lambda: run.run_step(0), lambda: bare_step(run.module, plain, loss, config), pairs=pairs
        )
        print(f"engine step / bare step: {middle:.3f} +- {spread:.3f} (goal 1.10)")
        taming = sum(p.numel() for p in run.module.parameters())
        learning = [p for m in (unet, run.module) for p in m.parameters() if p.grad is not None]
        state = run.optimiser.state_dict()["state"]
        held = sum(entry["exp_avg"].numel() for entry in state.values())
        print(
            f"numbers with gradients {sum(p.numel() for p in learning)}, in the optimiser {held}, "
            f"of taming {taming}, of the host {sum(p.numel() for p in unet.parameters())}"
        )
        assert held == taming == sum(p.numel() for p in learning)


def time_samples(size: Size, config: StageConfig, seconds: float) -> None:
    """One process of `compare_processes`: print samples a second of all of them."""
    torch.set_num_threads(1)
    with open_compute(on_cpu=True) as compute, opened(size, config, compute) as (run, _, _):
        run.run_step(0)
        steps = max(2, round(seconds / _wall(lambda: run.run_step(1), compute)))
        taken = _wall(lambda: [run.run_step(2 + i) for i in range(steps)], compute)
        if compute.is_main:
            print(steps * config.global_batch(compute.processes) / taken)


def _wall(work: object, compute: Compute) -> float:
    """Wall time until all processes are through, the same number on each."""
    compute.wait()
    started = time.perf_counter()
    work()  # type: ignore[operator]
    compute.wait()
    taken = torch.tensor([time.perf_counter() - started])
    if compute.processes > 1:
        torch.distributed.broadcast(taken, 0)
    return float(taken)


def _start(short: bool, *launcher: str) -> subprocess.Popen[str]:
    extra = ["--short"] if short else []
    return subprocess.Popen(
        [sys.executable, *launcher, __file__, "--worker", *extra],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def _samples(*workers: subprocess.Popen[str]) -> float:
    """Samples a second of workers that run at the same time, together."""
    found = [worker.communicate()[0].split() for worker in workers]
    return sum(float(words[-1]) for words in found)


def compare_processes(short: bool, port: int) -> None:
    """Print samples a second of two processes / one, and of two that know nothing of each other.

    The second ratio is what the machine gives at most: below 1.9 its cores are not idle.
    """
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port))
    speedups, limits = [], []
    for _ in range(1 if short else _ROUNDS):
        one = _samples(_start(short))
        limits.append(_samples(_start(short), _start(short)) / one)
        speedups.append(_samples(_start(short, *launcher)) / one)
    print(
        f"samples a second, two processes / one: {statistics.median(speedups):.2f} (goal 1.7; "
        f"{_listed(speedups)}); of two that share nothing: {statistics.median(limits):.2f} "
        f"({_listed(limits)})"
    )


def _listed(ratios: list[float]) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)


def kept_bytes(work: object) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters left out."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = work()  # type: ignore[operator]
        total = sum(seen.values())
    del kept
    return total


def count_kept(size: Size, side: int, batch: int) -> None:
    """Print what the tamed UNet and decoder keep at a latent of `side`, on the meta device."""
    with torch.device("meta"):
        unet, taming = build_unet(size), build_unet_taming(size)
        vae, decoder = build_vae(size), build_decoder_taming(size)
        latent = torch.zeros(batch, 4, side, side)
        context, timestep = torch.zeros(batch, _PROMPT, size.prompt), torch.zeros(batch)
        planes = split_bands(torch.zeros(1, 4, 8 * side, 8 * side, device="cpu"))
        bands = SubBands(
            *(tuple(b.to("meta").expand(batch, -1, -1, -1) for b in part) for part in
              (planes.ll, planes.detail)), planes.content_size,
        )  # type: ignore[arg-type]  # fmt: skip
        for host, modules in ((unet, taming), (vae, decoder)):
            set_trainable(host, trainable=False)
            set_trainable(modules, trainable=True)
        for enabled in (False, True):
            with (
                checkpointed(unet, vae, enabled=enabled),
                attach_unet_taming(unet, taming, recomputes=enabled) as predict,
                attach_decoder_taming(vae, decoder, recomputes=enabled) as decode,
            ):
                sizes = [
                    kept_bytes(lambda: predict(latent, timestep, context, latent)),
                    kept_bytes(lambda: decode(latent, bands)),
                ]
            print(
                f"kept for the backward pass, float32, batch {batch}, latent {side} x {side}, "
                f"checkpointing {'on' if enabled else 'off'}: UNet {sizes[0] / 1e9:.2f} GB, "
                f"decoder {sizes[1] / 1e9:.2f} GB"
            )


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="Few pairs, small networks.")
    parser.add_argument("--sd21", action="store_true", help="Bytes kept, at full shape.")
    parser.add_argument("--latent", type=int, default=64, help="Side of the latent of --sd21.")
    parser.add_argument("--batch", type=int, default=1, help="Of --sd21.")
    parser.add_argument("--port", type=int, default=29650, help="Of the gloo run.")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = SMALL if options.short else Size((128, 256, 256, 256), SMALL.vae, 256, 3, 128, 64)
    config = StageConfig(steps=1, batch=2, crop=128, precision="no", warmup=0)
    if options.worker:
        if not options.short:
            config = replace(config, batch=8, crop=256)
        time_samples(size, config, 3.0 if options.short else 20.0)
    elif options.sd21:
        count_kept(Size(), options.latent, options.batch)
    else:
        compare_step(size, config, 3 if options.short else PAIRS)
        compare_processes(options.short, options.port)


if __name__ == "__main__":
    main()
