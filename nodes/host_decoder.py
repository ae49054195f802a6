"""The host's VAE as a `FrameDecoder`: its own layers, called one by one.

Calling the host's layers themselves keeps what it does in them: casts, weights off the device,
patches. Where a layer is a norm, or needs another dtype, its weights are read instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.model_management as mm
import comfy.utils
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..ldmsid_core.decoding.decode import FrameDecoder
from ..ldmsid_core.decoding.layers import WeightsOf, format_on, own_weights
from ..ldmsid_core.decoding.modules import find_decoder
from ..ldmsid_core.decoding.network import TamedDecoder
from .taming_model import TamingModel

_PARTS = 100


class PreciseConvolution(nn.Module):
    """A convolution computed in float32, as bf16 has only 8 bits of brightness."""

    def __init__(self, inner: nn.Module, weights: WeightsOf) -> None:
        """Wrap.

        Args:
            inner: The host's layer; left as it is.
            weights: Weight and bias of a layer.
        """
        super().__init__()
        self.inner = inner
        self.out_channels = inner.out_channels
        self._weights = weights

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if x.dtype == torch.float32:
            found: Tensor = self.inner(x)
            return found
        weight, bias = (w.to(x.device, torch.float32) for w in self._weights(self.inner))
        return functional.conv2d(x.float(), weight, bias, padding=self.inner.padding)  # type: ignore[arg-type]


class DecodeProgress:
    """A bar on the node, and the place where an interrupt is noticed."""

    def __init__(self, pictures: int) -> None:
        """For so many pictures."""
        self._bar = comfy.utils.ProgressBar(_PARTS * pictures)
        self._done, self._shown = 0.0, 0

    def add(self, part: float) -> None:
        """A part of one picture is done.

        Raises:
            InterruptProcessingException: If the user has cancelled.
        """
        mm.throw_exception_if_processing_interrupted()
        self._done += part
        if int(_PARTS * self._done) > self._shown:
            self._shown = int(_PARTS * self._done)
            self._bar.update_absolute(self._shown)

    def start_over(self) -> None:
        """Nothing is done any more."""
        self._done, self._shown = 0.0, 0


def weights_of(model: nn.Module, base: dict[str, Tensor]) -> WeightsOf:
    """How weights of a VAE's layers are read.

    Args:
        model: The host's VAE.
        base: The taming file's own base decoder, as far as it is in use: where the host keeps
            layers off the device, its patches are not in the layer's weight.
    """
    if not base:
        return own_weights
    paths = {id(module): path for path, module in model.named_modules()}

    def read(module: nn.Module) -> tuple[Tensor, Tensor]:
        path = paths.get(id(module))
        weight, bias = own_weights(module)
        return base.get(f"{path}.weight", weight), base.get(f"{path}.bias", bias)

    return read


def host_decoder(
    vae: Any, taming: TamingModel, strength: float, report: Callable[[float], None]
) -> FrameDecoder:
    """A host's VAE with the decoder half of a taming file.

    Args:
        vae: Left as it is.
        taming: With a decoder half unless the strength is 0.
        strength: 1 tames fully, 0 decodes plainly.
        report: See `FrameDecoder`.

    Raises:
        HostMismatchError: If the VAE is not of Stable Diffusion's kind.
    """
    model = vae.first_stage_model
    weights = weights_of(model, taming.decoder_base if strength != 0.0 else {})
    layers = find_decoder(model)
    layers = replace(layers, conv_out=PreciseConvolution(layers.conv_out, weights))
    net = taming.need_decoder().model if strength != 0.0 else None
    device, dtype = torch.device(vae.device), vae.vae_dtype
    return FrameDecoder(
        TamedDecoder(layers, net, strength),
        device,
        dtype,
        memory_format=format_on(device, dtype),
        weights=weights,
        report=report,
    )


def tamed_vae_patcher(vae: Any, taming: TamingModel) -> Any:
    """The VAE's patcher, with the taming file's own base decoder where it has one.

    The tensors go in as patches of a clone; the host takes them out again when it loads the VAE's
    own patcher.
    """
    if not taming.decoder_base:
        return vae.patcher
    patcher = vae.patcher.clone()
    patcher.add_patches({name: ("set", (t,)) for name, t in taming.decoder_base.items()})
    return patcher


def decode_patchers(vae: Any, taming: TamingModel, strength: float) -> list[Any]:
    """What the host must load to decode."""
    if strength == 0.0:
        return [vae.patcher]
    return [tamed_vae_patcher(vae, taming), taming.need_decoder()]
