"""The tamed decoder over the pieces of a frame: one piece is the frame itself, or its tiles.

All pieces go through a layer before the next one begins, so that norms may look at all of them.
What a layer has read for the last time is overwritten or let go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from ..taming.fusion import DecoderTaming
from ..taming.sites import DECODER_SITES
from ..wavelet import SubBands
from .attention import self_attention
from .bands import HalfCache, fuse
from .blocks import Pieces, activation, convolved, residual, rows_of
from .layers import Layers, Rows, Sides, convolve, width_of
from .modules import Decoder, Stage

_FUSION_LAYERS = 9


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
        fused = _FUSION_LAYERS * len(DECODER_SITES) if self.is_tamed else 0
        doublings = sum(stage.upsample is not None for stage in self.decoder.stages)
        return 3 + 2 * residuals + doublings + fused

    def head_count(self) -> int:
        """Those of them in `head`."""
        fused = _FUSION_LAYERS if self.is_tamed else 0
        return 2 + 2 * (2 + len(self.decoder.stages[0].blocks)) + fused

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
        x = self.head(latents, bands, layers, halves=halves)
        return self.tail(x, bands, layers, halves=halves)

    def head(
        self,
        latents: Pieces,
        bands: Sequence[SubBands],
        layers: Layers,
        *,
        halves: HalfCache | None = None,
    ) -> Pieces:
        """All layers at the latent's own size; arguments as of `run`.

        Returns:
            Features, each `(1, C, h, w)`.
        """
        decoder = self.decoder
        x = [decoder.post_quant(latent) for latent in latents]
        width = width_of(decoder.conv_in)
        x = [
            convolved(piece, rows_of(piece), decoder.conv_in, width, layers, sides)
            for piece, sides in zip(x, layers.sides, strict=True)
        ]
        x = residual(x, decoder.before, layers)
        x = self_attention(x, decoder.attention, layers)
        x = residual(x, decoder.after, layers)
        return self._stage(x, decoder.stages[0], bands, layers, halves)

    def tail(
        self,
        features: Pieces,
        bands: Sequence[SubBands],
        layers: Layers,
        *,
        halves: HalfCache | None = None,
    ) -> Pieces:
        """All other layers; returns what `run` does.

        Args:
            features: From `head`.
            bands: Of each piece.
            layers: How.
            halves: As of `run`.
        """
        x = features
        for before, stage in pairwise(self.decoder.stages):
            assert before.upsample is not None
            x = _upsample(x, before.upsample, layers)
            x = self._stage(x, stage, bands, layers, halves)
        return _output(x, self.decoder, layers)

    def _stage(
        self,
        x: Pieces,
        stage: Stage,
        bands: Sequence[SubBands],
        layers: Layers,
        halves: HalfCache | None,
    ) -> Pieces:
        """Bands fused in, and the residual blocks."""
        if stage.level is not None and self.taming is not None and self.is_tamed:
            own = [(b.ll[stage.level - 1], b.detail[stage.level - 1]) for b in bands]
            fusion = self.taming.fusion(stage.level)
            x = fuse(x, stage.level, fusion, own, layers, strength=self.strength, halves=halves)
        for block in stage.blocks:
            x = residual(x, block, layers)
        return x


def _upsample(pieces: Pieces, conv: nn.Module, layers: Layers) -> Pieces:
    """Doubled by repeating pixels, then a convolution."""
    for place, (x, sides) in enumerate(zip(pieces, layers.sides, strict=True)):

        def doubled(top: int, bottom: int, x: Tensor = x) -> Tensor:
            first = top // 2
            rows = x[:, :, first : (bottom + 1) // 2]
            large = functional.interpolate(rows, scale_factor=2.0, mode="nearest")
            return large[:, :, top - 2 * first : bottom - 2 * first]

        def compute(
            top: int, bottom: int, x: Tensor = x, read: Rows = doubled, sides: Sides = sides
        ) -> Tensor:
            return convolve(conv, read, 2 * x.shape[2], top, bottom, sides)

        pieces[place] = layers.make(x, width_of(conv), compute, scale=2)
    return pieces


def _output(pieces: Pieces, decoder: Decoder, layers: Layers) -> Pieces:
    norm = layers.affine(decoder.norm_out, pieces)
    found: Pieces = []
    for x, sides in zip(pieces, layers.sides, strict=True):
        read = rows_of(x, activation(norm))

        def compute(
            top: int, bottom: int, x: Tensor = x, read: Rows = read, sides: Sides = sides
        ) -> Tensor:
            return convolve(decoder.conv_out, read, x.shape[2], top, bottom, sides).float()

        found.append(layers.make(x, width_of(decoder.conv_out), compute))
    return found
