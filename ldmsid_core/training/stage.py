"""Settings of one training stage, and its learning rate at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ..errors import ConfigError

Precision = Literal["no", "bf16", "fp16"]
Schedule = Literal["cosine", "constant"]
OptimiserName = Literal["adamw", "adam"]


@dataclass(frozen=True)
class StageConfig:
    """Settings of one training stage.

    A step sees `batch * accumulation` samples on each process.

    Attributes:
        steps: Optimiser steps; 0 where `epochs` counts instead.
        epochs: Passes over the training data; 0 where `steps` counts.
        batch: Samples a process computes at a time.
        accumulation: Such batches whose gradients are averaged before an optimiser step.
        crop: Side of the training crops in packed pixels, a multiple of 64.
        learning_rate: Peak, reached after `warmup` steps.
        warmup: Steps of linear rise.
        schedule: After the rise: `cosine` falls to zero by half a cosine, `constant` stays.
        optimiser: `adamw` or `adam`, whose weight decay is an L2 term of the gradient.
        weight_decay: Of the optimiser.
        adam_betas: Of the optimiser.
        max_gradient_norm: Gradients are scaled down to this 2-norm.
        precision: Run the networks under autocast to this dtype; weights stay float32.
        checkpointing: Keep few activations of the host and compute the others again in the
            backward pass: less memory, about a third more time.
        ema_decay: Of a running mean of the weights, which is what the stage hands on; 0 is none.
        save_seconds: Seconds between saved states.
        save_steps: Save a state after every so many steps as well; 0 goes by seconds alone.
        sample_every: Steps between sample sheets; 0 draws none.
    """

    steps: int = 0
    epochs: int = 0
    batch: int = 8
    accumulation: int = 1
    crop: int = 128
    learning_rate: float = 5e-4
    warmup: int = 50
    schedule: Schedule = "cosine"
    optimiser: OptimiserName = "adamw"
    weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.99)
    max_gradient_norm: float = 1.0
    precision: Precision = "bf16"
    checkpointing: bool = False
    ema_decay: float = 0.0
    save_seconds: float = 120.0
    save_steps: int = 0
    sample_every: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        if min(self.steps, self.epochs) < 0 or (self.steps > 0) == (self.epochs > 0):
            raise ConfigError(
                f"Expected exactly one of steps and epochs above 0, found steps {self.steps} and "
                f"epochs {self.epochs}."
            )
        for name in ("batch", "accumulation"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("warmup", "save_steps", "sample_every", "weight_decay", "save_seconds"):
            _require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in ("learning_rate", "max_gradient_norm"):
            _require(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        for name, choices in (
            ("schedule", get_args(Schedule)), ("optimiser", get_args(OptimiserName)),
            ("precision", get_args(Precision)),
        ):  # fmt: skip
            found = getattr(self, name)
            _require(found in choices, name, f"among {', '.join(choices)}", found)
        if self.crop % 64 or self.crop < 64:
            raise ConfigError(f"Expected a crop that is a multiple of 64, found {self.crop}.")
        _require(0.0 <= self.ema_decay < 1.0, "ema_decay", "in 0..1, 1 excluded", self.ema_decay)
        if len(self.adam_betas) != 2 or not all(0.0 <= b < 1.0 for b in self.adam_betas):
            raise ConfigError(f"Expected two adam_betas in 0..1, found {self.adam_betas}.")

    def global_batch(self, processes: int) -> int:
        """Samples that one optimiser step sees, all processes together."""
        return self.batch * self.accumulation * processes

    def counted_in_steps(self, samples: int | None, processes: int, name: str) -> StageConfig:
        """The same settings with epochs turned into steps, the last one rounded up.

        Args:
            samples: Of one pass over the training data; None where it has no end.
            processes: That train together.
            name: Of the stage, for the error.

        Raises:
            ConfigError: If epochs are asked for of data without an end.
        """
        if not self.epochs:
            return self
        if samples is None:
            raise ConfigError(
                f"Stage {name} counts in epochs, but its training data have no end; give steps, or "
                "epoch_samples under pool."
            )
        steps = math.ceil(self.epochs * samples / self.global_batch(processes))
        return replace(self, steps=steps, epochs=0)


def _require(holds: bool, name: str, wanted: str, found: object) -> None:
    if not holds:
        raise ConfigError(f"Expected {name} {wanted}, found {found}.")


def learning_rate_factor(step: int, config: StageConfig) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then the schedule."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    part = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, part)))
