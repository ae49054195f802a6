"""Refuse a MODEL or VAE that a taming file was not made for, naming both sides."""

from __future__ import annotations

from typing import Any

import comfy.model_base
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import nn

from ..ldmsid_core.errors import HostMismatchError
from ..ldmsid_core.taming.base_sample import other_tensor
from ..ldmsid_core.taming.sites import DECODER_SITES
from .taming_model import TamingModel

MODEL_TYPES = {
    "epsilon": comfy.model_base.ModelType.EPS,
    "v_prediction": comfy.model_base.ModelType.V_PREDICTION,
}


def _describe(model: Any) -> str:
    """A model in words, such as `SDXL (UNetModel, context 2048)`."""
    config = model.model.model_config
    unet = getattr(config, "unet_config", {})
    kind = type(model.model.diffusion_model).__name__
    facts = [kind, f"{unet.get('in_channels', '?')} input channels"]
    if unet.get("context_dim") is not None:
        facts.append(f"prompt width {unet['context_dim']}")
    return f"{type(config).__name__} ({', '.join(facts)})"


def _mismatch(taming: TamingModel, model: Any, why: str) -> HostMismatchError:
    header = taming.header
    return HostMismatchError(
        f"{taming.name} was trained for {header.host_family} (prompt width "
        f"{header.cross_attention_width}, {header.prediction_type}), but the MODEL is "
        f"{_describe(model)}: {why}. Load the model it was trained with, or another taming file."
    )


def check_model(model: Any, taming: TamingModel) -> None:
    """Refuse a MODEL that UNet taming does not fit.

    Raises:
        HostMismatchError: If architecture, channels, prompt width, prediction or scale differ.
    """
    unet = model.model.diffusion_model
    if not isinstance(unet, UNetModel):
        raise _mismatch(taming, model, "it has no Stable Diffusion UNet")
    header, config = taming.header, model.model.model_config.unet_config
    if config.get("in_channels") != 4:
        raise _mismatch(taming, model, "it takes more than a latent, as inpainting models do")
    if config.get("context_dim") != header.cross_attention_width:
        raise _mismatch(taming, model, "its prompts have another width")
    if model.model.model_type != MODEL_TYPES.get(header.prediction_type):
        raise _mismatch(taming, model, f"it predicts {model.model.model_type.name}")
    scale = model.model.latent_format.scale_factor
    if abs(scale / header.latent_scale - 1.0) > 1e-3:
        raise _mismatch(taming, model, f"its latents are scaled by {scale:g}")
    for site in taming.need_unet().model.sites:
        channels = _output_channels(unet, site.original_path)
        if channels != site.channels:
            raise _mismatch(
                taming, model, f"{site.original_path} has {channels} channels, not {site.channels}"
            )


def _output_channels(unet: nn.Module, path: str) -> int | None:
    """Channels of a residual block; None where there is no such block."""
    try:
        return int(unet.get_submodule(path).out_layers[-1].out_channels)  # type: ignore[union-attr, index]
    except AttributeError:
        return None


def _check_decoder_base(model: nn.Module, taming: TamingModel) -> None:
    """Refuse a VAE with no place for the file's own base decoder, or not the one it completes."""
    own = model.state_dict()
    for name, tensor in taming.decoder_base.items():
        found = tuple(own[name].shape) if name in own else "no such tensor"
        if found != tuple(tensor.shape):
            raise HostMismatchError(
                f"Expected {name} of shape {tuple(tensor.shape)} in the VAE, as {taming.name} "
                f"brings it, found {found}; load the VAE of the model it was trained with."
            )
    other = other_tensor(taming.header.decoder_base_sample, own.get)
    if other is not None:
        raise HostMismatchError(
            f"{other} of the VAE is not what {taming.name} was converted against; load the VAE of "
            "that host, or convert again without --host."
        )


def check_vae(vae: Any, taming: TamingModel) -> None:
    """Refuse a VAE that decoder taming does not fit.

    Raises:
        HostMismatchError: If its decoder has other stages or widths, or the taming file was
            converted against another one.
    """
    model = vae.first_stage_model
    for site, width in zip(DECODER_SITES, taming.need_decoder().model.config.widths, strict=True):
        try:
            found = model.get_submodule(f"{site.original_path}.norm1").num_channels
        except AttributeError:
            found = None
        if found != width:
            raise HostMismatchError(
                f"{taming.name} was trained for {taming.header.host_family} with {width} channels "
                f"at {site.original_path}, but the VAE ({type(model).__name__}, "
                f"{vae.latent_channels} latent channels) has {found or 'no such stage'}. Load the "
                "VAE of the model it was trained with, or another taming file."
            )
    _check_decoder_base(model, taming)
