"""Where sampling starts and which timesteps it visits: the same for both ways in.

No scheduler library is needed here, so that ComfyUI's samplers can be handed the very grid and
noise that the command line uses.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .errors import ConfigError

TRAINING_STEPS = 1000
DEFAULT_STEPS = 12


def check_steps(steps: int) -> int:
    """The number of steps itself, if it is one.

    Raises:
        ConfigError: If it is below 1 or above 1000.
    """
    if not 1 <= steps <= TRAINING_STEPS:
        raise ConfigError(f"Expected 1 to {TRAINING_STEPS} sampling steps, found {steps}.")
    return steps


def initial_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise on the CPU: the same for every device, no global state touched."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def check_start(start: float) -> float:
    """The start itself, if it is one.

    Raises:
        ConfigError: If it is not above 0 and at most 1.
    """
    if not 0.0 < start <= 1.0:
        raise ConfigError(
            f"Expected a start above 0 and at most 1, found {start}; 1 begins with pure noise."
        )
    return start


def trailing_timesteps(steps: int, *, start: float = 1.0) -> list[int]:
    """Training timesteps that a sampler visits, from 999 down (Lin et al., 2024, trailing).

    Pure noise belongs to timestep 999; grids that start below it leave a brightness error.

    Args:
        steps: Network evaluations, 1 to 1000.
        start: Part of the schedule to begin at, where a picture with noise is begun with: 0.6
            begins at timestep 599.

    Raises:
        ConfigError: If `steps` or `start` is out of range.
    """
    top = check_start(start) * TRAINING_STEPS
    spacing = top / check_steps(steps)
    if spacing < 1.0:
        raise ConfigError(
            f"Expected at most {int(top)} sampling steps from start {start:g}, found {steps}."
        )
    grid = np.round(np.arange(top, 0, -spacing)) - 1
    return [int(timestep) for timestep in grid[:steps]]
