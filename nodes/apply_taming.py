"""`Apply taming`: a tamed MODEL for any sampler node."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..ldmsid_core.pipeline import RawBands
from .schema import BANDS, TAMING, field_input, schema
from .taming_model import TamingModel
from .unet_binding import bind_unet


class ApplyTaming(io.ComfyNode):
    """MODEL, TAMING, BANDS -> MODEL, LATENT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        return schema(
            "LDMSID_ApplyTaming",
            "Apply taming",
            description="Steers a Stable Diffusion MODEL by the bands of a RAW. Any sampler works "
            "with the result, and so do LoRA, ControlNet and TiledDiffusion.",
            search_aliases=["taming", "sft", "adapter", "condition", "ldm-sid", "low light"],
            inputs=[
                field_input(io.Model, "model", tooltip="What the taming was trained with."),
                field_input(TAMING, "taming", tooltip="From Load taming or Load embedded model."),
                field_input(BANDS, "bands", tooltip="From Split bands."),
                field_input(
                    io.Float, "strength", default=1.0, min=0.0, max=2.0, step=0.01,
                    tooltip="1 is as trained; 0 leaves the model untamed.",
                ),
                field_input(
                    io.Float, "start_percent", default=0.0, min=0.0, max=1.0, step=0.001,
                    tooltip="Part of sampling where taming begins; 0 is its start.", advanced=True,
                ),
                field_input(
                    io.Float, "end_percent", default=1.0, min=0.0, max=1.0, step=0.001,
                    tooltip="Part of sampling where taming ends; 1 is its end.", advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output("tamed", display_name="model", tooltip="The tamed model."),
                io.Latent.Output(
                    "latent", display_name="latent",
                    tooltip="An empty latent of the right size, for the sampler.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, taming: TamingModel, bands: RawBands, strength: float,
        start_percent: float, end_percent: float,
    ) -> Any:  # fmt: skip
        """Bind."""
        bound, latent = bind_unet(
            model, taming, bands, strength=strength,
            start_percent=start_percent, end_percent=end_percent,
        )  # fmt: skip
        return io.NodeOutput(bound, latent)
