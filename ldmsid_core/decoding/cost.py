"""What a tamed decode costs at any size, from tiny decodes of empty frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..tiling import LATENT_PIXELS, TileLayout
from ..wavelet import SubBands, split_bands
from ..work import CostModel, fit_cost
from .bounded import SAMPLE_POSITIONS, WINDOWS_ABOVE, statistics_tiles
from .decode import FrameDecoder
from .layers import STRIP, STRIP_TENSORS, width_of

# A few rows at tiny sizes.
_FINE_STRIP = 1 << 16


@dataclass(frozen=True)
class DecodeCost:
    """What one tamed decode costs.

    Attributes:
        whole: All of it in one piece.
        head: Its layers at the latent's own size.
        kept: Bytes a latent of what they hand on.
    """

    whole: CostModel
    head: CostModel
    kept: int

    def bounded_bytes(self, height: int, width: int, side: int) -> int:
        """Peak of a `bounded` decode of `height` x `width` latents in tiles of a side."""
        area, frame = min(side, height) * min(side, width), height * width
        working = max(area, min(SAMPLE_POSITIONS, 2 * area, frame))
        return max(self.head.bytes(frame), self.whole.bytes(working) + self.kept * frame)

    def bounded_flops(self, layout: TileLayout) -> int:
        """Operations of a `bounded` decode of a whole frame."""
        frame = layout.height * layout.width
        tiles = (*layout.tiles(), *statistics_tiles(layout.height, layout.width, layout))
        areas = [tile.height * tile.width for tile in tiles]
        after = sum(self.whole.flops(area) - self.head.flops(area) for area in areas)
        # Attention of a larger frame looks at so many positions at most.
        seen = min(frame, WINDOWS_ABOVE)
        attention = round(self.head.flops_quadratic * frame * (seen - frame))
        return after + self.head.flops(frame) + attention


def blank_bands(height: int, width: int) -> SubBands:
    """The bands of an empty frame of so many latents."""
    size = (1, 4, LATENT_PIXELS * height, LATENT_PIXELS * width)
    return split_bands(torch.zeros(size), multiple=LATENT_PIXELS)


def decode_blank(
    decoder: FrameDecoder, height: int, width: int, *, channels: int = 4, strip: int = STRIP
) -> Tensor:
    """Decode an empty frame in one piece; nothing is reported.

    Args:
        decoder: Ready.
        height: In latents.
        width: In latents.
        channels: Of a latent.
        strip: Numbers of a strip of rows.
    """
    silent = replace(decoder, strip=strip, report=lambda _part: None)
    return silent.exact(torch.zeros(1, channels, height, width), blank_bands(height, width))


def _head_of_blank(decoder: FrameDecoder, height: int, width: int, channels: int) -> Tensor:
    """The layers at the latent's own size, of an empty frame."""
    latent = decoder.place(torch.zeros(1, channels, height, width))
    (features,) = decoder.head(latent, blank_bands(height, width))
    return features


def decode_cost(decoder: FrameDecoder, *, channels: int = 4) -> DecodeCost:
    """Work and memory of a decode, from tiny runs.

    Args:
        decoder: Ready.
        channels: Of a latent.
    """
    # At tiny sizes a strip would be the whole frame; finer ones show what grows with it.
    fine = replace(decoder, strip=_FINE_STRIP, report=lambda _part: None)
    # Larger strips are taken where memory is left over, and need not be counted.
    strips = STRIP_TENSORS * STRIP * decoder.dtype.itemsize
    memory = fit_cost(
        lambda h, w: decode_blank(decoder, h, w, channels=channels, strip=_FINE_STRIP)
    )
    whole = replace(
        fit_cost(lambda h, w: decode_blank(decoder, h, w, channels=channels)),
        bytes_constant=memory.bytes_constant + strips,
        bytes_linear=memory.bytes_linear,
    )
    head = fit_cost(lambda h, w: _head_of_blank(fine, h, w, channels))
    last = decoder.network.decoder.stages[0].blocks[-1]
    return DecodeCost(
        whole,
        replace(head, bytes_constant=head.bytes_constant + strips),
        width_of(last.conv2) * decoder.dtype.itemsize,
    )
