"""`Tamed decode`: latent to photograph, with the RAW's own detail."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..ldmsid_core.decoding.decode import DECODE_MODES
from ..ldmsid_core.pipeline import RawBands
from .decoder_binding import decode_tamed
from .images import to_comfy
from .run_text import teller
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
                field_input(
                    io.Combo, "mode", options=list(DECODE_MODES), default="auto", optional=True,
                    tooltip="auto: exact while it fits in memory, bounded beyond. exact decodes "
                    "the frame in one piece, bounded in tiles.",
                ),
                field_input(
                    io.Int, "tile", default=0, min=0, max=8192, step=64, optional=True,
                    tooltip="Side of the tiles of bounded, in pixels, at least 512; 0 chooses.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image", display_name="image",
                    tooltip="The photograph, half the sensor's width and height, or a crop of it.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, vae: Any, taming: TamingModel, bands: RawBands, latent: dict[str, Any],
        strength: float, mode: str = "auto", tile: int = 0,
    ) -> Any:  # fmt: skip
        """Decode."""
        image = decode_tamed(
            vae, taming, bands, latent, strength=strength, mode=mode, tile=tile, tell=teller(cls)
        )
        return io.NodeOutput(to_comfy(image))
