"""One training loop for every stage: any number of processes, exact resume, CSV log.

What a pass sees follows from the step and from which process it is on, never from what ran
before; so N processes with a batch of B compute what one computes with a batch of N * B.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import ConfigError, NonFiniteError
from .compute import Compute, open_accelerator, open_compute
from .ema import WeightMean
from .learning import build_optimiser
from .pairs import BatchPart, names_of
from .stage import StageConfig, learning_rate_factor
from .states import StateFiles
from .step_log import LogName, StepLog, open_log

log = logging.getLogger(__name__)

LossFunction = Callable[[BatchPart], dict[str, Tensor]]
DrawSheet = Callable[[Path], None]


@dataclass(frozen=True)
class StageExtras:
    """What a stage has beside its loss.

    Attributes:
        data: Asked for the names of samples in messages.
        draw_sheet: Writes a sample sheet under a name.
        log: What is written beside the CSV.
        quiet: No progress bar.
        reading: First step -> what is open while the stage trains from there on.
    """

    data: object = None
    draw_sheet: DrawSheet | None = None
    log: LogName = "csv"
    quiet: bool = False
    reading: Callable[[int], AbstractContextManager[None]] = lambda _first: nullcontext()


_NO_EXTRAS = StageExtras()


class _LossModule(nn.Module):
    """Calls a loss with the module that learns as its own, which data parallelism needs."""

    def __init__(self, learns: nn.Module, loss: LossFunction) -> None:
        super().__init__()
        self.learns = learns
        self._loss = loss

    def forward(self, part: BatchPart) -> dict[str, Tensor]:
        return self._loss(part)


@dataclass
class StageRun:
    """One stage while it trains: `run_step` does one optimiser step."""

    name: str
    module: nn.Module
    config: StageConfig
    compute: Compute
    extras: StageExtras
    accelerator: Accelerator
    optimiser: Any
    wrapped: nn.Module
    mean: WeightMean | None
    files: StateFiles | None = None
    parameters: list[nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        """Collect what learns once."""
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]

    def run_step(self, step: int) -> dict[str, float]:
        """Forward and backward of all passes, then one optimiser step.

        Returns:
            Learning rate, gradient norm and the mean of every named loss over the global batch.

        Raises:
            NonFiniteError: If a loss or the gradient is NaN or infinite, on all processes alike.
        """
        rate = self.config.learning_rate * learning_rate_factor(step, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        passes, names = [], ["loss"]
        for number in range(self.config.accumulation):
            with self.accelerator.accumulate(self.wrapped):
                losses = self.wrapped(self.compute.part(self.config, step, number))
                self.accelerator.backward(losses["loss"])
            names = list(losses)
            passes.append(torch.stack([value.detach().float() for value in losses.values()]))
        found: Tensor = self.accelerator.reduce(torch.stack(passes).mean(dim=0), "mean")
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.max_gradient_norm)
        means = dict(zip(names, found.tolist(), strict=True))
        values = {"learning_rate": rate, "gradient_norm": float(norm), **means}
        if not math.isfinite(means["loss"]):
            self._stop(step, torch.stack(passes)[:, names.index("loss")])
        if self.config.precision != "fp16" and not math.isfinite(values["gradient_norm"]):
            raise NonFiniteError(
                f"Stage {self.name} met a gradient norm of {values['gradient_norm']} at step "
                f"{step}, loss {means['loss']:.5g}; {self._advice()}"
            )
        self.optimiser.step()
        # The scaler of fp16 leaves a step out whose gradients overflowed: nothing is new then.
        if self.mean is not None and not self.accelerator.optimizer_step_was_skipped:
            self.mean.update(self.module)
        return values

    def _stop(self, step: int, own: Tensor) -> None:
        """Say which batch a loss that is not finite came from."""
        every = self.accelerator.gather(own[None])
        passes = self.config.accumulation
        wrong = [
            (number * self.compute.processes + process, float(every[process, number]))
            for number in range(passes)
            for process in range(self.compute.processes)
            if not math.isfinite(float(every[process, number]))
        ]
        place, value = wrong[0]
        batch, count = self.config.batch, self.config.global_batch(self.compute.processes)
        part = BatchPart(step, count, place * batch, (place + 1) * batch)
        names = names_of(self.extras.data, part)
        raise NonFiniteError(
            f"Stage {self.name} met a loss of {value} at step {step}, samples {part.start} to "
            f"{part.stop - 1} of {count}{f' ({chr(44).join(names)})' if names else ''}; "
            f"{self._advice()}"
        )

    def _advice(self) -> str:
        newest = None if self.files is None else self.files.newest
        kept = f"the last saved state ({newest.name}) is intact" if newest else "no state was saved"
        return f"{kept}: lower learning_rate or look at the data, and run again."

    def state(self, step: int) -> dict[str, Any]:
        """What a resumed run needs."""
        state = {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": step,
            "global_batch": self.config.global_batch(self.compute.processes),
        }
        if self.mean is not None:
            state["mean"] = self.mean.state()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state

    def load(self, state: dict[str, Any]) -> int:
        """Go on from a state; the step to go on at.

        Raises:
            ConfigError: If it was trained with another global batch.
        """
        wanted = self.config.global_batch(self.compute.processes)
        if state["global_batch"] != wanted:
            raise ConfigError(
                f"Stage {self.name} was trained with {state['global_batch']} samples a step, but "
                f"batch {self.config.batch}, accumulation {self.config.accumulation} and "
                f"{self.compute.processes} processes make {wanted}; go on with as many processes "
                "as before."
            )
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.mean is not None:
            self.mean.load(**state["mean"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return int(state["step"])

    def draw(self, folder: Path, step: int) -> None:
        """Write a sample sheet with the weights that the stage would hand on now."""
        if self.extras.draw_sheet is None:
            return
        held = nullcontext() if self.mean is None else self.mean.applied(self.module)
        with held, torch.no_grad(), self.accelerator.autocast():
            self.extras.draw_sheet(folder / "samples" / f"{self.name}_{step:07d}.png")


@contextmanager
def open_stage(
    name: str,
    module: nn.Module,
    loss_function: LossFunction,
    config: StageConfig,
    compute: Compute,
    extras: StageExtras,
) -> Iterator[StageRun]:
    """A stage ready to train, at its first step, for the length of a `with` block."""
    module.to(compute.device)
    with open_accelerator(config, compute) as accelerator:
        wrapped = accelerator.prepare_model(_LossModule(module, loss_function))
        optimiser = accelerator.prepare_optimizer(build_optimiser(module, config))
        mean = WeightMean(module, config.ema_decay) if config.ema_decay else None
        yield StageRun(
            name, module, config, compute, extras, accelerator, optimiser, wrapped, mean
        )  # fmt: skip


def run_stage(
    name: str,
    module: nn.Module,
    loss_function: LossFunction,
    config: StageConfig,
    folder: Path,
    *,
    compute: Compute | None = None,
    extras: StageExtras = _NO_EXTRAS,
) -> None:
    """Train the parameters of `module` that require gradients; resumes where it stopped.

    Args:
        name: Of the stage; names its states and its log in `folder`.
        module: What learns; parameters with `requires_grad=False` stay as they are.
        loss_function: Part of a step's batch -> named losses, means over the part; `"loss"` is
            the one that is minimised. It must depend on the part alone (and the module), so that
            a run can resume and processes can share it.
        config: The stage's settings, `steps` above 0.
        folder: Where states, log and sheets are kept.
        compute: Processes and device; None finds them.
        extras: Names of samples, sheets, logs.

    Raises:
        NonFiniteError: If the loss is NaN or infinite; a state saved before is kept.
        CheckpointError: If the saved state is damaged or of another kind.
        ConfigError: If the saved state is of another global batch, or the device lacks the
            precision.
        OutputError: If state, log or sheet cannot be written; the state before is kept.
    """
    with open_compute() if compute is None else nullcontext(compute) as place:
        folder.mkdir(parents=True, exist_ok=True)
        files = StateFiles(folder, name)
        with open_stage(name, module, loss_function, config, place, extras) as run:
            run.files, state = files, files.load()
            first = 0 if state is None else run.load(state)
            if state is not None:
                log.info("%s resumes at step %d of %d", name, first, config.steps)
            place.wait()
            with extras.reading(first):
                if place.is_main:
                    with open_log(folder, name, first=first, kind=extras.log) as rows:
                        _train(run, first, files, rows)
                else:
                    _train(run, first, None, None)
            if run.mean is not None:
                run.mean.copy_to(module)
        place.wait()


def _train(run: StageRun, first: int, files: StateFiles | None, rows: StepLog | None) -> None:
    """All steps from `first` on; the main process alone has files and rows."""
    config, saved = run.config, time.monotonic()
    hidden = run.extras.quiet or files is None
    for step in tqdm(range(first, config.steps), desc=run.name, disable=hidden, mininterval=5):
        values = run.run_step(step)
        if files is None or rows is None:
            continue
        rows.write(step, values)
        done, is_last = step + 1, step + 1 == config.steps
        due = time.monotonic() - saved > config.save_seconds
        if is_last or due or (config.save_steps and done % config.save_steps == 0):
            rows.flush()
            files.save(run.state(done))
            saved = time.monotonic()
        if config.sample_every and (is_last or done % config.sample_every == 0):
            run.draw(files.folder, done)
