"""`Compare images`: two pictures under one slider."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from .images import from_comfy
from .saving import describe, save_pictures
from .schema import field_input, schema


class CompareImages(io.ComfyNode):
    """Two IMAGEs -> a slider on the node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        return schema(
            "LDMSID_CompareImages",
            "Compare images",
            description="Shows before and after under a slider that follows the pointer.",
            search_aliases=["compare", "before after", "slider", "difference", "a/b"],
            is_output_node=True,
            inputs=[
                field_input(io.Image, "before", tooltip="Shown on the left of the slider."),
                field_input(
                    io.Image, "after",
                    tooltip="Shown on the right; may have another size, it is fitted.",
                ),
            ],
            outputs=[],
        )  # fmt: skip

    @classmethod
    def execute(cls, before: Tensor, after: Tensor) -> Any:
        """Keep both in the temp folder for the slider; the first of a batch is shown."""
        shown = [
            entry
            for picture in (before, after)
            for entry in save_pictures(
                from_comfy(picture[:1]), describe(None, {}),
                prefix="LDM-SID/compare", output_format="png", kind="temp",
            )
        ]  # fmt: skip
        return io.NodeOutput(ui={"ldmsid_compare": shown})
