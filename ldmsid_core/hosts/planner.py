"""What frames cost on the networks that are loaded, and how they are cut: see `frame_plan`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..decoding.decode import FrameDecoder
from ..decoding.layers import STRIP
from ..frame_plan import Costs, Estimate, FramePlan, estimate, make_plan, with_seconds
from ..memory import free_memory
from ..taming.attach import PredictNoise
from ..tiling import LATENT_PIXELS
from ..wavelet import SubBands, split_bands
from ..work import fit_cost
from .settings import SamplingSettings

# Sides of the pieces that speed is measured on, in latents.
_STEP_PIECE, _DECODE_PIECE = 40, 24
_FINE_STRIP = 1 << 8


@dataclass
class Planner:
    """Plans and estimates of one engine.

    Attributes:
        predict: One evaluation of the tamed UNet.
        decoder: The tamed decoder.
        prompt: `(tokens, width)`, placed.
        channels: Of a latent.
        settings: What the user wants.
    """

    predict: PredictNoise
    decoder: FrameDecoder
    prompt: Tensor
    channels: int
    settings: SamplingSettings
    _costs: Costs | None = field(default=None, repr=False)

    def costs(self) -> Costs:
        """What one step and one decode cost at any size, from tiny runs; counted once."""
        if self._costs is None:
            # At tiny sizes a strip would be the whole frame; finer ones show what grows with it.
            memory = fit_cost(lambda h, w: self._decode_at(h, w, strip=_FINE_STRIP))
            decode = replace(
                fit_cost(self._decode_at),
                bytes_constant=memory.bytes_constant,
                bytes_linear=memory.bytes_linear,
            )
            self._costs = Costs(fit_cost(self._step_at), decode)
        return self._costs

    def _bands_at(self, height: int, width: int) -> SubBands:
        size = (1, 4, LATENT_PIXELS * height, LATENT_PIXELS * width)
        return split_bands(torch.zeros(size), multiple=LATENT_PIXELS)

    def _step_at(self, height: int, width: int) -> Tensor:
        place = self.decoder.place
        latent = torch.zeros(1, self.channels, height, width)
        low = self._bands_at(height, width).structure_input
        timestep = torch.full((1,), 500, device=self.decoder.device)
        return self.predict(place(latent), timestep, self.context(1), place(low))

    def _decode_at(self, height: int, width: int, *, strip: int = STRIP) -> Tensor:
        latent = torch.zeros(1, self.channels, height, width)
        silent = replace(self.decoder, strip=strip, report=lambda _part: None)
        return silent.exact(latent, self._bands_at(height, width))

    def context(self, batch: int) -> Tensor:
        """The prompt for so many tiles, `(batch, tokens, width)`."""
        return self.prompt.expand(batch, -1, -1)

    def plan(self, height: int, width: int) -> FramePlan:
        """How a frame of so many latents is computed.

        Raises:
            ConfigError: If not even the smallest tiles fit in memory.
        """
        wanted = self.settings
        return make_plan(
            height, width, tile=wanted.tile // LATENT_PIXELS,
            overlap=wanted.overlap // LATENT_PIXELS, batch=wanted.tile_batch,
            decode=wanted.decode, decode_tile=wanted.decode_tile // LATENT_PIXELS,
            costs=self.costs, free=free_memory(self.decoder.device), window=wanted.window,
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
        step = (min(_STEP_PIECE, layout.tile_height), min(_STEP_PIECE, layout.tile_width))
        decode = (min(_DECODE_PIECE, height), min(_DECODE_PIECE, width))
        return with_seconds(
            found,
            step_rate=costs.step.flops(step[0] * step[1]) / self._seconds(self._step_at, *step),
            decode_rate=costs.decode.flops(decode[0] * decode[1])
            / self._seconds(self._decode_at, *decode),
        )

    @torch.inference_mode()
    def _seconds(self, run: Callable[[int, int], Tensor], height: int, width: int) -> float:
        run(height, width)  # Chooses kernels.
        started = time.perf_counter()
        run(height, width).flatten()[0].item()  # Waits for the device.
        return time.perf_counter() - started
