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


def trailing_timesteps(steps: int) -> list[int]:
    """Training timesteps that a sampler visits, from 999 down (Lin et al., 2024, trailing).

    Pure noise belongs to timestep 999; grids that start below it leave a brightness error.

    Args:
        steps: Network evaluations, 1 to 1000.

    Raises:
        ConfigError: If `steps` is out of range.
    """
    spacing = TRAINING_STEPS / check_steps(steps)
    grid = np.round(np.arange(TRAINING_STEPS, 0, -spacing)) - 1
    return [int(timestep) for timestep in grid[:steps]]
