"""`Tamed sampler`: the recommended recipe in one node."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..ldmsid_core.errors import NonFiniteError
from ..ldmsid_core.finite import is_finite
from ..ldmsid_core.pipeline import RawBands
from ..ldmsid_core.sampling_grid import DEFAULT_STEPS, trailing_timesteps
from ..ldmsid_core.taming.watch import first_non_finite
from ..ldmsid_core.tiling import DEFAULT_OVERLAP, check_tile
from .host_check import check_model
from .run_text import teller
from .schema import BANDS, TAMING, choice_of, field_input, schema
from .tamed_sampling import FrameSampling, begin_vae
from .taming_model import TamingModel
from .unet_binding import PART_KEY, empty_latent

TRAILING = "trailing"
_MAX_SEED = 0xFFFFFFFFFFFFFFFF
_LARGEST_TILE = 8192


def scheduler_choices() -> list[str]:
    """Our own grid first, then the host's."""
    return [TRAILING, *comfy.samplers.KSampler.SCHEDULERS]


def sampler_sigmas(
    model: Any, sampler: str, scheduler: str, steps: int, *, start: float = 1.0
) -> Tensor:
    """The noise levels of a run, `(steps + 1,)`, the last 0.

    Args:
        model: A MODEL.
        sampler: Some of the host's solvers want one level less.
        scheduler: `trailing` is the command line's grid; others are the host's own.
        steps: Network evaluations asked for.
        start: Part of the schedule to begin at; the host's own are cut as by a denoise.

    Raises:
        ConfigError: If steps or start are out of range.
    """
    grid = trailing_timesteps(steps, start=start)
    if scheduler == TRAILING:
        sampling = model.get_model_object("model_sampling")
        levels = sampling.sigma(torch.tensor(grid, dtype=torch.float32))
        return torch.cat([levels.float().cpu(), torch.zeros(1)])
    native = comfy.samplers.KSampler(
        model, steps=steps, device=model.load_device, sampler=sampler, scheduler=scheduler,
        denoise=start,
    )  # fmt: skip
    return native.sigmas


def sample_latent(sampling: FrameSampling) -> dict[str, Any]:
    """Sample to a LATENT that knows its file and, where only that was sampled, its part.

    Raises:
        NonFiniteError: If the result holds NaN or infinity.
    """
    bands = sampling.bands
    latent = empty_latent(sampling.split.structure_input, bands.identity)
    samples, is_part = sampling.run()
    if not is_finite(samples):
        networks = {"UNet": sampling.model.model.diffusion_model}
        if sampling.strength != 0.0:
            networks["UNet taming"] = sampling.taming.need_unet().model
        where = first_non_finite(networks, sampling.run)
        raise NonFiniteError(
            f"The tamed model returned NaN or infinity for {bands.raw.file_name}"
            f"{f', first in {where}' if where else ''}; start ComfyUI with --bf16-unet or "
            "--fp32-unet, and check that the weights are whole."
        )
    latent["samples"] = samples.to(latent["samples"].device, torch.float32)
    if is_part:
        assert bands.region is not None
        latent[PART_KEY] = tuple(bands.region)
    return latent


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
                field_input(
                    io.Int, "tile", default=0, min=0, max=_LARGEST_TILE, step=64, optional=True,
                    tooltip="Side of the tiles that each step is computed in, in pixels. 0 chooses "
                    "by work and free memory; as large as the picture computes it in one piece.",
                ),
                field_input(
                    io.Int, "overlap", default=DEFAULT_OVERLAP, min=0, max=4096, step=8,
                    optional=True,
                    tooltip="Of neighbouring tiles, in pixels; below the tile.",
                ),
                field_input(
                    io.Float, "start", default=1.0, min=0.05, max=1.0, step=0.05, optional=True,
                    tooltip="1 begins with pure noise. Less begins with the amplified low band, "
                    "needs a VAE and stays closer to it.",
                ),
                field_input(
                    io.Vae, "vae", optional=True,
                    tooltip="Of the model; only needed where start is below 1.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="For Tamed decode.")
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, taming: TamingModel, bands: RawBands, seed: int, steps: int,
        sampler_name: str, scheduler: str, strength: float, tile: int = 0,
        overlap: int = DEFAULT_OVERLAP, start: float = 1.0, vae: Any = None,
    ) -> Any:  # fmt: skip
        """Check and sample."""
        choice_of(sampler_name, list(comfy.samplers.KSampler.SAMPLERS), "a sampler")
        choice_of(scheduler, scheduler_choices(), "a scheduler")
        check_tile(tile or _LARGEST_TILE, overlap)
        check_model(model, taming)
        taming.conditioning()
        sigmas = sampler_sigmas(model, sampler_name, scheduler, steps, start=start)
        sampling = FrameSampling(
            model, taming, bands, bands.for_recipe(taming.header.input_recipe), seed, sampler_name,
            sigmas, strength, tile, overlap, begin_vae(vae, start), teller(cls),
        )  # fmt: skip
        return io.NodeOutput(sample_latent(sampling))
