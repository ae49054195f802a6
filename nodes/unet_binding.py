"""Taming a MODEL: a clone with a wrapper that hooks the UNet for the length of one call.

The host's modules are never changed, so LoRA, ControlNet, offloading and other packs work before
and after. The condition travels with the prompts, where the host repeats, joins and crops it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ..ldmsid_core.errors import ConfigError, ShapeError
from ..ldmsid_core.pipeline import RawBands
from ..ldmsid_core.taming.sites import UNetSite
from ..ldmsid_core.taming.unet_taming import UNetTaming
from ..ldmsid_core.tiling import TileLayout
from .host_check import check_model
from .normed_calls import NormedCalls, set_norms
from .structure_condition import CONDITION, RepeatedRows, carry, unfold
from .taming_model import TamingModel
from .tiled_calls import set_tiles

KEY = "ldmsid"
# In a LATENT of which only a part was sampled: that part, in pixels on the sensor.
PART_KEY = "ldmsid_part"
_ANY_SIGMA = 1e6
_WRAPPERS = (
    WrappersMP.DIFFUSION_MODEL,
    WrappersMP.SAMPLER_SAMPLE,
    WrappersMP.PREPARE_SAMPLING,
    WrappersMP.OUTER_SAMPLE,
)
# Tensors alive at once at the latent's own size, and values a latent pixel in the host's estimate
# for Stable Diffusion (0.01 MiB for each byte of the dtype).
_ENCODER_TENSORS = 8
_SFT_TENSORS = 5
_HOST_VALUES = 0.01 * 1024 * 1024


@dataclass(frozen=True)
class UNetBinding:
    """What one binding applies.

    Attributes:
        net: The taming modules; shared by all clones of their patcher.
        strength: 1 tames fully.
        start_sigma: Tame from this noise level downwards.
        end_sigma: To this one.
        repeated: Rows of a call that need not be computed again.
    """

    net: UNetTaming
    strength: float
    start_sigma: float
    end_sigma: float
    repeated: RepeatedRows

    def is_active(self, transformer_options: dict[str, Any]) -> bool:
        """Whether this call lies in the chosen part of sampling."""
        sigmas = transformer_options.get("sigmas")
        if sigmas is None or (self.end_sigma <= 0.0 and self.start_sigma > _ANY_SIGMA):
            return True  # without asking the device for a number
        return self.end_sigma < float(sigmas[0]) <= self.start_sigma

    @contextmanager
    def hooked(self, unet: nn.Module, structure: list[Tensor], repeats: int) -> Iterator[None]:
        """Hook every site of a UNet; the hooks are gone when the block ends, however it ends."""
        handles = []
        try:
            for site in self.net.sites:
                convolution = unet.get_submodule(site.original_path).out_layers[-1]  # type: ignore[union-attr, index]
                hook = self._hook(site, structure, repeats)
                handles.append(convolution.register_forward_hook(hook))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, site: UNetSite, structure: list[Tensor], repeats: int) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            expected = tuple(structure[site.level].shape[-2:])
            if tuple(output.shape[-2:]) != expected:
                raise ShapeError(
                    f"Expected features of {expected} at {site.original_path} of the UNet, found "
                    f"{tuple(output.shape[-2:])}: a node on the MODEL resizes features inside the "
                    "UNet, as Deep Shrink does; leave it out of a tamed model."
                )
            return self.net.modulate(site, output, structure, self.strength, repeats=repeats)

        return hook

    def call(self, executor: Any, x: Tensor, timesteps: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The wrapper around the UNet's forward pass."""
        folded = kwargs.pop(CONDITION, None)
        if not self.is_active(_transformer_options(args, kwargs)):
            return executor(x, timesteps, *args, **kwargs)
        if folded is None:
            raise ShapeError(
                "Expected the bands beside every prompt, found a sampler that leaves them out; use "
                "Tamed sampler, or a sampler node that works through ComfyUI's guiders."
            )
        structure_input = unfold(folded).to(x.dtype)
        if structure_input.shape[-2:] != x.shape[-2:]:
            raise ShapeError(
                f"Expected bands of the latent's size {tuple(x.shape[-2:])} inside the sampler, "
                f"found {tuple(structure_input.shape[-2:])}: another node changed the size of one "
                "of them; put it before Apply taming or leave it out."
            )
        distinct = self.repeated.of(len(x))
        structure = self.net.structure_encoder(structure_input[:distinct], timesteps[:distinct])
        with self.hooked(executor.class_obj, structure, len(x) // distinct):
            return executor(x, timesteps, *args, **kwargs)


def _transformer_options(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options of a UNet call: (context, y, control, transformer_options) follow timesteps."""
    found = kwargs.get("transformer_options", args[3] if len(args) > 3 else None)
    return found if isinstance(found, dict) else {}


def _reserve(net: UNetTaming) -> Callable[..., Any]:
    """A wrapper that makes the host reserve memory for the taming activations as well.

    The host counts the weights of additional models, not what they compute. Its own estimate is
    proportional to rows, so a share of a row stands for our part.
    """
    config = net.config
    values = _ENCODER_TENSORS * config.encoder.width + _SFT_TENSORS * config.widths[0]
    share = 1.0 + values / _HOST_VALUES

    def reserve(executor: Any, model: Any, shape: Any, *args: Any, **kwargs: Any) -> Any:
        return executor(model, [shape[0] * share, *shape[1:]], *args, **kwargs)

    return reserve


def _size_check(size: tuple[int, int], file_name: str) -> Callable[..., Any]:
    """A wrapper that refuses a latent of another size before any model is loaded."""

    def check(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
        if tuple(noise.shape[-2:]) != size:
            height, width = noise.shape[-2:]
            raise ShapeError(
                f"Expected a latent of {size[1] * 8}x{size[0] * 8} pixels, the size of the bands "
                f"of {file_name}, found one of {width * 8}x{height * 8}; wire the latent that "
                "Apply taming gives."
            )
        return executor(noise, *args, **kwargs)

    return check


def empty_latent(structure_input: Tensor, identity: str) -> dict[str, Any]:
    """A LATENT of zeros that fits the bands and says which file it is for."""
    batch, _, height, width = structure_input.shape
    device = comfy.model_management.intermediate_device()
    return {"samples": torch.zeros(batch, 4, height, width, device=device), KEY: identity}


def bind_unet(
    model: Any,
    taming: TamingModel,
    bands: RawBands,
    *,
    strength: float,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
) -> tuple[Any, dict[str, Any]]:
    """A tamed clone of a MODEL, and an empty LATENT of the right size.

    Args:
        model: Left as it is. An earlier binding on it is replaced, not stacked.
        taming: Modules trained for it.
        bands: Of one file.
        strength: 1 tames fully, 0 not at all.
        start_percent: Part of sampling where taming begins, 0 to 1.
        end_percent: Where it ends, above the start.

    Raises:
        HostMismatchError: If the two do not fit.
        ConfigError: If the start is not before the end, or the file's ratio is out of range.
    """
    check_model(model, taming)
    if not 0.0 <= start_percent < end_percent <= 1.0:
        raise ConfigError(
            f"Expected start percent below end percent, found {start_percent:g} and "
            f"{end_percent:g}; 0 and 1 tame from the first step to the last."
        )
    structure_input = bands.for_recipe(taming.header.input_recipe).structure_input
    bound = bind_structure(
        model, taming, structure_input, bands.raw.file_name,
        strength=strength, start_percent=start_percent, end_percent=end_percent,
    )  # fmt: skip
    return bound, empty_latent(structure_input, bands.identity)


def bind_structure(
    model: Any,
    taming: TamingModel,
    structure_input: Tensor,
    file_name: str,
    *,
    strength: float,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    layout: TileLayout | None = None,
    norms: NormedCalls | None = None,
) -> Any:
    """A clone of a MODEL, tamed by a structure input of any size.

    Args:
        model: As for `bind_unet`, checked.
        taming: As for `bind_unet`.
        structure_input: `(B, 4, h, w)`.
        file_name: Of the file, for messages.
        strength: As for `bind_unet`.
        start_percent: As for `bind_unet`.
        end_percent: As for `bind_unet`.
        layout: Of the tiles that UNet calls are computed in; None computes them whole.
        norms: What the norms see; None leaves them as they are.
    """
    patcher = taming.need_unet()
    bound = model.clone()
    for kind in _WRAPPERS:
        bound.remove_wrappers_with_key(kind, KEY)
    # Before our own, so that taming lies inside and sees tiles.
    set_norms(bound, norms)
    set_tiles(bound, layout)
    if strength == 0.0:
        bound.set_additional_models(KEY, [])
        return bound
    sampling = model.get_model_object("model_sampling")
    repeated = RepeatedRows()
    binding = UNetBinding(
        patcher.model,
        strength,
        float(sampling.percent_to_sigma(start_percent)),
        float(sampling.percent_to_sigma(end_percent)),
        repeated,
    )
    bound.set_additional_models(KEY, [patcher])
    size = (structure_input.shape[-2], structure_input.shape[-1])
    wrappers = (
        binding.call, carry(structure_input, repeated),
        _reserve(patcher.model), _size_check(size, file_name),
    )  # fmt: skip
    for kind, wrapper in zip(_WRAPPERS, wrappers, strict=True):
        bound.add_wrapper_with_key(kind, KEY, wrapper)
    return bound
