"""The ComfyUI nodes: thin, one topic per file; all arithmetic is in `ldmsid_core`."""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyExtension, io

from .apply_taming import ApplyTaming
from .compare_images import CompareImages
from .expose_raw import ExposeRaw
from .files import register_model_folder
from .load_embedded import LoadEmbedded
from .load_raw import LoadRaw
from .load_taming import LoadTaming
from .save_image import SaveImage
from .split_bands import SplitBands
from .tamed_decode import TamedDecode
from .tamed_sampler import TamedSampler
from .thumbnail_route import register_thumbnail_route


class LdmSidExtension(ComfyExtension):
    """All nodes of the pack, its model folder and its thumbnail route."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes, in the order of the menu; folder and route are there before them."""
        register_model_folder()
        register_thumbnail_route()
        return [
            LoadRaw,
            ExposeRaw,
            SplitBands,
            LoadEmbedded,
            LoadTaming,
            ApplyTaming,
            TamedSampler,
            TamedDecode,
            CompareImages,
            SaveImage,
        ]
