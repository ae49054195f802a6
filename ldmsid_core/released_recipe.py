"""The released implementation's whole way of computing a frame, as a compatibility option.

A frame is padded to a multiple of 32; up to 1024 pixels on both sides it is computed in one piece,
above that in pixel tiles of 1024 at a stride of 800, whose finished pictures are merged. Published
numbers depend on it; `pipeline` has the better way: one latent for the whole frame, no tile merged
as a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from .errors import ConfigError, ShapeError
from .pipeline import DecodeLatent, SampleLatent
from .tiling import Tile, plan_tiles
from .wavelet import BandKind, make_bands

ReleasedMerge = Literal["mean", "cross-fade"]
ReleasedSampler = Literal["ddim-released", "ddpm-released"]
TILE_SIZE = 1024
TILE_STRIDE = 800
_PAD_MULTIPLE = 32
_HEIGHT, _WIDTH = 2, 3


def released_sampler(height: int, width: int) -> ReleasedSampler:
    """The sampler that the released implementation takes for a frame.

    Args:
        height: Of the packed planes, before padding.
        width: Of the packed planes.

    Returns:
        `ddim-released` up to 1024 on both sides, else `ddpm-released`.
    """
    return "ddim-released" if _is_one_piece(height, width) else "ddpm-released"


def _is_one_piece(height: int, width: int) -> bool:
    return max(height, width) <= TILE_SIZE


def pad_released(x: Tensor) -> Tensor:
    """Reflect the bottom and right edges until both sides are multiples of 32.

    Where one side only needs padding, the other gets a whole extra 32, as in the released
    implementation.

    Args:
        x: `(B, C, H, W)`.

    Returns:
        `(B, C, H', W')`; `x` itself where both sides are multiples of 32.

    Raises:
        ShapeError: If `x` is no batch of images, or a side is not longer than its padding.
    """
    if x.ndim != 4 or 0 in x.shape:
        raise ShapeError(f"Expected a frame (B, C, H, W) to pad, found {tuple(x.shape)}.")
    height, width = x.shape[-2:]
    if height % _PAD_MULTIPLE == 0 and width % _PAD_MULTIPLE == 0:
        return x
    rows, columns = (_PAD_MULTIPLE - side % _PAD_MULTIPLE for side in (height, width))
    if rows >= height or columns >= width:
        raise ShapeError(
            "Expected a frame whose sides are longer than what reflection adds to them, found "
            f"{width}x{height}, which needs {columns} more columns and {rows} more rows; use a "
            "larger frame, or the usual recipe, which takes any size."
        )
    return functional.pad(x, (0, columns, 0, rows), mode="reflect")


def pixel_tiles(
    height: int, width: int, *, size: int = TILE_SIZE, stride: int = TILE_STRIDE
) -> tuple[Tile, ...]:
    """The tiles of a frame in the order in which the released implementation visits them.

    Args:
        height: Of the padded frame, in pixels.
        width: Of the padded frame.
        size: Side of a tile; where a side of the frame is shorter, the tile is that short.
        stride: From one tile to the next; the last one is moved back to the frame's border.

    Returns:
        Column of tiles after column of tiles, each from top to bottom.

    Raises:
        ConfigError: If the stride is not from 1 to `size`.
        ShapeError: If the frame has no pixel.
    """
    if not 1 <= stride <= size:
        raise ConfigError(
            f"Expected a stride from 1 to the tile's size of {size}, found {stride}; the released "
            f"implementation's is {TILE_STRIDE} with tiles of {TILE_SIZE}."
        )
    layout = plan_tiles(height, width, tile=size, overlap=size - stride, window="released")
    return tuple(sorted(layout.tiles(), key=lambda tile: (tile.column, tile.row)))


def _check_merge(merge: str) -> None:
    if merge not in get_args(ReleasedMerge):
        raise ConfigError(
            f"Expected a merge among {get_args(ReleasedMerge)}, found {merge!r}; published numbers "
            "used 'cross-fade'."
        )


def merge_released(
    parts: Sequence[Tensor], tiles: Sequence[Tile], *, merge: ReleasedMerge = "cross-fade"
) -> Tensor:
    """A frame from its computed tiles.

    Args:
        parts: One `(B, C, h, w)` per tile, in any range.
        tiles: From `pixel_tiles`, in its order.
        merge: `mean` divides the sum by the number of tiles at each pixel; `cross-fade` blends
            each tile linearly into those before it, first down every column of tiles, then
            across the columns.

    Returns:
        `(B, C, H, W)` float32, on the device of the parts.

    Raises:
        ConfigError: If `merge` is unknown.
        ShapeError: If parts and tiles do not belong together.
    """
    _check_merge(merge)
    if not tiles or len(parts) != len(tiles):
        raise ShapeError(
            f"Expected one part per tile and at least one, found {len(parts)} parts and "
            f"{len(tiles)} tiles; hand over both in the order of `pixel_tiles`."
        )
    for number, (part, tile) in enumerate(zip(parts, tiles, strict=True)):
        wanted = (*parts[0].shape[:2], tile.height, tile.width)
        if part.ndim != 4 or tuple(part.shape) != wanted:
            raise ShapeError(
                f"Expected part {number} to be {wanted}, found {tuple(part.shape)}; hand over "
                "parts in the order of `pixel_tiles`, cropped to their tiles."
            )
    floats = [part.float() for part in parts]
    return _mean(floats, tiles) if merge == "mean" else _cross_fade(floats, tiles)


def _mean(parts: Sequence[Tensor], tiles: Sequence[Tile]) -> Tensor:
    height = max(tile.top + tile.height for tile in tiles)
    width = max(tile.left + tile.width for tile in tiles)
    total = parts[0].new_zeros(*parts[0].shape[:2], height, width)
    count = parts[0].new_zeros(1, 1, height, width)
    for part, tile in zip(parts, tiles, strict=True):
        tile.cut(total).add_(part)
        tile.cut(count).add_(1.0)
    return total / count


def _cross_fade(parts: Sequence[Tensor], tiles: Sequence[Tile]) -> Tensor:
    frame: Tensor | None = None
    columns = groupby(zip(tiles, parts, strict=True), key=lambda pair: pair[0].column)
    for _, column in columns:
        strip: Tensor | None = None
        left = 0
        for tile, part in column:
            strip = part if strip is None else _fade(strip, part, start=tile.top, dim=_HEIGHT)
            left = tile.left
        assert strip is not None
        frame = strip if frame is None else _fade(frame, strip, start=left, dim=_WIDTH)
    assert frame is not None
    return frame


def _fade(before: Tensor, after: Tensor, *, start: int, dim: int) -> Tensor:
    """Continue `before` by `after`, which begins at `start`, blended where both are."""
    overlap = before.shape[dim] - start
    weight = torch.linspace(1.0, 0.0, overlap, device=before.device)
    # Along `dim` of (B, C, H, W).
    weight = weight[:, None] if dim == _HEIGHT else weight[None, :]
    ending, beginning = before.narrow(dim, start, overlap), after.narrow(dim, 0, overlap)
    blended = ending * weight + beginning * (1.0 - weight)
    rest = after.narrow(dim, overlap, after.shape[dim] - overlap)
    return torch.cat([before.narrow(dim, 0, start), blended, rest], dim)


def decode_released(
    planes: Tensor,
    *,
    seed: int,
    sample: SampleLatent,
    decode: DecodeLatent,
    merge: ReleasedMerge = "cross-fade",
    bands: BandKind = "dwt",
) -> Tensor:
    """The picture of network planes, computed as the released implementation does.

    Kept: the padding to 32 with its extra rows and columns, the tiles, their order and their
    merging, and that every tile starts from the same noise. Which of the two merges is the
    released one depends on its script: published numbers used `cross-fade`. The released sampler
    for the frame, `released_sampler`, and its latent tiles (64 with an overlap of 32, Gaussian
    weights) are for `sample` to use.

    Not kept: crashes where a padded side is a multiple of 32 and not of 64 (the bands are mirrored
    further and the picture is cropped back), noise that depends on the frames before, its very
    random numbers, and what is no part of this step: fp16 autocast, a fixed exposure ratio,
    truncation to 8 bits.

    Args:
        planes: `(B, 4, H, W)` in model range, as `network_planes` makes them, not padded.
        seed: Of the noise, the same for every tile.
        sample: `(bands, seed)` -> latent `(B, 4, h, w)` as `decode` takes it, UNet tamed.
        decode: `(latent, bands)` -> `(B, 3, 8h, 8w)` model range, decoder tamed.
        merge: How the pictures of tiles become one; no matter up to 1024 on both sides.
        bands: What the planes are split into.

    Returns:
        `(B, 3, H, W)` model range, float32.

    Raises:
        ConfigError: If `merge` is unknown.
        ShapeError: If `planes` are no packed planes or too small to be padded by reflection, or
            if `decode` returns another size.
    """
    _check_merge(merge)
    padded = pad_released(planes)
    height, width = planes.shape[-2:]
    # Padding takes a side of 1024 to 1056 where the other one needs it: still one piece.
    size = max(padded.shape[-2:]) if _is_one_piece(height, width) else TILE_SIZE
    tiles = pixel_tiles(*padded.shape[-2:], size=size, stride=min(size, TILE_STRIDE))
    with torch.inference_mode():
        parts = [
            _decode_piece(tile.cut(padded), bands, seed=seed, sample=sample, decode=decode)
            for tile in tiles
        ]
        return merge_released(parts, tiles, merge=merge)[:, :, :height, :width].contiguous()


def _decode_piece(
    planes: Tensor, kind: BandKind, *, seed: int, sample: SampleLatent, decode: DecodeLatent
) -> Tensor:
    """`(B, 3, h, w)` of planes `(B, 4, h, w)`: what the bands were padded by is cropped."""
    bands = make_bands(planes, kind)
    decoded = decode(sample(bands, seed), bands)
    batch, _, height, width = planes.shape
    piece = decoded[:, :, :height, :width]
    if tuple(piece.shape) != (batch, 3, height, width):
        raise ShapeError(
            f"Expected a decoded picture of at least {(batch, 3, height, width)}, found "
            f"{tuple(decoded.shape)}; `decode` must return 3 channels and 8 pixels a latent."
        )
    return piece
