"""`Tamed decode`: latent to photograph, with the RAW's own detail."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..ldmsid_core.pipeline import RawBands
from .decoder_binding import decode_tamed
from .images import to_comfy
from .schema import BANDS, TAMING, field_input, schema
from .taming_model import TamingModel


class TamedDecode(io.ComfyNode):
    """VAE, TAMING, BANDS, LATENT -> IMAGE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        return schema(
            "LDMSID_TamedDecode",
            "Tamed decode",
            description="Decodes a latent while the RAW's bands keep its detail and colour. The "
            "photograph comes out upright and cropped to the frame.",
            search_aliases=["vae decode", "decode", "detail", "ldm-sid"],
            inputs=[
                field_input(io.Vae, "vae", tooltip="Of the model the taming was trained with."),
                field_input(TAMING, "taming", tooltip="From Load taming or Load embedded model."),
                field_input(BANDS, "bands", tooltip="The bands that the latent was sampled with."),
                field_input(io.Latent, "latent", tooltip="From Tamed sampler or any sampler."),
                field_input(
                    io.Float, "strength", default=1.0, min=0.0, max=2.0, step=0.01,
                    tooltip="1 is as trained; 0 leaves the decoder untamed.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image", display_name="image",
                    tooltip="The photograph, half the sensor's width and height.",
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, vae: Any, taming: TamingModel, bands: RawBands, latent: dict[str, Any], strength: float
    ) -> Any:
        """Decode."""
        image = decode_tamed(vae, taming, bands, latent, strength=strength)
        return io.NodeOutput(to_comfy(image))
