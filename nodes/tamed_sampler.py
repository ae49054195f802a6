"""`Tamed sampler`: the recommended recipe in one node."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..ldmsid_core.errors import NonFiniteError
from ..ldmsid_core.pipeline import RawBands
from ..ldmsid_core.sampling_grid import DEFAULT_STEPS, initial_noise, trailing_timesteps
from ..ldmsid_core.taming.watch import first_non_finite
from .schema import BANDS, TAMING, choice_of, field_input, schema
from .taming_model import TamingModel
from .unet_binding import bind_unet

TRAILING = "trailing"
_MAX_SEED = 0xFFFFFFFFFFFFFFFF


def scheduler_choices() -> list[str]:
    """Our own grid first, then the host's."""
    return [TRAILING, *comfy.samplers.KSampler.SCHEDULERS]


def sampler_sigmas(model: Any, sampler: str, scheduler: str, steps: int) -> Tensor:
    """The noise levels of a run, `(steps + 1,)`, the last 0.

    Args:
        model: A MODEL.
        sampler: Some of the host's solvers want one level less.
        scheduler: `trailing` is the command line's grid; others are the host's own.
        steps: Network evaluations asked for.

    Raises:
        ConfigError: If the steps are out of range.
    """
    grid = trailing_timesteps(steps)
    if scheduler == TRAILING:
        sampling = model.get_model_object("model_sampling")
        levels = sampling.sigma(torch.tensor(grid, dtype=torch.float32))
        return torch.cat([levels.float().cpu(), torch.zeros(1)])
    native = comfy.samplers.KSampler(
        model, steps=steps, device=model.load_device, sampler=sampler, scheduler=scheduler
    )
    return native.sigmas


def sample_tamed(
    model: Any,
    conditioning: list[Any],
    latent: Tensor,
    *,
    seed: int,
    sampler: str,
    sigmas: Tensor,
) -> Tensor:
    """Sample without guidance from the noise that the seed alone determines."""
    noise = initial_noise(tuple(latent.shape), seed)
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": conditioning})
    guider.set_cfg(1.0)
    return guider.sample(
        noise, latent, comfy.samplers.sampler_object(sampler), sigmas,
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed,
    )  # fmt: skip


class TamedSampler(io.ComfyNode):
    """MODEL, TAMING, BANDS -> LATENT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        return schema(
            "LDMSID_TamedSampler",
            "Tamed sampler",
            description="Generates the photograph's content from the RAW's coarse band. With "
            "dpmpp_2m and trailing, a seed gives the same picture as on the command line.",
            search_aliases=["ksampler", "sampler", "see in the dark", "enhance", "ldm-sid"],
            inputs=[
                field_input(io.Model, "model", tooltip="What the taming was trained with."),
                field_input(TAMING, "taming", tooltip="From Load taming or Load embedded model."),
                field_input(BANDS, "bands", tooltip="From Split bands."),
                field_input(
                    io.Int, "seed", default=0, min=0, max=_MAX_SEED, control_after_generate=True,
                    tooltip="Of the noise that sampling starts from.",
                ),
                field_input(
                    io.Int, "steps", default=DEFAULT_STEPS, min=1, max=1000,
                    tooltip="More steps take longer and change little.",
                ),
                field_input(
                    io.Combo, "sampler_name", options=list(comfy.samplers.KSampler.SAMPLERS),
                    default="dpmpp_2m", tooltip="dpmpp_2m is recommended.",
                ),
                field_input(
                    io.Combo, "scheduler", options=scheduler_choices(), default=TRAILING,
                    tooltip="trailing is recommended: sampling starts at pure noise.",
                ),
                field_input(
                    io.Float, "strength", default=1.0, min=0.0, max=2.0, step=0.01,
                    tooltip="1 is as trained; 0 leaves the model untamed.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="For Tamed decode.")
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, taming: TamingModel, bands: RawBands, seed: int, steps: int,
        sampler_name: str, scheduler: str, strength: float,
    ) -> Any:  # fmt: skip
        """Bind and sample."""
        choice_of(sampler_name, list(comfy.samplers.KSampler.SAMPLERS), "a sampler")
        choice_of(scheduler, scheduler_choices(), "a scheduler")
        bound, latent = bind_unet(model, taming, bands, strength=strength)
        sigmas = sampler_sigmas(bound, sampler_name, scheduler, steps)

        def sample() -> Tensor:
            return sample_tamed(
                bound, taming.conditioning(), latent["samples"],
                seed=seed, sampler=sampler_name, sigmas=sigmas,
            )  # fmt: skip

        samples = sample().to(latent["samples"].device, torch.float32)
        if not samples.isfinite().all():
            networks = {"UNet": bound.model.diffusion_model}
            if strength != 0.0:
                networks["UNet taming"] = taming.need_unet().model
            where = first_non_finite(networks, sample)
            raise NonFiniteError(
                f"The tamed model returned NaN or infinity for {bands.raw.file_name}"
                f"{f', first in {where}' if where else ''}; start ComfyUI with --bf16-unet or "
                "--fp32-unet, and check that the weights are whole."
            )
        return io.NodeOutput({**latent, "samples": samples})
