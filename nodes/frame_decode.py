"""Decoding frames with a host's VAE: which mode, with how much memory, once more with less."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor

from ..ldmsid_core.crop import DECODER_MARGIN, Crop, cut_to_crop, latents_of
from ..ldmsid_core.decoding.bands import HalfCache
from ..ldmsid_core.decoding.bounded import DEFAULT_TILE, SMALLEST_TILE
from ..ldmsid_core.decoding.cost import DecodeCost, decode_blank, decode_cost
from ..ldmsid_core.decoding.decode import FrameDecoder, joined
from ..ldmsid_core.decoding.layers import STRIP
from ..ldmsid_core.errors import NonFiniteError
from ..ldmsid_core.finite import is_finite
from ..ldmsid_core.frame_plan import (
    SMALL_FRAME,
    Costs,
    Estimate,
    FramePlan,
    estimate,
    plan_decode,
    smaller_decode,
    with_margin,
)
from ..ldmsid_core.pipeline import RawBands
from ..ldmsid_core.taming.watch import first_non_finite
from ..ldmsid_core.tiling import LATENT_PIXELS, Tile, plan_tiles
from ..ldmsid_core.wavelet import SubBands
from ..ldmsid_core.work import CostModel, seconds_of
from .host_decoder import DecodeProgress, decode_patchers, host_decoder
from .host_memory import memory_to_spare, with_less
from .kept_halves import element_size, fits, halves_bytes
from .run_text import Tell, in_words
from .taming_model import TamingModel

_NOTHING = CostModel(0.0, 0.0, 0.0, 0.0, 0.0)
# Side of the piece that speed is measured on, in latents.
_PIECE = 24
_DEVICE_SHARE = 0.9
Way = tuple[str, int]


@dataclass
class FrameDecoding:
    """One run of `Tamed decode`.

    Attributes:
        vae: Left as it is.
        taming: Checked against it.
        bands: Of the file.
        split: They, as the taming file wants them.
        samples: As the decoder takes them.
        strength: 1 tames fully.
        mode: One of `DECODE_MODES`.
        tile: Side in pixels; 0 chooses.
        is_part: Whether the latent holds the region of the bands alone.
        tell: Shows a sentence to the user.
    """

    vae: Any
    taming: TamingModel
    bands: RawBands
    split: SubBands
    samples: Tensor
    strength: float
    mode: str
    tile: int
    is_part: bool
    tell: Tell
    _cost: DecodeCost | None = field(default=None, repr=False)
    _free: int = 0

    def run(self) -> Tensor:
        """Pictures in model range on the CPU: of the frame, or of the region of the bands.

        Raises:
            NonFiniteError: If one holds NaN or infinity.
        """
        progress = DecodeProgress(len(self.samples))
        decoder = host_decoder(self.vae, self.taming, self.strength, progress.add)
        way = self._plan(decoder)

        def smaller(way: Way) -> Way | None:
            self.taming.halves.drop()
            decoder.strip = STRIP
            progress.start_over()
            return None if self.is_part else smaller_decode(*way)

        return with_less(lambda w: self._decode_all(decoder, w), way, smaller, named, self.tell)

    def _plan(self, decoder: FrameDecoder) -> Way:
        """Load, choose mode and tile, and say so."""
        height, width = self.samples.shape[-2:]
        patchers = decode_patchers(self.vae, self.taming, self.strength)
        small = height * width <= SMALL_FRAME
        sides = (height, width) if small else (SMALLEST_TILE, SMALLEST_TILE)
        mm.load_models_gpu(patchers, memory_required=self._host_bytes(*sides))
        if not small:
            most = _DEVICE_SHARE * mm.get_total_memory(decoder.device)
            needed = with_margin(self._cost_of(decoder).whole.bytes(height * width))
            room = most - sum(patcher.model_size() for patcher in patchers)
            mm.load_models_gpu(patchers, memory_required=max(0, min(needed, room)))
        self._free = memory_to_spare(decoder.device, patchers)
        tile = self.tile // LATENT_PIXELS
        if self.is_part:
            # Smaller tiles would take their statistics from places that were not sampled.
            mode, tile = "bounded", max(tile, DEFAULT_TILE)
        else:
            mode, tile = plan_decode(
                height, width, mode=self.mode, tile=tile,
                cost=lambda: self._cost_of(decoder), free=self._free,
            )  # fmt: skip
        self.tell(self._words(decoder, (mode, tile)))
        return mode, tile

    def _cost_of(self, decoder: FrameDecoder) -> DecodeCost:
        if self._cost is None:
            self._cost = decode_cost(decoder)
        return self._cost

    def _host_bytes(self, height: int, width: int) -> float:
        """What the host reckons for a plain decode, and the finest fusion beside it."""
        shape = torch.Size((1, 4, height, width))
        needed: float = self.vae.memory_used_decode(shape, self.vae.vae_dtype)
        if self.strength == 0.0:
            return needed
        widths = self.taming.need_decoder().model.config.widths
        return needed + working_bytes(shape, widths, element_size(self.vae.vae_dtype))

    def _words(self, decoder: FrameDecoder, way: Way) -> str:
        """What this decode is going to take."""
        height, width = self.samples.shape[-2:]
        how = named(way)
        if self._is_cut(way):
            assert self.bands.region is not None
            how = f"{how} of a part of {self.bands.region.width}x{self.bands.region.height}"
        if self._cost is None or self._is_cut(way):
            return in_words(height, width, how)
        found = self._estimate(way)
        piece = (min(_PIECE, height), min(_PIECE, width))
        seconds = seconds_of(lambda: decode_blank(decoder, *piece))
        rate = self._cost.whole.flops(piece[0] * piece[1]) / seconds
        return in_words(
            height, width, how, peak=found.peak_bytes, free=self._free,
            seconds=len(self.samples) * found.decode_flops / rate,
        )  # fmt: skip

    def _estimate(self, way: Way) -> Estimate:
        assert self._cost is not None
        height, width = self.samples.shape[-2:]
        layout = plan_tiles(height, width, tile=max(height, width), overlap=0)
        costs = Costs(_NOTHING, self._cost)
        return estimate(FramePlan(layout, *way), costs, steps=0, free=self._free)

    def _is_cut(self, way: Way) -> bool:
        """Whether only a part is decoded; in one piece the frame is, as without a region."""
        return self.bands.region is not None and way[0] == "bounded"

    def _decode_all(self, decoder: FrameDecoder, way: Way) -> Tensor:
        count = self.split.structure_input.shape[0]
        halves = self._halves(decoder) if way[0] == "exact" and count == 1 else None
        pictures = []
        for index in range(len(self.samples)):
            one, own = self.samples[index : index + 1], self.split.one(index % count)
            picture = self._decode_one(decoder, way, one, own, halves)
            if not is_finite(picture):
                raise self._not_finite(decoder, way, one, own)
            pictures.append(picture)
        return joined(pictures)

    def _halves(self, decoder: FrameDecoder) -> HalfCache | None:
        """Where the bands' halves are kept, if there is room and a further decode may follow."""
        net = decoder.network.taming
        if net is None:
            return None
        height, width = self.samples.shape[-2:]
        element = element_size(decoder.dtype)
        if not fits(halves_bytes(height, width, net.config.widths, element), self._free):
            return None
        recipe = self.taming.header.input_recipe
        key = (recipe, decoder.device, decoder.dtype, id(net))
        found = self.taming.halves.take(self.bands, key)
        return {} if found is None and len(self.samples) > 1 else found

    def _decode_one(
        self, decoder: FrameDecoder, way: Way, one: Tensor, own: SubBands, halves: HalfCache | None
    ) -> Tensor:
        mode, tile = way
        crop: Crop | None = self.bands.region
        height, width = one.shape[-2:]
        if mode == "bounded" and crop is not None:
            part = latents_of(crop, margin=DECODER_MARGIN, height=height, width=width)
            image, place = decoder.bounded_part(one, own, tile, part)
            return cut_to_crop(image, crop, place)
        if mode == "exact":
            image = decoder.exact(one, own, halves)
        else:
            image = decoder.bounded(one, own, tile)
        return image if crop is None else cut_to_crop(image, crop, Tile(0, 0, height, width, 0, 0))

    def _not_finite(
        self, decoder: FrameDecoder, way: Way, one: Tensor, own: SubBands
    ) -> NonFiniteError:
        """Names the module that spoiled a picture: it is decoded once more to find it."""
        self.taming.halves.drop()
        roots = {"VAE": self.vae.first_stage_model}
        if decoder.network.taming is not None:
            roots["decoder taming"] = decoder.network.taming
        silent = replace(decoder, report=lambda _part: None)
        where = first_non_finite(roots, lambda: self._decode_one(silent, way, one, own, None))
        return NonFiniteError(
            f"The tamed decoder returned NaN or infinity for {self.bands.raw.file_name}, first in "
            f"{where or 'its last convolution'}; start ComfyUI with --bf16-vae or --fp32-vae, and "
            "check that the weights are whole."
        )


def named(way: Way) -> str:
    """A mode and tile in words."""
    mode, tile = way
    inside = "" if mode == "exact" else f" in tiles of {tile * LATENT_PIXELS} pixels"
    return f"{mode} decode{inside}"


def working_bytes(latent_shape: torch.Size, widths: tuple[int, ...], element: int) -> int:
    """Memory that the finest fusion needs beside the decoder's own, in bytes.

    At its widest moment it holds the joined bands and feature, their norm, its activation and a
    convolution's result: eight tensors of the stage's width at half the picture's size.
    """
    batch, _, height, width = latent_shape
    return 8 * batch * widths[-1] * (4 * height) * (4 * width) * element
