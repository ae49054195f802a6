"""A host and a taming checkpoint made ready to enhance: device, dtype, sampling, decode."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..decoding.bands import HalfCache
from ..decoding.decode import FrameDecoder, joined
from ..decoding.layers import STRIP
from ..decoding.modules import find_decoder
from ..decoding.network import TamedDecoder
from ..errors import NonFiniteError
from ..finite import is_finite
from ..frame_plan import Costs, FramePlan, smaller_decode, smaller_layout
from ..memory import with_less_memory
from ..patchwork import Patchwork, patchwork_of
from ..pipeline import DecodeLatent, SampleLatent
from ..sampling_grid import initial_noise
from ..shared_norms import SharedNorms
from ..taming.attach import PredictNoise, attach_unet_taming
from ..taming.checkpoint import Taming
from ..taming.watch import first_non_finite
from ..tiling import Tile, TileLayout
from ..wavelet import SubBands
from .decoder_base import replaced_decoder
from .encoding import encode_picture
from .fit import check_fit
from .graphed import GraphedPrediction
from .host import Host
from .in_words import decode_named, tiles_named
from .planner import Planner
from .precision import precise_output, upcast_attention
from .sampling import Around, Progress, sample_latent
from .settings import SamplingSettings
from .stand_in import StandIn
from .tiled_sampling import tiled_prediction

_DEFAULTS = SamplingSettings()


def _place(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a module; channels-last, which convolutions in bf16 want, halves a decode's time."""
    # nn.Module's own `to`: diffusers' override warns about casts that are meant.
    nn.Module.to(module, device, dtype)
    nn.Module.to(module, memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclass
class Engine:
    """A host with taming attached, on its device, for the length of `attached_engine`.

    `predict` may be compiled or a graph, `plain` runs layer by layer.
    """

    host: Host
    taming: Taming
    settings: SamplingSettings
    progress: Progress | None
    predict: PredictNoise
    plain: PredictNoise
    decoder: FrameDecoder
    planner: Planner
    stand_in: StandIn

    def plan(self, height: int, width: int) -> FramePlan:
        """How a frame of so many latents is computed.

        Raises:
            ConfigError: If not even the smallest tiles fit in memory.
        """
        return self.planner.plan(height, width)

    def sample(self, bands: SubBands, seed: int, picture: Tensor | None = None) -> Tensor:
        """The latent, as the tamed decoder takes it.

        Args:
            bands: Of the frame.
            seed: Of the noise.
            picture: The amplified low band, `(B, 3, h, w)` unit range, one pixel a latent; what
                sampling begins with where `start` is below 1.

        Raises:
            ConfigError: If a picture is needed and missing.
            NonFiniteError: If the UNet returns NaN or infinity.
        """
        batch, _, height, width = bands.structure_input.shape
        noise = initial_noise((batch, self.planner.channels, height, width), seed)
        frame = Tile(0, 0, height, width, 0, 0)

        def sampled(layout: TileLayout) -> Tensor:
            norms = self.shared_norms(bands, layout, noise, seed, picture)
            return self.sample_part(bands, frame, layout, noise, seed, picture, norms)

        def one_a_call(layout: TileLayout) -> Tensor:
            return with_less_memory(sampled, layout, less(smaller_layout), tiles_named)

        layout, less = self.plan(height, width).layout, self.stand_in.releasing
        if layout.batch == 1:
            return one_a_call(layout)
        # Fewer tiles a call change nothing but the time, smaller ones the picture.
        return with_less_memory(
            lambda tiles: sampled(tiles) if tiles.batch > 1 else one_a_call(tiles),
            layout, less(lambda tiles: replace(tiles, batch=1)), tiles_named,
        )  # fmt: skip

    def shared_norms(
        self, bands: SubBands, layout: TileLayout, noise: Tensor, seed: int, picture: Tensor | None
    ) -> SharedNorms | None:
        """What the tiles of a frame are normalised by, from sampling a stand-in for it.

        Args:
            bands: Of the frame.
            layout: Of the frame; in one piece, or cut as the released code cuts, needs nothing.
            noise: As for `sample_part`.
            seed: As for `sample_part`.
            picture: As for `sample_part`.
        """
        if not layout.shares_norms:
            return None
        self.stand_in.begin(len(noise))
        patches, silent = patchwork_of(layout), replace(self, progress=None)
        silent.sample_part(bands, patches, patches.layout(), noise, seed, picture)
        return self.stand_in.norms

    def sample_part(
        self,
        bands: SubBands,
        part: Tile | Patchwork,
        layout: TileLayout,
        noise: Tensor,
        seed: int,
        picture: Tensor | None = None,
        norms: SharedNorms | None = None,
    ) -> Tensor:
        """The latent of a part of a frame, as the tamed decoder takes it.

        Args:
            bands: Of the frame.
            part: In latents, or patches that stand for the frame.
            layout: Of the part.
            noise: Of the frame, `(B, C, h, w)` float32.
            seed: For samplers that add noise on the way.
            picture: As for `sample`, of the frame.
            norms: Of the frame, which a tile is normalised by; patches measure them.
        """
        host, taming, settings = self.host, self.taming, self.settings
        assert taming.unet is not None
        structure = self.decoder.place(part.cut(bands.structure_input))
        begin = None
        if settings.start != 1.0 and picture is not None:
            begin = encode_picture(host.vae, part.cut(picture), self.decoder.place)
            begin = begin * host.header.latent_scale
        context = self.planner.context(len(structure))
        networks = {"UNet": host.unet, "UNet taming": taming.unet}
        whole = len(layout.tiles()) == 1

        def predictor(of_tiles: PredictNoise) -> Callable[[Tensor, Tensor], Tensor]:
            predict = of_tiles if whole else tiled_prediction(of_tiles, layout)
            return lambda x, t: predict(x, t, context, structure)

        slow = predictor(self.plain)  # hooks see its layers
        fast = predictor(self.predict)
        around: Around | None = None if norms is None else norms.applied
        if isinstance(part, Patchwork):
            fast, around = predictor(self.stand_in.predict), self.stand_in.norms.measured

        try:
            latent = sample_latent(
                fast,
                self.decoder.place(part.cut(noise)),
                steps=settings.steps,
                sampler=settings.sampler,
                prediction_type=host.header.prediction_type,
                seed=seed,
                begin=begin,
                start=settings.start,
                progress=self.progress,
                culprit=lambda x, t: first_non_finite(networks, lambda: slow(x, t)),
                around=around,
            )
        finally:
            # Before decoding or a second try, and as norms are others next time.
            if isinstance(self.predict, GraphedPrediction):
                self.predict.release()
        scaled = taming.header.decoder_latent_scale == "scaled"
        return latent if scaled else latent / host.header.latent_scale

    def decode(self, latent: Tensor, bands: SubBands) -> Tensor:
        """The picture, `(B, 3, 8h, 8w)` model range, float32 on the CPU."""
        plan = self.plan(*latent.shape[-2:])
        self.decoder.strip = 0
        image = with_less_memory(
            lambda way: self._decode_all(latent, bands, *way),
            (plan.decode, plan.decode_tile), self.stand_in.releasing(self._smaller_decode),
            decode_named,
        )  # fmt: skip
        if not is_finite(image):
            assert self.taming.decoder is not None
            networks = {"VAE": self.host.vae, "decoder taming": self.taming.decoder}
            where = first_non_finite(
                networks, lambda: self._decode_all(latent, bands, plan.decode, plan.decode_tile)
            )
            raise NonFiniteError(
                f"The tamed decoder returned NaN or infinity, first in {where or 'its input'}; use "
                "--dtype bf16 or fp32, and check that the weights are not damaged."
            )
        return image

    def _smaller_decode(self, way: tuple[str, int]) -> tuple[str, int] | None:
        """What to try next, in the smallest strips."""
        self.decoder.strip = STRIP
        return smaller_decode(*way)

    def _decode_all(self, latent: Tensor, bands: SubBands, mode: str, tile: int) -> Tensor:
        same = len(latent) > 1 and bands.structure_input.shape[0] == 1
        halves: HalfCache | None = {} if same and mode == "exact" else None
        pictures = []
        for number in range(len(latent)):
            one = latent[number : number + 1]
            own = bands if same else bands.one(number)
            if mode == "exact":
                pictures.append(self.decoder.exact(one, own, halves))
            else:
                pictures.append(self.decoder.bounded(one, own, tile))
        return joined(pictures)


@contextlib.contextmanager
def attached_engine(
    host: Host,
    taming: Taming,
    *,
    device: torch.device,
    dtype: torch.dtype,
    settings: SamplingSettings = _DEFAULTS,
    progress: Progress | None = None,
    decode_progress: Callable[[float], None] = lambda _part: None,
    costs: Costs | None = None,
) -> Iterator[Engine]:
    """Attach taming to a host for the length of a `with` block.

    Args:
        host: Moved to the device in place.
        taming: Moved to the device in place.
        device: Where to compute.
        dtype: What to compute in.
        settings: Steps, sampler, strengths, tiles.
        progress: Called with (steps done, steps).
        decode_progress: Called with parts of the decode that add up to 1.
        costs: Of an earlier engine of these networks, which saves counting them again.

    Raises:
        HostMismatchError: If the two do not fit.
    """
    check_fit(host, taming)
    unet_taming, decoder_taming = taming.unet, taming.decoder
    assert unet_taming is not None and decoder_taming is not None
    for module in (host.unet, host.vae, unet_taming, decoder_taming):
        _place(module, device, dtype)
    base = taming.decoder_base if settings.decoder_strength != 0.0 else {}
    with (
        replaced_decoder(host.vae, base),
        upcast_attention(host.unet, host.vae),
        attach_unet_taming(host.unet, unet_taming, strength=settings.strength) as predict,
        precise_output(host.vae),
    ):
        network = TamedDecoder(find_decoder(host.vae), decoder_taming, settings.decoder_strength)
        decoder = FrameDecoder(network, device, dtype, report=decode_progress)
        run = torch.compile(predict) if settings.compile else GraphedPrediction(predict)
        channels = int(host.unet.config["in_channels"])
        prompt = taming.prompt_embedding
        assert prompt is not None
        placed = prompt.to(device, dtype)
        planner = Planner(predict, run, decoder, placed, channels, settings, costs)
        stand_in = StandIn(predict, host.unet, unet_taming)
        yield Engine(host, taming, settings, progress, run, predict, decoder, planner, stand_in)


@contextlib.contextmanager
def ready_engine(
    host: Host,
    taming: Taming,
    *,
    device: torch.device,
    dtype: torch.dtype,
    settings: SamplingSettings = _DEFAULTS,
    progress: Progress | None = None,
) -> Iterator[tuple[SampleLatent, DecodeLatent]]:
    """As `attached_engine`, yielding the two callables that `pipeline.enhance` takes."""
    with attached_engine(
        host, taming, device=device, dtype=dtype, settings=settings, progress=progress
    ) as engine:
        yield engine.sample, engine.decode
