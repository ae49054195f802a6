"""The tamed decoder over the pieces of a frame: one piece is the frame itself, or its tiles.

All pieces go through a layer before the next one begins, so that norms may look at all of them.
What a layer has read for the last time is overwritten or let go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..taming.fusion import DecoderTaming
from ..taming.sites import DECODER_SITES
from ..wavelet import SubBands
from .bands import HalfCache, fuse
from .blocks import Pieces, activation, convolved, residual, rows_of
from .layers import Layers, convolve, empty, normalise, width_of
from .modules import Attention, Decoder


@dataclass(frozen=True)
class TamedDecoder:
    """A decoder, and the modules that steer it.

    Attributes:
        decoder: The host's layers.
        taming: None decodes plainly.
        strength: Of taming; 1 tames fully.
    """

    decoder: Decoder
    taming: DecoderTaming | None
    strength: float = 1.0

    @property
    def is_tamed(self) -> bool:
        """Whether bands are used."""
        return self.taming is not None and self.strength != 0.0

    def layer_count(self) -> int:
        """Layers that each piece goes through, as `Layers.report` counts them."""
        residuals = sum(1 for _ in self.decoder.residuals())
        fused = 9 * len(DECODER_SITES) if self.is_tamed else 0
        doublings = sum(stage.upsample is not None for stage in self.decoder.stages)
        return 3 + 2 * residuals + doublings + fused

    def run(
        self,
        latents: Pieces,
        bands: Sequence[SubBands],
        layers: Layers,
        *,
        halves: HalfCache | None = None,
    ) -> Pieces:
        """Decode pieces of a frame.

        Args:
            latents: Unscaled, each `(1, 4, h, w)`.
            bands: Of each piece.
            layers: How.
            halves: What the bands alone determine, filled at the first call and used from then on;
                for one piece only.

        Returns:
            Pictures in model range, each `(1, 3, 8h, 8w)` float32.
        """
        decoder = self.decoder
        x = [decoder.post_quant(latent) for latent in latents]
        width = width_of(decoder.conv_in)
        x = [
            convolved(piece, rows_of(piece), decoder.conv_in, width, layers, sides)
            for piece, sides in zip(x, layers.sides, strict=True)
        ]
        x = residual(x, decoder.before, layers)
        x = _attention(x, decoder.attention, layers)
        x = residual(x, decoder.after, layers)
        for stage in decoder.stages:
            if stage.level is not None and self.taming is not None and self.is_tamed:
                index = stage.level - 1
                own = [(b.ll[index], b.detail[index]) for b in bands]
                fusion = self.taming.fusion(stage.level)
                x = fuse(x, stage.level, fusion, own, layers, strength=self.strength, halves=halves)
            for block in stage.blocks:
                x = residual(x, block, layers)
            if stage.upsample is not None:
                x = _upsample(x, stage.upsample, layers)
        return _output(x, decoder, layers)


def _attention(pieces: Pieces, attention: Attention, layers: Layers) -> Pieces:
    """Self-attention within each piece, added to it."""
    norm = layers.affine(attention.norm, pieces)
    for x in pieces:
        y = normalise(x, norm)
        query, key, value = (
            _tokens(y, projection)
            for projection in (attention.query, attention.key, attention.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)[:, 0]
        if isinstance(attention.out, nn.Linear):
            added = attention.out(mixed).transpose(1, 2).reshape(x.shape)
        else:
            added = attention.out(mixed.transpose(1, 2).reshape(x.shape))
        x += added
        layers.report(1.0)
    return pieces


def _tokens(y: Tensor, projection: nn.Module) -> Tensor:
    """`(1, C, h, w)` -> `(1, 1, h * w, C)`, projected."""
    if isinstance(projection, nn.Linear):
        return projection(y.flatten(2).transpose(1, 2))[:, None]
    return projection(y).flatten(2).transpose(1, 2)[:, None]


def _upsample(pieces: Pieces, conv: nn.Module, layers: Layers) -> Pieces:
    """Doubled by repeating pixels, then a convolution."""
    for place, (x, sides) in enumerate(zip(pieces, layers.sides, strict=True)):
        out = empty(x, width_of(conv), scale=2)
        height, width = out.shape[-2:]

        def doubled(top: int, bottom: int, x: Tensor = x) -> Tensor:
            first = top // 2
            rows = x[:, :, first : (bottom + 1) // 2]
            large = functional.interpolate(rows, scale_factor=2.0, mode="nearest")
            return large[:, :, top - 2 * first : bottom - 2 * first]

        for top, bottom in layers.strips(height, width):
            out[:, :, top:bottom] = convolve(conv, doubled, height, top, bottom, sides)
        pieces[place] = out
    return pieces


def _output(pieces: Pieces, decoder: Decoder, layers: Layers) -> Pieces:
    norm = layers.affine(decoder.norm_out, pieces)
    found: Pieces = []
    for x, sides in zip(pieces, layers.sides, strict=True):
        picture = empty(x, width_of(decoder.conv_out), dtype=torch.float32)
        read = rows_of(x, activation(norm))
        for top, bottom in layers.strips(*x.shape[-2:]):
            strip = convolve(decoder.conv_out, read, x.shape[2], top, bottom, sides)
            picture[:, :, top:bottom] = strip
        found.append(picture)
    return found
