"""The sampling loop over diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import NonFiniteError
from .schedule import DEFAULT_SAMPLER, make_scheduler, set_steps

Predict = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[[int, int], None]
_STOCHASTIC = ("ddpm-released",)


def sample_latent(
    predict: Predict,
    noise: Tensor,
    *,
    steps: int,
    sampler: str = DEFAULT_SAMPLER,
    prediction_type: str = "epsilon",
    seed: int = 0,
    progress: Progress | None = None,
    culprit: Callable[[Tensor, Tensor], str | None] | None = None,
) -> Tensor:
    """Denoise from pure noise to a latent.

    Args:
        predict: `(latent (B, 4, h, w), timestep (B,))` -> prediction of the same shape.
        noise: `(B, 4, h, w)` standard normal, on the device and in the dtype of sampling.
        steps: Network evaluations, 1 to 1000.
        sampler: One of `SAMPLER_NAMES`.
        prediction_type: What `predict` returns, `epsilon` or `v_prediction`.
        seed: For samplers that add noise on the way.
        progress: Called with (steps done, steps) after each step.
        culprit: Asked after a result that is not finite, with what `predict` was given: the
            module that computed it, for the error.

    Returns:
        Latent of the shape of `noise`, float32.

    Raises:
        ConfigError: If steps or sampler are out of range.
        NonFiniteError: If the network returns NaN or infinity.
    """
    scheduler = make_scheduler(sampler, prediction_type=prediction_type)
    set_steps(scheduler, sampler, steps)
    generator = torch.Generator().manual_seed(seed + 1)
    extra = {"generator": generator} if sampler in _STOCHASTIC else {}
    latent = noise.float() * scheduler.init_noise_sigma
    for done, timestep in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(latent, timestep).to(noise.dtype)
        batch = timestep.to(noise.device).expand(len(latent))
        predicted = predict(seen, batch).float()
        if not torch.isfinite(predicted).all():
            where = None if culprit is None else culprit(seen, batch)
            raise NonFiniteError(
                f"The tamed UNet returned NaN or infinity at timestep {int(timestep)}"
                f"{f', first in {where}' if where else ''}; use --dtype bf16 or fp32, and check "
                "that the weights are not damaged."
            )
        latent = scheduler.step(predicted, timestep, latent, **extra).prev_sample
        if progress is not None:
            progress(done + 1, len(scheduler.timesteps))
    return latent
