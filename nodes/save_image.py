"""`Save image`: PNG or TIFF with camera metadata, sRGB profile and the graph."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..ldmsid_core.raw.packed_raw import PackedRaw
from .images import from_comfy
from .saving import describe, graph_texts, save_pictures
from .schema import RAW, choice_of, field_input, schema

FORMATS = {"PNG 8 bit": "png", "PNG 16 bit": "png16", "TIFF 16 bit": "tiff16"}


class SaveImage(io.ComfyNode):
    """IMAGE, RAW -> files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        return schema(
            "LDMSID_SaveImage",
            "Save photograph",
            description="Saves with an sRGB profile, the workflow and, when a RAW is wired, "
            "the camera's metadata inside, in 8 or 16 bits. Nothing is ever overwritten.",
            search_aliases=["save image", "png", "tiff", "16 bit", "exif", "export"],
            is_output_node=True,
            inputs=[
                field_input(io.Image, "images", tooltip="What to save."),
                field_input(
                    io.String, "filename_prefix", default="LDM-SID/enhanced",
                    tooltip="Folder and start of the name, inside ComfyUI's output folder.",
                ),
                field_input(
                    io.Combo, "format", options=list(FORMATS), default="PNG 8 bit",
                    tooltip="16 bits keep finer tones for later editing.",
                ),
                field_input(
                    RAW, "raw", optional=True,
                    tooltip="Wire it to keep camera, lens and exposure data in the file.",
                ),
            ],
            outputs=[],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images: Tensor, filename_prefix: str, format: str, raw: PackedRaw | None = None
    ) -> Any:
        """Write the files; a TIFF, which browsers do not show, gets a preview beside it."""
        output_format = FORMATS[choice_of(format, list(FORMATS), "a format")]
        pictures = from_comfy(images)
        info = describe(raw, graph_texts(cls.hidden))
        saved = save_pictures(
            pictures, info, prefix=filename_prefix, output_format=output_format, kind="output"
        )
        if output_format != "tiff16":
            return io.NodeOutput(ui={"images": saved})
        shown = save_pictures(
            pictures, describe(None, {}), prefix="LDM-SID/preview", output_format="png", kind="temp"
        )
        return io.NodeOutput(ui={"images": shown, "ldmsid_files": saved})
