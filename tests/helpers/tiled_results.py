"""What the command line's engine makes of a frame in tiles, for the nodes to be compared with."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ldmsid_core.band_views import amplified_low_band
from ldmsid_core.crop import Crop
from ldmsid_core.hosts.engine import attached_engine
from ldmsid_core.hosts.host import load_host
from ldmsid_core.hosts.region import enhance_region
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.model_files import EMBEDDED, SAMPLE_RAW
from ldmsid_core.pipeline import prepare_bands
from ldmsid_core.raw.loader import load_raw
from ldmsid_core.raw.packed_raw import PackedRaw
from ldmsid_core.taming.checkpoint import load_taming

RATIO, SEED, STEPS, TILE, OVERLAP, DECODE_TILE, START = 250.0, 5, 3, 256, 64, 512, 0.6
# What Tamed decode takes for a part.
PART_TILE = 768
CROP = Crop(32, 40, 96, 80)


def wide_frame(raw: PackedRaw) -> PackedRaw:
    """The packaged sample beside its mirror image: 80x56 latents, more than a small frame."""
    both = torch.cat([raw.planes, raw.planes.flip(-1)], dim=-1)
    return replace(raw, planes=both[..., :640].contiguous())


@torch.inference_mode()
def tiled_results() -> dict[str, Tensor]:
    """Latents as ComfyUI keeps them scaled, and pictures in model range; float32 on the CPU."""
    raw = wide_frame(load_raw(SAMPLE_RAW))
    host, taming = load_host(EMBEDDED.host), load_taming(EMBEDDED.taming)
    recipe, scale = taming.header.input_recipe, host.header.latent_scale
    bands = prepare_bands(raw, recipe, exposure_ratio=RATIO)
    plain = SamplingSettings(
        steps=STEPS, tile=TILE, overlap=OVERLAP, decode="bounded", decode_tile=DECODE_TILE
    )
    found = {}
    for name, settings in (("tiled", plain), ("begun", replace(plain, start=START))):
        begin = amplified_low_band(bands, raw, recipe)
        with attached_engine(
            host, taming, device=torch.device("cpu"), dtype=torch.float32, settings=settings
        ) as engine:
            latent = engine.sample(bands, SEED, begin)
            found[f"{name}.latent"] = latent * scale
            if name == "tiled":
                found["tiled.image"] = engine.decode(latent, bands)
    parts = replace(plain, decode_tile=PART_TILE)
    with attached_engine(
        host, taming, device=torch.device("cpu"), dtype=torch.float32, settings=parts
    ) as engine:
        found["tiled.crop"] = enhance_region(engine, bands, CROP, SEED)
    return {name: tensor.clone().contiguous() for name, tensor in found.items()}
