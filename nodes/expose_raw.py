"""`Expose RAW`: how many times too little light the file got."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.v0_0_2 import io

from ..ldmsid_core.errors import ConfigError
from ..ldmsid_core.raw.develop import naive_picture
from ..ldmsid_core.raw.exposure import auto_exposure_ratio, reference_exposure_ratio
from ..ldmsid_core.raw.packed_raw import PackedRaw
from ..ldmsid_core.raw.packing import MAX_EXPOSURE_RATIO, check_exposure_ratio
from .images import to_comfy
from .schema import RAW, choice_of, field_input, schema

MODES = ["auto", "by hand", "EXIF pair"]


def choose_ratio(raw: PackedRaw, mode: str, ratio: float, reference: PackedRaw | None) -> float:
    """The exposure ratio of a mode.

    Raises:
        ConfigError: If the mode is unknown, its reference is missing, or the ratio is none.
    """
    choice_of(mode, MODES, "the mode of Expose RAW")
    if mode == "auto":
        return auto_exposure_ratio(raw)
    if mode == "by hand":
        return check_exposure_ratio(ratio)
    if reference is None:
        raise ConfigError(
            "Expected a longer exposure of the scene at 'reference' for the mode EXIF pair, found "
            "none; load it with a second Load RAW, or choose another mode."
        )
    return reference_exposure_ratio(raw, reference.metadata, reference.file_name)


class ExposeRaw(io.ComfyNode):
    """RAW, mode -> RAW with an exposure ratio."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        return schema(
            "LDMSID_ExposeRaw",
            "Expose RAW",
            description="Chooses how many times brighter the photograph shall be than the file.",
            search_aliases=["exposure", "ev", "brightness", "amplify", "gain", "ratio"],
            inputs=[
                field_input(RAW, "raw", tooltip="From Load RAW."),
                field_input(
                    io.Combo, "mode", options=MODES, default="auto",
                    tooltip="auto: from the file's own brightness. by hand: the ratio below. EXIF "
                    "pair: from shutter, ISO and aperture of a longer exposure at 'reference'.",
                ),
                field_input(
                    io.Float, "ratio", default=100.0, min=1.0, max=MAX_EXPOSURE_RATIO, step=1.0,
                    round=0.01,
                    tooltip="For the mode by hand: 250 means the file got 1/250 of the light that "
                    "it needed (8 stops too little).",
                ),
                field_input(
                    RAW, "reference", optional=True,
                    tooltip="For the mode EXIF pair: a longer exposure of the same scene.",
                ),
            ],
            outputs=[
                RAW.Output(
                    "exposed", display_name="raw", tooltip="The same file with its ratio."
                ),
                io.Float.Output("chosen", display_name="ratio", tooltip="The ratio chosen."),
                io.Image.Output(
                    "amplified", display_name="amplified",
                    tooltip="The file merely pushed: the 'before' of a comparison, with its noise.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, raw: PackedRaw, mode: str, ratio: float, reference: PackedRaw | None = None
    ) -> Any:
        """Choose the ratio."""
        exposed = replace(raw, exposure_ratio=choose_ratio(raw, mode, ratio, reference))
        return io.NodeOutput(exposed, exposed.exposure_ratio, to_comfy(naive_picture(exposed)))
