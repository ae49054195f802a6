"""One training loop for every stage: seeded, resumable, bf16 where it pays, CSV log."""

from __future__ import annotations

import csv
import logging
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import CheckpointError, ConfigError, NonFiniteError, OutputError
from ..output.atomic import written_atomically

log = logging.getLogger(__name__)

LossFunction = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class StageConfig:
    """Settings of one training stage.

    Attributes:
        steps: Optimiser steps.
        batch: Images a step.
        crop: Side of the training crops in packed pixels, a multiple of 64.
        learning_rate: Peak, reached after `warmup` steps, then a cosine down to zero.
        warmup: Steps of linear rise.
        weight_decay: Of AdamW.
        adam_betas: Of AdamW.
        max_gradient_norm: Gradients are scaled down to this 2-norm.
        bf16: Run the networks under bfloat16 autocast.
        save_seconds: Seconds between saved states.
    """

    steps: int
    batch: int = 8
    crop: int = 128
    learning_rate: float = 5e-4
    warmup: int = 50
    weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.99)
    max_gradient_norm: float = 1.0
    bf16: bool = True
    save_seconds: float = 120.0

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.steps < 1 or self.batch < 1 or self.warmup < 0:
            raise ConfigError(f"Expected steps, batch >= 1 and warmup >= 0, found {self}.")
        if self.crop % 64 or self.crop < 64:
            raise ConfigError(f"Expected a crop that is a multiple of 64, found {self.crop}.")
        if not self.learning_rate > 0:
            raise ConfigError(f"Expected learning_rate > 0, found {self.learning_rate}.")


def learning_rate_factor(step: int, config: StageConfig) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then half a cosine to 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    part = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, part)))


def _save_state(path: Path, state: dict[str, object]) -> None:
    with written_atomically(path, overwrite=True) as partial:
        try:
            torch.save(state, partial)
        except RuntimeError as error:  # how torch reports a full disk
            raise OutputError(f"Cannot write {path}: {error}; make room and resume.") from error


def _load_state(path: Path) -> dict[str, Any]:
    try:
        return dict(torch.load(path, weights_only=True))
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"Expected a training state, but {path} is damaged ({error}); delete it to train the "
            "stage again."
        ) from error


def run_stage(
    name: str,
    module: nn.Module,
    loss_function: LossFunction,
    config: StageConfig,
    folder: Path,
    *,
    quiet: bool = False,
) -> None:
    """Train the parameters of `module` that require gradients; resumes where it stopped.

    Args:
        name: Of the stage; names its state file and its log in `folder`.
        module: What learns; parameters with `requires_grad=False` stay as they are.
        loss_function: Step number -> named losses; `"loss"` is the one that is minimised.
            It must depend on the step alone (and the module), so that a run can resume.
        config: The stage's settings.
        folder: Where state and log are kept.
        quiet: No progress bar.

    Raises:
        NonFiniteError: If the loss is NaN or infinite; the last saved state is kept.
        CheckpointError: If the saved state is damaged.
        OutputError: If the state cannot be written; the one before is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state_path, log_path = folder / f"{name}.state.pt", folder / f"{name}.csv"
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.adam_betas,
        weight_decay=config.weight_decay,
    )
    first = 0
    if state_path.exists():
        state = _load_state(state_path)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        first = int(state["step"])
        log.info("%s resumes at step %d of %d", name, first, config.steps)

    def save(step: int) -> None:
        state = {"module": module.state_dict(), "optimiser": optimiser.state_dict()}
        _save_state(state_path, {**state, "step": step})

    saved = time.monotonic()
    with log_path.open("a", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        for step in tqdm(range(first, config.steps), desc=name, disable=quiet, mininterval=5):
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * learning_rate_factor(step, config)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
                losses = loss_function(step)
            value = losses["loss"].item()
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"Stage {name} met a loss of {value} at step {step}; the state "
                    f"of {state_path} is intact: lower learning_rate and run again."
                )
            optimiser.zero_grad(set_to_none=True)
            losses["loss"].backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(parameters, config.max_gradient_norm)
            optimiser.step()
            rows.writerow(
                [step, f"{norm.item():.4g}", *(f"{k}={v.item():.5g}" for k, v in losses.items())]
            )
            if step % 20 == 0:
                stream.flush()
            if time.monotonic() - saved > config.save_seconds:
                save(step + 1)
                saved = time.monotonic()
        save(config.steps)
