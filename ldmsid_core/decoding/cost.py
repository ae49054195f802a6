"""What a tamed decode costs at any size, from tiny decodes of empty frames."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..tiling import LATENT_PIXELS
from ..wavelet import SubBands, split_bands
from ..work import CostModel, fit_cost
from .decode import FrameDecoder
from .layers import STRIP

# One row; and how many tensors of a strip are alive at once.
_FINE_STRIP, _STRIP_TENSORS = 1, 4


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


def decode_cost(decoder: FrameDecoder, *, channels: int = 4) -> CostModel:
    """Work and memory of a decode in one piece, from tiny runs.

    Args:
        decoder: Ready.
        channels: Of a latent.
    """
    # At tiny sizes a strip would be the whole frame; finer ones show what grows with it.
    element = decoder.dtype.itemsize
    memory = fit_cost(
        lambda h, w: decode_blank(decoder, h, w, channels=channels, strip=_FINE_STRIP)
    )
    return replace(
        fit_cost(lambda h, w: decode_blank(decoder, h, w, channels=channels)),
        bytes_constant=memory.bytes_constant + _STRIP_TENSORS * decoder.strip * element,
        bytes_linear=memory.bytes_linear,
    )
