"""What frames cost on the networks that are loaded, and how they are cut: see `frame_plan`."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..decoding.cost import blank_bands, decode_blank, decode_cost
from ..decoding.decode import FrameDecoder
from ..frame_plan import Costs, Estimate, FramePlan, estimate, make_plan, with_seconds
from ..memory import free_memory
from ..taming.attach import PredictNoise
from ..tiling import LATENT_PIXELS
from ..work import fit_cost, seconds_of
from .settings import SamplingSettings

# Sides of the pieces that speed is measured on, in latents.
_STEP_PIECE, _DECODE_PIECE = 40, 24
# A GPU is as fast as it gets at whole calls alone.
_DECODE_PIECE_ON_GPU = 64


@dataclass
class Planner:
    """Plans and estimates of one engine.

    Attributes:
        predict: One evaluation of the tamed UNet, layer by layer.
        run: The same as sampling calls it.
        decoder: The tamed decoder.
        prompt: `(tokens, width)`, placed.
        channels: Of a latent.
        settings: What the user wants.
    """

    predict: PredictNoise
    run: PredictNoise
    decoder: FrameDecoder
    prompt: Tensor
    channels: int
    settings: SamplingSettings
    _costs: Costs | None = field(default=None, repr=False)

    @property
    def known(self) -> Costs | None:
        """The costs, where they were asked for already."""
        return self._costs

    def costs(self) -> Costs:
        """What one step and one decode cost at any size, from tiny runs; counted once."""
        if self._costs is None:
            decode = decode_cost(self.decoder, channels=self.channels)
            self._costs = Costs(fit_cost(self._step_at), decode)
        return self._costs

    def _step_at(self, height: int, width: int) -> Tensor:
        return self._call(self.predict, height, width, 1)

    def _call(self, predict: PredictNoise, height: int, width: int, tiles: int) -> Tensor:
        """One call for so many tiles of an empty frame."""
        place = self.decoder.place
        latent = torch.zeros(tiles, self.channels, height, width)
        low = blank_bands(height, width).structure_input.expand(tiles, -1, -1, -1)
        timestep = torch.full((tiles,), 500, device=self.decoder.device)
        return predict(place(latent), timestep, self.context(tiles), place(low))

    def _decode_at(self, height: int, width: int) -> Tensor:
        strip = self.decoder.strip
        return decode_blank(self.decoder, height, width, channels=self.channels, strip=strip)

    def context(self, batch: int) -> Tensor:
        """The prompt for so many tiles, `(batch, tokens, width)`."""
        return self.prompt.expand(batch, -1, -1)

    def plan(self, height: int, width: int) -> FramePlan:
        """How a frame of so many latents is computed.

        Raises:
            ConfigError: If not even the smallest tiles fit in memory.
        """
        wanted, device = self.settings, self.decoder.device
        batch = wanted.tile_batch or int(device.type == "cpu")
        return make_plan(
            height, width, tile=wanted.tile // LATENT_PIXELS,
            overlap=wanted.overlap // LATENT_PIXELS, batch=batch, decode=wanted.decode,
            decode_tile=wanted.decode_tile // LATENT_PIXELS, costs=self.costs,
            free=free_memory(device), window=wanted.window,
        )  # fmt: skip

    def estimate(self, height: int, width: int) -> Estimate:
        """What a frame of so many latents takes; speed is measured on small pieces.

        Raises:
            ConfigError: If not even the smallest tiles fit in memory.
        """
        plan, costs = self.plan(height, width), self.costs()
        free = free_memory(self.decoder.device)
        found = estimate(plan, costs, steps=self.settings.steps, free=free)
        layout = plan.layout
        small = self.decoder.device.type == "cpu"
        whole = max(layout.tile_height, layout.tile_width)
        side, tiles = (_STEP_PIECE, 1) if small else (whole, layout.batch)
        step = (min(side, layout.tile_height), min(side, layout.tile_width))
        piece = _DECODE_PIECE if small else _DECODE_PIECE_ON_GPU
        decode = (min(piece, height), min(piece, width))
        step_seconds = seconds_of(lambda: self._call(self.run, *step, tiles))
        decode_seconds = seconds_of(lambda: self._decode_at(*decode))
        return with_seconds(
            found,
            step_rate=tiles * costs.step.flops(step[0] * step[1]) / step_seconds,
            decode_rate=costs.decode.whole.flops(decode[0] * decode[1]) / decode_seconds,
        )
