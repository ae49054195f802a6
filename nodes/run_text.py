"""What a run is going to take, as a line on its node."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from server import PromptServer

from ..ldmsid_core.frame_plan import duration
from ..ldmsid_core.tiling import LATENT_PIXELS, TileLayout

log = logging.getLogger(__name__)
Tell = Callable[[str], None]


def teller(node: Any) -> Tell:
    """Shows sentences on a node while it runs, and in the log.

    Args:
        node: The node's class as the host runs it; outside of a graph only the log is left.
    """
    node_id = getattr(getattr(node, "hidden", None), "unique_id", None)
    send = getattr(PromptServer.instance, "send_progress_text", None)

    def tell(text: str) -> None:
        log.info("%s", text)
        if node_id is not None and send is not None:
            send(text, node_id)

    return tell


def tile_pixels(layout: TileLayout) -> int:
    """The longer side of a layout's tiles, in pixels."""
    return max(layout.tile_height, layout.tile_width) * LATENT_PIXELS


def tiles_in_words(layout: TileLayout) -> str:
    """Such as `in 6 tiles of 512 pixels`."""
    count = len(layout.tiles())
    return "in one piece" if count == 1 else f"in {count} tiles of {tile_pixels(layout)} pixels"


def in_words(
    height: int, width: int, how: str, *, peak: int | None = None, free: int = 0,
    seconds: float | None = None,
) -> str:  # fmt: skip
    """One line: size, way, memory and time.

    Args:
        height: Of the frame, in latents.
        width: Of the frame.
        how: What is done with it.
        peak: Bytes of working memory; None where it was not counted.
        free: Bytes found free.
        seconds: None where speed was not measured.
    """
    parts = [f"{width * LATENT_PIXELS}x{height * LATENT_PIXELS} pixels", how]
    if peak is not None:
        parts.append(f"about {peak / 1e9:.2g} GB of working memory ({free / 1e9:.2g} GB free)")
    if seconds is not None:
        parts.append(f"about {duration(seconds)}")
    return ", ".join(parts)
