"""`Load taming`: trained modules from `models/ldmsid`, or the embedded ones."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..ldmsid_core.errors import CheckpointError
from .files import fingerprint, resolve_taming, taming_choices
from .schema import TAMING, field_input, schema
from .taming_model import load_taming_model


class LoadTaming(io.ComfyNode):
    """File -> TAMING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        return schema(
            "LDMSID_LoadTaming",
            "Load taming",
            description="Loads the trained modules that steer a frozen Stable Diffusion. They fit "
            "only the host they were trained with.",
            search_aliases=["ldm-sid", "ldm-isp", "sft", "adapter", "taming", "low light"],
            inputs=[
                field_input(
                    io.Combo, "taming_file", options=taming_choices(),
                    tooltip="A file in models/ldmsid. '[embedded] tiny' comes with the pack and "
                    "fits Load embedded model alone.",
                )
            ],
            outputs=[
                TAMING.Output(
                    "taming", display_name="taming",
                    tooltip="For Apply taming, Tamed sampler and Tamed decode.",
                )
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, taming_file: str | None) -> bool | str:
        """Whether the file is there, before anything runs; a wired name is not known yet."""
        if taming_file is None:
            return True
        try:
            resolve_taming(taming_file)
        except CheckpointError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, taming_file: str) -> str:
        """Changes when the file does."""
        return fingerprint(resolve_taming(taming_file))

    @classmethod
    def execute(cls, taming_file: str) -> Any:
        """Read the file."""
        return io.NodeOutput(load_taming_model(resolve_taming(taming_file)))
