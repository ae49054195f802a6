"""Noise schedules and solvers: diffusers' own, under the names this project uses.

`dpmpp-2m`, `unipc` and `ddim` use trailing spacing, so sampling starts where pure noise belongs
and the last step is not lost. `ddim-released` and `ddpm-released` are the released
implementation's two samplers, kept because published numbers depend on them.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)

from ..errors import ConfigError
from ..sampling_grid import check_steps, trailing_timesteps

SamplerName = Literal["dpmpp-2m", "unipc", "ddim", "ddim-released", "ddpm-released"]
SAMPLER_NAMES: tuple[SamplerName, ...] = get_args(SamplerName)
DEFAULT_SAMPLER: SamplerName = "dpmpp-2m"

_NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def set_steps(scheduler: Any, name: str, steps: int, *, start: float = 1.0) -> None:
    """Give a scheduler its grid; ours is exact where rounding lets diffusers add a step.

    Args:
        scheduler: From `make_scheduler`.
        name: It was made under.
        steps: Network evaluations, 1 to 1000.
        start: Part of the schedule to begin at; below 1 for our own grids alone.

    Raises:
        ConfigError: If `steps` or `start` is out of range.
    """
    scheduler.set_timesteps(check_steps(steps))
    if name.endswith("-released"):
        if start != 1.0:
            raise ConfigError(
                f"Expected start 1 with the sampler {name}, found {start:g}; use dpmpp-2m, unipc "
                "or ddim."
            )
        return
    grid = trailing_timesteps(steps, start=start)
    clean = scheduler.alphas_cumprod[grid]
    levels = ((1.0 - clean) / clean).sqrt()
    scheduler.timesteps = torch.tensor(grid)
    scheduler.sigmas = torch.cat([levels, torch.zeros(1)]).float()
    scheduler.num_inference_steps = steps


def make_scheduler(name: str, *, prediction_type: str = "epsilon") -> Any:
    """A diffusers scheduler with Stable Diffusion's noise schedule.

    Args:
        name: One of `SAMPLER_NAMES`.
        prediction_type: What the host predicts: `epsilon` or `v_prediction`.

    Raises:
        ConfigError: If the name is unknown.
    """
    common = {**_NOISE, "prediction_type": prediction_type}
    if name == "dpmpp-2m":
        return DPMSolverMultistepScheduler(
            **common, algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="trailing"
        )
    if name == "unipc":
        return UniPCMultistepScheduler(**common, solver_order=2, timestep_spacing="trailing")
    if name == "ddim":
        # DDIM is DPM-Solver++ of order 1; diffusers' own DDIM leaves the trailing grid where
        # 1000 does not divide by the steps, and noise in the result.
        return DPMSolverMultistepScheduler(
            **common, algorithm_type="dpmsolver++", solver_order=1, timestep_spacing="trailing"
        )
    if name == "ddim-released":
        return DDIMScheduler(
            **common, clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading"
        )
    if name == "ddpm-released":
        return DDPMScheduler(
            **common, clip_sample=False, variance_type="fixed_small", timestep_spacing="linspace"
        )
    raise ConfigError(f"Expected a sampler among {', '.join(SAMPLER_NAMES)}, found {name!r}.")
