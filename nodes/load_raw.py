"""`Load RAW`: a camera file from the input folder, or the packaged sample."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.v0_0_2 import io

from ..ldmsid_core.errors import UnsupportedRawError
from ..ldmsid_core.raw.develop import naive_picture
from ..ldmsid_core.raw.loader import RAW_EXTENSIONS, load_raw
from .files import fingerprint, raw_choices, resolve_raw
from .images import to_comfy
from .schema import RAW, field_input, schema


class LoadRaw(io.ComfyNode):
    """File -> RAW, neutral picture, what the camera wrote."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face; the list of files is read anew each time."""
        picker = field_input(
            io.Combo,
            "raw_file",
            options=raw_choices(),
            tooltip="A camera RAW (Bayer sensor) in ComfyUI's input folder or below. Drop a file "
            "on the node or use the button to add one. '[sample] dark' comes with the pack.",
        )
        picker.extra_dict = {**(picker.extra_dict or {}), "ldmsid_upload": list(RAW_EXTENSIONS)}
        return schema(
            "LDMSID_LoadRaw",
            "Load RAW",
            description="Reads a camera RAW file as linear sensor data; nothing is clipped.",
            search_aliases=["raw", "arw", "nef", "cr2", "dng", "camera", "photo", "load image"],
            inputs=[picker],
            outputs=[
                RAW.Output("raw", display_name="raw", tooltip="The sensor data, for Expose RAW."),
                io.Image.Output(
                    "picture", display_name="picture",
                    tooltip="The file developed neutrally as exposed: mostly black when dark.",
                ),
                io.String.Output(
                    "info", display_name="info",
                    tooltip="Camera, ISO, shutter, aperture, lens, levels, white balance, as JSON.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, raw_file: str | None) -> bool | str:
        """Whether the file is there, before anything runs; a wired name is not known yet."""
        if raw_file is None:
            return True
        try:
            resolve_raw(raw_file)
        except UnsupportedRawError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, raw_file: str) -> str:
        """Changes when the file does, so that an edited file is read again."""
        return fingerprint(resolve_raw(raw_file))

    @classmethod
    def execute(cls, raw_file: str) -> Any:
        """Read the file."""
        raw = load_raw(resolve_raw(raw_file))
        info = json.dumps(raw.header(), indent=2)
        return io.NodeOutput(raw, to_comfy(naive_picture(raw)), info)
