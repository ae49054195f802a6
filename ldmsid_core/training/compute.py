"""Devices and processes of a run, through Hugging Face accelerate.

Started by `accelerate launch` or `torchrun`, a run finds its processes in the environment; started
plainly it has one. Nothing of accelerate's shared state is left behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    gather_object,
)

from ..errors import ConfigError
from .pairs import BatchPart
from .stage import StageConfig

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Compute:
    """Where a process of a run computes.

    Attributes:
        device: Of this process.
        process: Its number.
        processes: How many train together.
        on_cpu: Leave accelerators alone.
    """

    device: torch.device
    process: int
    processes: int
    on_cpu: bool

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.process == 0

    def wait(self) -> None:
        """Until all processes are here."""
        PartialState(cpu=self.on_cpu).wait_for_everyone()

    def gathered(self, value: _Value) -> list[_Value]:
        """A value of every process."""
        return list(gather_object([value]))

    def part(self, config: StageConfig, step: int, number: int) -> BatchPart:
        """This process's samples in pass `number` of a step."""
        start = (number * self.processes + self.process) * config.batch
        return BatchPart(step, config.global_batch(self.processes), start, start + config.batch)


@contextmanager
def open_compute(*, on_cpu: bool = False) -> Iterator[Compute]:
    """The processes of this run for the length of a `with` block."""
    had_state = bool(PartialState._shared_state)
    state = PartialState(cpu=on_cpu)
    try:
        yield Compute(state.device, state.process_index, state.num_processes, on_cpu)
    finally:
        if not had_state and state.num_processes == 1:
            PartialState._reset_state()


@contextmanager
def open_accelerator(config: StageConfig, compute: Compute) -> Iterator[Accelerator]:
    """An `Accelerator` of one stage's precision and accumulation.

    accelerate allows one precision a program; its shared state is put aside, so that stages may
    differ and another user of it in this process finds what it left.

    Raises:
        ConfigError: If the device cannot compute in the stage's precision.
    """
    if config.precision == "fp16" and compute.device.type == "cpu":
        raise ConfigError(
            "Expected a GPU for precision fp16, found the CPU alone; set precision to bf16 or no."
        )
    shared = (AcceleratorState._shared_state, GradientState._shared_state)
    before = [dict(state) for state in shared]
    try:
        for state in shared:
            state.clear()
        yield Accelerator(
            mixed_precision=config.precision,
            # As a number it would give way to a variable that launchers set.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=config.accumulation),
            cpu=compute.on_cpu,
            # Gradients are not copied to be summed over processes.
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
    finally:
        for state, values in zip(shared, before, strict=True):
            state.clear()
            state.update(values)
