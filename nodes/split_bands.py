"""`Split bands`: the wavelet pyramid that steers sampling and decoding."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..ldmsid_core.band_views import detail_picture, low_band_picture
from ..ldmsid_core.crop import Crop, crop_on_sensor, parse_crop
from ..ldmsid_core.pipeline import RawBands
from ..ldmsid_core.raw.packed_raw import PackedRaw
from ..ldmsid_core.taming.header import InputRecipe
from .images import to_comfy
from .schema import BANDS, RAW, field_input, schema

_VIEW = InputRecipe(white_balance="as shot")


def region_of(crop: str, raw: PackedRaw) -> Crop | None:
    """Where a part of the finished picture lies on the sensor; None for an empty text.

    Raises:
        ConfigError: If it is no rectangle or reaches beyond the picture.
    """
    if not crop.strip():
        return None
    height, width = raw.planes.shape[-2:]
    return crop_on_sensor(parse_crop(crop), height=height, width=width, orientation=raw.orientation)


class SplitBands(io.ComfyNode):
    """RAW -> BANDS and two pictures of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        return schema(
            "LDMSID_SplitBands",
            "Split bands",
            description="Splits the exposed RAW into a coarse band, which generates content, and "
            "fine bands, which keep detail (three-level Haar wavelet).",
            search_aliases=["wavelet", "dwt", "haar", "frequency", "detail", "bands"],
            inputs=[
                field_input(RAW, "raw", tooltip="From Expose RAW."),
                field_input(
                    io.String, "crop", default="", optional=True,
                    tooltip="Part of the finished picture to make, as x,y,width,height in its "
                    "pixels; empty is all of it.",
                ),
            ],
            outputs=[
                BANDS.Output(
                    "bands", display_name="bands",
                    tooltip="For Tamed sampler, Apply taming and Tamed decode.",
                ),
                io.Image.Output(
                    "low_band", display_name="low band",
                    tooltip="What the sampler is steered by, at 1/16 of the sensor's size.",
                ),
                io.Image.Output(
                    "detail", display_name="detail",
                    tooltip="The finest detail around grey: vertical edges red, horizontal green, "
                    "diagonal blue. In the dark it is mostly noise.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, raw: PackedRaw, crop: str = "") -> Any:
        """Split; the bands themselves are made for each model's own white balance."""
        bands = RawBands(raw, region=region_of(crop, raw))
        shown = bands.for_recipe(_VIEW)
        low = low_band_picture(shown, raw, _VIEW)
        return io.NodeOutput(bands, to_comfy(low), to_comfy(detail_picture(shown, raw)))
