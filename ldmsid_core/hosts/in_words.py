"""What was tried when memory ran out, in words."""

from __future__ import annotations

from ..frame_plan import FramePlan
from ..tiling import LATENT_PIXELS, TileLayout


def _side(layout: TileLayout) -> int:
    return max(layout.tile_height, layout.tile_width) * LATENT_PIXELS


def tiles_named(layout: TileLayout) -> str:
    """Of a sampling run."""
    several = f", {layout.batch} a call" if layout.batch > 1 else ""
    return f"tiles of {_side(layout)} pixels{several}"


def decode_named(way: tuple[str, int]) -> str:
    """Of a decode: its mode and tile in latents."""
    mode, tile = way
    inside = "" if mode == "exact" else f" in tiles of {tile * LATENT_PIXELS} pixels"
    return f"{mode} decode{inside}"


def plan_named(plan: FramePlan) -> str:
    """Of both."""
    return (
        f"tiles of {_side(plan.layout)} pixels, {plan.decode_tile * LATENT_PIXELS} pixels in "
        "decoding"
    )
