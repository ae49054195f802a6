"""Every UNet call of a sampling run tile by tile: joint denoising over one latent and one noise.

The wrapper lies outside of the one that tames, which then sees tiles alone: of the latent, of the
structure condition and of whatever else has the frame's size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management as mm
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..ldmsid_core.errors import ShapeError
from ..ldmsid_core.tiling import Tile, TileLayout, merge_tiles

KEY = "ldmsid_tiles"
_IMAGE_DIMENSIONS = 4
# The structure condition travels at twice the latent's size.
_SCALES = (1, 2)


def cut_like(value: Any, tile: Tile, height: int, width: int) -> Any:
    """A tile of every tensor that has the frame's size, wherever it is nested.

    What holds none of them is returned itself: other packs keep state in such dictionaries.

    Args:
        value: An argument of the UNet.
        tile: In latents.
        height: Of the frame.
        width: Of the frame.
    """
    if isinstance(value, Tensor):
        if value.ndim >= _IMAGE_DIMENSIONS:
            for scale in _SCALES:
                if tuple(value.shape[-2:]) == (scale * height, scale * width):
                    return tile.cut(value, scale=scale)
        return value
    if type(value) is dict:
        cut = {key: cut_like(item, tile, height, width) for key, item in value.items()}
        return cut if any(cut[key] is not value[key] for key in cut) else value
    if type(value) in (list, tuple):
        items = [cut_like(item, tile, height, width) for item in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return type(value)(items) if changed else value
    return value


@dataclass(frozen=True)
class TiledCalls:
    """How the UNet calls of one run are cut.

    Attributes:
        layout: Of the frame, one tile a call.
    """

    layout: TileLayout

    def call(self, executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The wrapper around the UNet's forward pass."""
        height, width = self.layout.height, self.layout.width
        if tuple(x.shape[-2:]) != (height, width):
            raise ShapeError(
                f"Expected a latent of {width * 8}x{height * 8} pixels inside the sampler, found "
                f"{x.shape[-1] * 8}x{x.shape[-2] * 8}: a node on the MODEL cuts or resizes it; "
                "leave it out, Tamed sampler makes its own tiles."
            )

        def compute(tiles: tuple[Tile, ...]) -> Tensor:
            mm.throw_exception_if_processing_interrupted()
            (tile,) = tiles
            own = cut_like(tuple(args), tile, height, width)
            named = cut_like(kwargs, tile, height, width)
            found: Tensor = executor(tile.cut(x).contiguous(), *own, **named)
            return found

        return merge_tiles(self.layout, compute)

    def reserve(self, executor: Any, model: Any, shape: Any, *args: Any, **kwargs: Any) -> Any:
        """The wrapper around loading: memory for a tile, not for the frame."""
        tile = [*shape[:-2], self.layout.tile_height, self.layout.tile_width]
        return executor(model, tile, *args, **kwargs)


def set_tiles(bound: Any, layout: TileLayout | None) -> None:
    """Compute a clone's UNet in these tiles; None or a single tile computes whole frames.

    Args:
        bound: A clone of a MODEL; tiles that an earlier one had are gone.
        layout: Of the frame.
    """
    wrappers: dict[str, Callable[[TiledCalls], Any]] = {
        WrappersMP.DIFFUSION_MODEL: lambda calls: calls.call,
        WrappersMP.PREPARE_SAMPLING: lambda calls: calls.reserve,
    }
    for kind, wrapper in wrappers.items():
        bound.remove_wrappers_with_key(kind, KEY)
        if layout is not None and len(layout.tiles()) > 1:
            bound.add_wrapper_with_key(kind, KEY, wrapper(TiledCalls(layout)))
