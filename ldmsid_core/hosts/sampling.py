"""The sampling loop over diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..errors import ConfigError, NonFiniteError
from ..finite import is_finite
from .schedule import DEFAULT_SAMPLER, make_scheduler, set_steps

Predict = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[[int, int], None]
Around = Callable[[float], AbstractContextManager[None]]
_STOCHASTIC = ("ddpm-released",)


def sample_latent(
    predict: Predict,
    noise: Tensor,
    *,
    steps: int,
    sampler: str = DEFAULT_SAMPLER,
    prediction_type: str = "epsilon",
    seed: int = 0,
    begin: Tensor | None = None,
    start: float = 1.0,
    progress: Progress | None = None,
    check_steps: bool | None = None,
    culprit: Callable[[Tensor, Tensor], str | None] | None = None,
    around: Around | None = None,
) -> Tensor:
    """Denoise from pure noise, or from a noisy picture, to a latent.

    Args:
        predict: `(latent (B, 4, h, w), timestep (B,))` -> prediction of the same shape.
        noise: `(B, 4, h, w)` standard normal, on the device and in the dtype of sampling.
        steps: Network evaluations, 1 to 1000.
        sampler: One of `SAMPLER_NAMES`.
        prediction_type: What `predict` returns, `epsilon` or `v_prediction`.
        seed: For samplers that add noise on the way.
        begin: Latent that noise is added to where `start` is below 1.
        start: Part of the schedule that sampling begins at.
        progress: Called with (steps done, steps) after each step.
        check_steps: Look for NaN after each step, which waits for the device; None does so on the
            CPU and elsewhere only at the end.
        culprit: Asked after a result that is not finite, with what `predict` was given: the
            module that computed it, for the error.
        around: Timestep -> what its evaluation runs inside of.

    Returns:
        Latent of the shape of `noise`, float32.

    Raises:
        ConfigError: If steps, sampler or start are out of range.
        NonFiniteError: If the network returns NaN or infinity.
    """
    scheduler = make_scheduler(sampler, prediction_type=prediction_type)
    set_steps(scheduler, sampler, steps, start=start)
    if start != 1.0 and begin is None:
        raise ConfigError(f"Expected a latent to begin with at start {start:g}, found none.")
    check_each = noise.device.type == "cpu" if check_steps is None else check_steps
    generator = torch.Generator().manual_seed(seed + 1)
    extra = {"generator": generator} if sampler in _STOCHASTIC else {}
    latent = noise.float() * scheduler.init_noise_sigma
    if begin is not None and start != 1.0:
        clean = float(scheduler.alphas_cumprod[int(scheduler.timesteps[0])])
        latent = clean**0.5 * begin.float() + (1.0 - clean) ** 0.5 * noise.float()
    on_device = scheduler.timesteps.to(noise.device)
    for done, timestep in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(latent, timestep).to(noise.dtype)
        batch = on_device[done].expand(len(latent))
        with nullcontext() if around is None else around(float(timestep)):
            predicted = predict(seen, batch).float()
            broken = check_each and not is_finite(predicted)
            where = culprit(seen, batch) if broken and culprit is not None else None
        if broken:
            raise NonFiniteError(
                f"The tamed UNet returned NaN or infinity at timestep {int(timestep)}"
                f"{f', first in {where}' if where else ''}; use --dtype bf16 or fp32, and check "
                "that the weights are not damaged."
            )
        latent = scheduler.step(predicted, timestep, latent, **extra).prev_sample
        if progress is not None:
            progress(done + 1, len(scheduler.timesteps))
    if not check_each and not is_finite(latent):
        # Once more and slowly, to say where it began.
        return sample_latent(
            predict, noise, steps=steps, sampler=sampler, prediction_type=prediction_type,
            seed=seed, begin=begin, start=start, check_steps=True, culprit=culprit,
            around=around,
        )  # fmt: skip
    return latent
