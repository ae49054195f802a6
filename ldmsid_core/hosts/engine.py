"""A host and a taming checkpoint made ready to enhance: device, dtype, sampling, decode."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ConfigError, HostMismatchError, NonFiniteError
from ..pipeline import DecodeLatent, SampleLatent
from ..sampling_grid import DEFAULT_STEPS, initial_noise
from ..taming.attach import (
    Decode,
    PredictNoise,
    attach_decoder_taming,
    attach_unet_taming,
    check_decoder,
    check_unet,
)
from ..taming.checkpoint import Taming
from ..taming.watch import first_non_finite
from ..tiling import DEFAULT_OVERLAP, LATENT_PIXELS, check_tile, plan_tiles
from ..wavelet import SubBands
from .decoder_base import check_decoder_base, replaced_decoder
from .host import Host
from .precision import precise_output, upcast_attention
from .sampling import Progress, sample_latent
from .schedule import DEFAULT_SAMPLER
from .tiled_sampling import tiled_prediction

log = logging.getLogger(__name__)
MAX_STRENGTH = 2.0


@dataclass(frozen=True)
class SamplingSettings:
    """How a latent is sampled.

    Attributes:
        steps: Network evaluations.
        sampler: One of `SAMPLER_NAMES`.
        strength: Of UNet taming; 1 tames fully, 0 not at all.
        decoder_strength: The same of decoder taming.
        tile: Side of the tiles that each step is computed in, pixels of the result; None computes
            the frame in one piece.
        overlap: Of neighbouring tiles, pixels of the result.
    """

    steps: int = DEFAULT_STEPS
    sampler: str = DEFAULT_SAMPLER
    strength: float = 1.0
    decoder_strength: float = 1.0
    tile: int | None = None
    overlap: int = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        """Refuse a strength that is none."""
        for name in ("strength", "decoder_strength"):
            if not 0.0 <= getattr(self, name) <= MAX_STRENGTH:
                raise ConfigError(
                    f"Expected {name} from 0 to {MAX_STRENGTH:g}, found {getattr(self, name)}."
                )
        if self.tile is not None:
            check_tile(self.tile, self.overlap)


def check_fit(host: Host, taming: Taming) -> None:
    """Refuse a taming checkpoint that was trained for another host.

    Raises:
        HostMismatchError: If family, prompt width, prediction or scale differ, or a half is
            missing.
    """
    header = taming.header
    pairs = (
        ("host family", header.host_family, host.header.family),
        ("prediction type", header.prediction_type, host.header.prediction_type),
        ("cross-attention width", header.cross_attention_width, host.cross_attention_width),
        ("latent scale", round(header.latent_scale, 4), round(host.header.latent_scale, 4)),
    )
    for what, wanted, found in pairs:
        if wanted != found:
            raise HostMismatchError(
                f"{taming.name} was trained for {what} {wanted}, but the host {host.name} has "
                f"{found}; use the host it was trained with."
            )
    if taming.unet is None or taming.decoder is None or taming.prompt_embedding is None:
        raise HostMismatchError(
            f"Expected UNet taming, decoder taming and a prompt embedding in {taming.name}, "
            "found only a part; enhancing needs all three."
        )
    try:
        check_unet(host.unet, taming.unet)
        check_decoder(host.vae, taming.decoder)
        check_decoder_base(host.vae, taming.decoder_base, header.decoder_base_sample)
    except HostMismatchError as error:
        raise HostMismatchError(
            f"{taming.name} does not fit the host {host.name}: {error} Use the host it was trained "
            "with."
        ) from error
    if header.host_sha256 not in (None, host.sha256):
        log.warning(
            "%s was trained with other weights of the family %s than those of %s",
            taming.name, header.host_family, host.name,
        )  # fmt: skip


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _place(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a module; channels-last, which convolutions in bf16 want, halves a decode's time."""
    # nn.Module's own `to`: diffusers' override warns about casts that are meant.
    nn.Module.to(module, device, dtype)
    nn.Module.to(module, memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclass(frozen=True)
class _Engine:
    """A host with taming attached: what `ready_engine` yields are its two methods."""

    host: Host
    taming: Taming
    device: torch.device
    dtype: torch.dtype
    settings: SamplingSettings
    progress: Progress | None
    predict: PredictNoise
    tamed_decode: Decode

    def sample(self, bands: SubBands, seed: int) -> Tensor:
        """The latent, as the tamed decoder takes it."""
        host, taming, settings = self.host, self.taming, self.settings
        assert taming.unet is not None and taming.prompt_embedding is not None
        structure = _channels_last(bands.structure_input.to(self.device, self.dtype))
        batch, _, height, width = structure.shape
        context = taming.prompt_embedding.to(self.device, self.dtype).expand(batch, -1, -1)
        channels = int(host.unet.config["in_channels"])
        noise = initial_noise((batch, channels, height, width), seed)
        networks = {"UNet": host.unet, "UNet taming": taming.unet}

        predict = self.predict
        if settings.tile is not None:
            tile, overlap = (side // LATENT_PIXELS for side in (settings.tile, settings.overlap))
            layout = plan_tiles(height, width, tile=tile, overlap=overlap)
            predict = tiled_prediction(predict, layout)

        def predict_noise(x: Tensor, t: Tensor) -> Tensor:
            return predict(x, t, context, structure)

        latent = sample_latent(
            predict_noise,
            _channels_last(noise.to(self.device, self.dtype)),
            steps=settings.steps,
            sampler=settings.sampler,
            prediction_type=host.header.prediction_type,
            seed=seed,
            progress=self.progress,
            culprit=lambda x, t: first_non_finite(networks, lambda: predict_noise(x, t)),
        )
        scaled = taming.header.decoder_latent_scale == "scaled"
        return latent if scaled else latent / host.header.latent_scale

    def decode(self, latent: Tensor, bands: SubBands) -> Tensor:
        """The picture, `(B, 3, 8h, 8w)` model range, float32 on the CPU."""
        assert self.taming.decoder is not None
        placed = _channels_last(latent.to(self.device, self.dtype))
        own = bands.to(self.device, self.dtype)
        image = self.tamed_decode(placed, own)
        if not torch.isfinite(image).all():
            networks = {"VAE": self.host.vae, "decoder taming": self.taming.decoder}
            where = first_non_finite(networks, lambda: self.tamed_decode(placed, own))
            raise NonFiniteError(
                f"The tamed decoder returned NaN or infinity, first in {where or 'its input'}; use "
                "--dtype bf16 or fp32, and check that the weights are not damaged."
            )
        return image.float().cpu()


@contextlib.contextmanager
def ready_engine(
    host: Host,
    taming: Taming,
    *,
    device: torch.device,
    dtype: torch.dtype,
    settings: SamplingSettings = SamplingSettings(),
    progress: Progress | None = None,
) -> Iterator[tuple[SampleLatent, DecodeLatent]]:
    """Attach taming to a host for the length of a `with` block.

    Args:
        host: Moved to the device in place.
        taming: Moved to the device in place.
        device: Where to compute.
        dtype: What to compute in.
        settings: Steps, sampler and strengths.
        progress: Called with (steps done, steps).

    Yields:
        The two callables that `pipeline.enhance` takes.

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
        attach_decoder_taming(
            host.vae, decoder_taming, strength=settings.decoder_strength
        ) as tamed_decode,
        precise_output(host.vae),
    ):
        engine = _Engine(host, taming, device, dtype, settings, progress, predict, tamed_decode)
        yield engine.sample, engine.decode
