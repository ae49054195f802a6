"""Decoding a frame in one of two modes, `exact` or `bounded`, for both ways in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from ..crop import part_of_layout
from ..errors import ConfigError
from ..tiling import LATENT_PIXELS, Tile
from ..wavelet import SubBands
from .bands import HalfCache
from .bounded import SMALLEST_TILE, bounded_layout, decode_bounded, place_bands
from .layers import Layers, WeightsOf, own_weights, strip_on
from .network import TamedDecoder
from .norms import FrameNorms

DecodeMode = Literal["auto", "exact", "bounded"]
DECODE_MODES: tuple[DecodeMode, ...] = get_args(DecodeMode)


def check_decode(mode: str, tile: int) -> None:
    """Refuse a mode that is none, or a tile that decoding cannot use.

    Args:
        mode: One of `DECODE_MODES`.
        tile: Side in pixels; 0 leaves it to the program.

    Raises:
        ConfigError: If either is out of range.
    """
    if mode not in DECODE_MODES:
        raise ConfigError(
            f"Expected a decode mode among {', '.join(DECODE_MODES)}, found {mode!r}."
        )
    least = SMALLEST_TILE * LATENT_PIXELS
    if tile != 0 and (tile < least or tile % LATENT_PIXELS):
        raise ConfigError(
            f"Expected a decode tile of at least {least} pixels and a multiple of "
            f"{LATENT_PIXELS}, found {tile}; smaller ones would change the picture. Use {least}."
        )


def joined(pictures: list[Tensor]) -> Tensor:
    """Pictures along their first axis; one alone is not copied."""
    return pictures[0] if len(pictures) == 1 else torch.cat(pictures)


@dataclass
class FrameDecoder:
    """How frames are decoded.

    Attributes:
        network: Host and taming.
        device: Where.
        dtype: What in.
        memory_format: Of features.
        weights: Weight and bias of a norm or convolution.
        strip: Numbers of a strip of rows that a layer is computed in; 0 is what suits the device
            and its memory when a decode begins.
        report: Called with parts that add up to 1; may raise to stop.
    """

    network: TamedDecoder
    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format = torch.channels_last
    weights: WeightsOf = own_weights
    strip: int = 0
    report: Callable[[float], None] = field(default=lambda _part: None)

    def place(self, x: Tensor) -> Tensor:
        """On the device, in dtype and memory format."""
        return x.to(self.device, self.dtype).contiguous(memory_format=self.memory_format)

    def exact(self, latent: Tensor, bands: SubBands, halves: HalfCache | None = None) -> Tensor:
        """Decode with statistics and attention over the whole frame.

        Args:
            latent: Unscaled, `(1, 4, h, w)`.
            bands: Of the frame.
            halves: Filled at the first decode of these bands, used at further ones.

        Returns:
            `(1, 3, 8h, 8w)` model range, float32, on the CPU.
        """
        layers = self._layers(1 / self.network.layer_count())
        own = place_bands(bands, self.place)
        (picture,) = self.network.run([self.place(latent)], [own], layers, halves=halves)
        return picture.cpu()

    def head(self, latent: Tensor, bands: SubBands) -> list[Tensor]:
        """The layers at the latent's own size alone; see `TamedDecoder.head`.

        Args:
            latent: Unscaled, placed.
            bands: Of the frame.
        """
        layers = self._layers(1 / self.network.head_count())
        return self.network.head([latent], [place_bands(bands, self.place)], layers)

    def bounded(self, latent: Tensor, bands: SubBands, tile: int) -> Tensor:
        """Decode in tiles.

        Args:
            latent: Unscaled, `(1, 4, h, w)`.
            bands: Of the frame.
            tile: Side in latents.

        Returns:
            `(1, 3, 8h, 8w)` model range, float32, on the CPU.
        """
        height, width = latent.shape[-2:]
        layout = bounded_layout(height, width, tile)
        return decode_bounded(self.network, latent, bands, layout, self._layers(1.0), self.place)

    def bounded_part(
        self, latent: Tensor, bands: SubBands, tile: int, part: Tile
    ) -> tuple[Tensor, Tile]:
        """Decode those tiles of a frame that a part of it lies in.

        Args:
            latent: Unscaled, `(1, 4, h, w)` of the frame; right in the part and in the tiles that
                stand for the frame.
            bands: Of the frame.
            tile: Side in latents.
            part: In latents.

        Returns:
            The picture as in `bounded`, and the rectangle of the frame that it is, in latents.
        """
        height, width = latent.shape[-2:]
        layout, box = part_of_layout(bounded_layout(height, width, tile), part)
        return decode_bounded(
            self.network, latent, bands, layout, self._layers(1.0), self.place, box
        ), box

    def _layers(self, scale: float) -> Layers:
        return Layers(
            FrameNorms(),
            strip=self.strip or strip_on(self.device, self.dtype),
            weights=self.weights,
            report=lambda part: self.report(part * scale),
        )
