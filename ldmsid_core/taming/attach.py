"""Attach taming modules to a frozen host by temporary hooks; nothing is left behind.

The hooks sit on modules that both layouts of Stable Diffusion have (`sites.py`); a host is any
module with those paths. Detached, a host computes bit for bit what it computed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import HostMismatchError
from ..wavelet import SubBands
from .fusion import DecoderTaming
from .sites import DECODER_SITES, DecoderSite, UNetSite
from .unet_taming import UNetTaming

PredictNoise = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Decode = Callable[[Tensor, SubBands], Tensor]


def _find(host: nn.Module, path: str) -> nn.Module:
    try:
        return host.get_submodule(path)
    except AttributeError as error:
        raise HostMismatchError(
            f"Expected a Stable Diffusion host with a module {path}, found a "
            f"{type(host).__name__} without it."
        ) from error


def check_unet(unet: nn.Module, taming: UNetTaming) -> None:
    """Refuse a UNet that UNet taming was not made for.

    Raises:
        HostMismatchError: If it has other blocks or widths.
    """
    for site in taming.sites:
        convolution = _find(unet, site.diffusers_path)
        channels = getattr(convolution, "out_channels", None)
        if channels != site.channels:
            raise HostMismatchError(
                f"Expected {site.channels} channels at {site.diffusers_path} (the taming "
                f"modules' widths are {taming.config.widths}), found {channels} in the host UNet."
            )
    counted = sum(name.endswith("conv2") for name, _ in unet.named_modules())
    if counted != len(taming.sites):
        raise HostMismatchError(
            f"Expected a UNet with {len(taming.sites)} residual blocks, found {counted}."
        )


def check_decoder(vae: nn.Module, taming: DecoderTaming) -> None:
    """Refuse a VAE that decoder taming was not made for.

    Raises:
        HostMismatchError: If its decoder has other stages or widths.
    """
    for site, width in zip(DECODER_SITES, taming.config.widths, strict=True):
        norm = _find(vae, f"{site.diffusers_path}.norm1")
        channels = getattr(norm, "num_channels", None)
        if channels != width:
            raise HostMismatchError(
                f"Expected {width} channels at {site.diffusers_path} (the taming modules' "
                f"widths are {taming.config.widths}), found {channels} in the host decoder."
            )


@contextmanager
def attach_unet_taming(
    unet: nn.Module, taming: UNetTaming, *, strength: float = 1.0, recomputes: bool = False
) -> Iterator[PredictNoise]:
    """Hook UNet taming into a diffusers UNet for the length of a `with` block.

    Args:
        unet: A `UNet2DConditionModel`, frozen.
        taming: Modules of the same widths.
        strength: 1 tames fully; 0 leaves the host as it is and skips the modules.
        recomputes: The backward pass runs blocks again (gradient checkpointing): keep the
            structure features until the next call.

    Yields:
        `predict(latent, timestep, context, structure_input)` -> the tamed prediction: latent
        `(B, 4, h, w)` as the UNet sees it, timestep `(B,)`, context `(B, tokens, width)`,
        structure input `(B, 4, h, w)`, the level-3 `ll`.

    Raises:
        HostMismatchError: If the UNet has other blocks or widths.
    """
    check_unet(unet, taming)
    structure: list[Tensor] = []
    handles: list[RemovableHandle] = []

    def hook_at(site: UNetSite) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            return taming.modulate(site, output, structure, strength)

        return hook

    def predict(
        latent: Tensor, timestep: Tensor, context: Tensor, structure_input: Tensor
    ) -> Tensor:
        try:
            if strength != 0.0:
                structure[:] = taming.structure_encoder(structure_input, timestep)
            found: Tensor = unet(latent, timestep, encoder_hidden_states=context).sample
        finally:
            if not recomputes:
                structure.clear()
        return found

    try:
        for site in taming.sites if strength != 0.0 else ():
            convolution = _find(unet, site.diffusers_path)
            handles.append(convolution.register_forward_hook(hook_at(site)))
        yield predict
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def attach_decoder_taming(
    vae: nn.Module, taming: DecoderTaming, *, strength: float = 1.0, recomputes: bool = False
) -> Iterator[Decode]:
    """Hook decoder taming into a diffusers VAE for the length of a `with` block.

    Args:
        vae: An `AutoencoderKL`, frozen.
        taming: Modules of the same widths.
        strength: 1 tames fully; 0 leaves the host as it is and skips the modules.
        recomputes: The backward pass runs blocks again (gradient checkpointing): keep the bands
            until the next call.

    Yields:
        `decode(unscaled_latent, bands)` -> `(B, 3, 8h, 8w)` in model range, unclipped.

    Raises:
        HostMismatchError: If the decoder has other stages or widths.
    """
    check_decoder(vae, taming)
    current: list[SubBands] = []
    handles: list[RemovableHandle] = []

    def hook_at(site: DecoderSite) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        fusion = taming.fusion(site.level)

        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            h: Tensor = inputs[0]
            bands = current[0]
            index = site.level - 1
            fused = fusion(h, bands.ll[index], bands.detail[index], strength)
            return (fused.to(h.dtype), *inputs[1:])

        return hook

    def decode(unscaled_latent: Tensor, bands: SubBands) -> Tensor:
        current[:] = [bands]
        try:
            image: Tensor = vae.decode(unscaled_latent).sample  # type: ignore[operator]
        finally:
            if not recomputes:
                current.clear()
        return image

    try:
        for site in DECODER_SITES:
            block = _find(vae, site.diffusers_path)
            handles.append(block.register_forward_pre_hook(hook_at(site)))
        yield decode
    finally:
        for handle in handles:
            handle.remove()
