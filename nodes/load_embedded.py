"""`Load embedded model`: everything the first workflow needs, without a download."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..ldmsid_core.model_files import EMBEDDED
from .embedded_host import load_embedded_host
from .schema import TAMING, schema
from .taming_model import load_taming_model


class LoadEmbedded(io.ComfyNode):
    """Nothing -> MODEL, VAE, CONDITIONING, TAMING of the small model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        return schema(
            "LDMSID_LoadEmbedded",
            "Load embedded model",
            description="The small demonstration model that comes with the pack: a Stable "
            "Diffusion of 17 million parameters with its taming modules. It shows the whole way; "
            "for photographs that matter use Stable Diffusion 2.1 with a taming file.",
            search_aliases=["tiny", "demo", "bundled", "checkpoint", "ldm-sid"],
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="The small UNet, untamed."),
                io.Vae.Output("vae", display_name="vae", tooltip="Its VAE."),
                io.Conditioning.Output(
                    "conditioning", display_name="conditioning",
                    tooltip="Its empty prompt: for both sockets of a KSampler.",
                ),
                TAMING.Output("taming", display_name="taming", tooltip="Its taming modules."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls) -> Any:
        """Build everything from the packaged files."""
        model, vae = load_embedded_host(EMBEDDED.host)
        taming = load_taming_model(EMBEDDED.taming)
        return io.NodeOutput(model, vae, taming.conditioning(), taming)
