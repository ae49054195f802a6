"""Sampling a frame with a tamed MODEL: tiles, a picture to begin with, a part alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ..ldmsid_core.band_views import amplified_low_band
from ..ldmsid_core.crop import DECODER_MARGIN, latents_of, part_of_layout, tiles_outside
from ..ldmsid_core.decoding.bounded import DEFAULT_TILE, bounded_layout, statistics_tiles
from ..ldmsid_core.decoding.cost import DecodeCost, blank_bands
from ..ldmsid_core.enlarged import encode_enlarged
from ..ldmsid_core.errors import ConfigError
from ..ldmsid_core.frame_plan import (
    SMALL_FRAME,
    Costs,
    FramePlan,
    estimate,
    plan_layout,
    smaller_layout,
)
from ..ldmsid_core.patchwork import Patchwork, patchwork_of
from ..ldmsid_core.pipeline import RawBands
from ..ldmsid_core.sampling_grid import initial_noise
from ..ldmsid_core.shared_norms import SharedNorms
from ..ldmsid_core.tiling import LATENT_PIXELS, Tile, TileLayout
from ..ldmsid_core.wavelet import SubBands
from ..ldmsid_core.work import CostModel, fit_cost, seconds_of
from .host_memory import memory_to_spare, with_less
from .normed_calls import NormedCalls, weights_of_norm
from .run_text import Tell, in_words, tile_pixels, tiles_in_words
from .taming_model import TamingModel
from .unet_binding import bind_structure

Parts = tuple[Tile | Patchwork, ...]
_NOTHING = CostModel(0.0, 0.0, 0.0, 0.0, 0.0)
_NO_DECODE = DecodeCost(_NOTHING, _NOTHING, 0)
# Side of the piece that speed is measured on, in latents.
_PIECE = 40


def guided(
    model: Any, conditioning: list[Any], noise: Tensor, latent: Tensor, *, seed: int,
    sampler: str, sigmas: Tensor, shown: bool = True,
) -> Tensor:  # fmt: skip
    """Sample without guidance.

    Args:
        model: A MODEL, bound.
        conditioning: The prompt.
        noise: `(B, 4, h, w)` standard normal.
        latent: What it is added to, unscaled; zeros begin with pure noise.
        seed: For samplers that add noise on the way.
        sampler: One of the host's.
        sigmas: Noise levels.
        shown: Whether progress and previews are shown.
    """
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": conditioning})
    guider.set_cfg(1.0)
    callback = latent_preview.prepare_callback(model, len(sigmas) - 1) if shown else None
    return guider.sample(
        noise, latent, comfy.samplers.sampler_object(sampler), sigmas, callback=callback,
        disable_pbar=not (shown and comfy.utils.PROGRESS_BAR_ENABLED), seed=seed,
    )  # fmt: skip


@dataclass
class FrameSampling:
    """One run of `Tamed sampler`.

    Attributes:
        model: A MODEL, checked.
        taming: Trained for it.
        bands: Of the file.
        split: They, as the taming file wants them.
        seed: Of the noise.
        sampler: One of the host's.
        sigmas: Noise levels.
        strength: 1 tames fully.
        tile: Side in pixels; 0 chooses.
        overlap: In pixels.
        begin_vae: Encodes what sampling begins with; None begins with pure noise.
        tell: Shows a sentence to the user.
    """

    model: Any
    taming: TamingModel
    bands: RawBands
    split: SubBands
    seed: int
    sampler: str
    sigmas: Tensor
    strength: float
    tile: int
    overlap: int
    begin_vae: Any | None
    tell: Tell
    _begun: dict[Parts, Tensor] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Of the frame, in latents."""
        height, width = self.split.structure_input.shape[-2:]
        return height, width

    @property
    def frame(self) -> Tile:
        """All of it."""
        return Tile(0, 0, *self.size, 0, 0)

    def run(self) -> tuple[Tensor, bool]:
        """The latent, unscaled, of the frame's size; and whether only a part was sampled."""
        layout = self._plan()
        return with_less(
            self._sample, layout, smaller_layout,
            lambda tiles: f"tiles of {tile_pixels(tiles)} pixels", self.tell,
        )  # fmt: skip

    def _plan(self) -> TileLayout:
        """Choose tiles and say so."""
        height, width = self.size
        tile, overlap = self.tile // LATENT_PIXELS, self.overlap // LATENT_PIXELS
        steps = len(self.sigmas) - 1
        if tile != 0 or height * width <= SMALL_FRAME:
            layout = plan_layout(
                height, width, tile=tile, overlap=overlap, step=lambda: _NOTHING, free=0
            )
            self.tell(in_words(height, width, f"{steps} steps {tiles_in_words(layout)}"))
            return layout
        cost = fit_cost(self._step_at)
        patchers = [self.model, *([] if self.strength == 0.0 else [self.taming.need_unet()])]
        free = memory_to_spare(self.model.load_device, patchers)
        layout = plan_layout(height, width, tile=0, overlap=overlap, step=lambda: cost, free=free)
        found = estimate(
            FramePlan(layout, "exact", DEFAULT_TILE),
            Costs(cost, _NO_DECODE),
            steps=steps,
            free=free,
        )
        side = (min(_PIECE, layout.tile_height), min(_PIECE, layout.tile_width))
        rate = cost.flops(side[0] * side[1]) / seconds_of(lambda: self._step_at(*side))
        self.tell(
            in_words(
                height, width, f"{steps} steps {tiles_in_words(layout)}", peak=found.peak_bytes,
                free=free, seconds=None if self.bands.region else found.flops / rate,
            )
        )  # fmt: skip
        return layout

    def _step_at(self, height: int, width: int) -> Tensor:
        """One network evaluation on an empty frame of so many latents."""
        structure = blank_bands(height, width).structure_input
        empty = torch.zeros(1, 4, height, width)
        return guided(
            self._bound(structure), self.taming.conditioning(), empty, empty, seed=0,
            sampler="euler", sigmas=torch.tensor([float(self.sigmas[0]), 0.0]), shown=False,
        )  # fmt: skip

    def _bound(
        self, structure: Tensor, layout: TileLayout | None = None, norms: NormedCalls | None = None
    ) -> Any:
        return bind_structure(
            self.model, self.taming, structure, self.bands.raw.file_name, strength=self.strength,
            layout=layout, norms=norms,
        )  # fmt: skip

    def _shared_norms(self, layout: TileLayout, noise: Tensor) -> SharedNorms | None:
        """What tiles are normalised by; see `shared_norms`."""
        if not layout.shares_norms:
            return None
        networks = [self.model.get_model_object("diffusion_model")]
        if self.strength != 0.0:
            networks.append(self.taming.need_unet().model)
        norms = SharedNorms(*networks, weights=weights_of_norm)
        calls = NormedCalls(norms, measured=True)
        self._sample_piece((patchwork_of(layout),), None, noise, calls, shown=False)
        return norms

    def _sample(self, layout: TileLayout) -> tuple[Tensor, bool]:
        batch = self.split.structure_input.shape[0]
        noise = initial_noise((batch, 4, *self.size), self.seed)
        crop, norms = self.bands.region, self._shared_norms(layout, noise)

        def sampled(parts: tuple[Tile, ...], tiling: TileLayout | None) -> Tensor:
            calls = None if norms is None else NormedCalls(norms, measured=False)
            return self._sample_piece(parts, tiling, noise, calls)

        if crop is None:
            return sampled((self.frame,), layout), False
        height, width = self.size
        part = latents_of(crop, margin=DECODER_MARGIN, height=height, width=width)
        own, box = part_of_layout(layout, part)
        if len(own.tiles()) == len(layout.tiles()):
            return sampled((self.frame,), layout), False
        latent = torch.zeros(noise.shape)
        # Where a part's decode takes its statistics from.
        spread = statistics_tiles(height, width, bounded_layout(height, width, DEFAULT_TILE))
        groups = _in_batches(tiles_outside(spread, box))
        for tiles, tiling in (*((group, None) for group in groups), ((box,), own)):
            found = sampled(tiles, tiling).chunk(len(tiles))
            for tile, piece in zip(tiles, found, strict=True):
                tile.cut(latent).copy_(piece)
        return latent, True

    def _sample_piece(
        self, tiles: Parts, layout: TileLayout | None, noise: Tensor, norms: NormedCalls | None,
        *, shown: bool = True,
    ) -> Tensor:  # fmt: skip
        """Parts of one size, one after the other in the batch, float32."""
        begin = self._begin(tiles)
        bound = self._bound(_stacked(tiles, self.split.structure_input), layout, norms)
        return guided(
            bound, self.taming.conditioning(), _stacked(tiles, noise), begin, seed=self.seed,
            sampler=self.sampler, sigmas=self.sigmas, shown=shown,
        ).float()  # fmt: skip

    def _begin(self, tiles: Parts) -> Tensor:
        """What noise is added to, unscaled; encoded once, however often it is sampled."""
        if self.begin_vae is None:
            batch = len(tiles) * self.split.structure_input.shape[0]
            return torch.zeros(batch, 4, tiles[0].height, tiles[0].width)
        if tiles not in self._begun:
            recipe = self.taming.header.input_recipe
            picture = amplified_low_band(self.split, self.bands.raw, recipe)
            self._begun[tiles] = self._encode(_stacked(tiles, picture))
        return self._begun[tiles]

    def _encode(self, picture: Tensor) -> Tensor:
        vae = self.begin_vae
        assert vae is not None

        def encode(pixels: Tensor) -> Tensor:
            found: Tensor = vae.encode(pixels.movedim(1, -1)).float().cpu()
            return found

        return encode_enlarged(picture, encode)


def _stacked(parts: Parts, x: Tensor) -> Tensor:
    """Parts of `(B, C, H, W)` one after the other in the batch."""
    return torch.cat([part.cut(x) for part in parts])


def _in_batches(tiles: Sequence[Tile]) -> Iterator[tuple[Tile, ...]]:
    """Tiles of one size, as many at once as take no more than a small frame."""
    if not tiles:
        return
    count = max(1, SMALL_FRAME // (tiles[0].height * tiles[0].width))
    for first in range(0, len(tiles), count):
        yield tuple(tiles[first : first + count])


def begin_vae(vae: Any | None, start: float) -> Any | None:
    """The VAE that encodes what sampling begins with; None where it begins with pure noise.

    Raises:
        ConfigError: If one is needed and missing, or it has other latents.
    """
    if start == 1.0:
        return None
    if vae is None:
        raise ConfigError(
            f"Expected a VAE at Tamed sampler with start {start:g}, found none: sampling then "
            "begins with the encoded low band. Wire the model's VAE, or set start to 1."
        )
    vae.throw_exception_if_invalid()
    if vae.latent_channels != 4:
        raise ConfigError(
            f"Expected a VAE of 4 latent channels at Tamed sampler, found {vae.latent_channels}; "
            "wire the VAE of the model."
        )
    return vae
