"""A frozen Stable Diffusion: UNet, VAE and what is known of them, loaded through diffusers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from ..errors import CheckpointError
from ..safetensors_file import has_metadata, read_safetensors, write_safetensors
from ..weight_file import sha256_of
from .folder import FolderHost, build_folder, read_folder
from .original import OriginalHost, build_original, read_original

_HEADER_KEY = "ldmsid_host"
_FORMAT_VERSION = 1
_UNET, _VAE = "unet.", "vae."


@dataclass(frozen=True)
class HostHeader:
    """What a host file says about itself.

    Attributes:
        family: Such as `tiny`; a taming checkpoint names the family it was trained for.
        latent_scale: Latent as the UNet sees it over latent as the VAE gives it.
        prediction_type: `epsilon` or `v_prediction`.
        unet: Constructor arguments of `UNet2DConditionModel`.
        vae: Constructor arguments of `AutoencoderKL`.
        training: Free summary.
        licence: Of the weights.
        latent_rgb: Four rows of RGB in model range and a row of biases: the linear map that shows
            a latent as a small picture; None where unknown.
    """

    family: str
    latent_scale: float
    prediction_type: str
    unet: dict[str, Any]
    vae: dict[str, Any]
    training: dict[str, Any]
    licence: str
    latent_rgb: list[list[float]] | None = None


@dataclass(frozen=True)
class Host:
    """A loaded host: modules frozen and in evaluation mode.

    Attributes:
        header: Its description.
        unet: The denoiser.
        vae: Encoder and decoder of latents.
        name: Of the file.
        sha256: Of the file.
    """

    header: HostHeader
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    name: str
    sha256: str

    @property
    def cross_attention_width(self) -> int:
        """Width of a prompt token."""
        return int(self.unet.config["cross_attention_dim"])


def freeze(module: nn.Module) -> None:
    """No gradients, evaluation mode."""
    module.requires_grad_(False).eval()


def save_host(
    path: Path,
    header: HostHeader,
    unet: nn.Module,
    vae: nn.Module,
    *,
    dtype: torch.dtype,
    overwrite: bool = False,
) -> None:
    """Write a host as one safetensors file that appears whole or not at all."""
    state: dict[str, Tensor] = {}
    for prefix, module in ((_UNET, unet), (_VAE, vae)):
        state.update({f"{prefix}{k}": v.to(dtype) for k, v in module.state_dict().items()})
    text = json.dumps({**header.__dict__, "format_version": _FORMAT_VERSION}, sort_keys=True)
    write_safetensors(path, state, {_HEADER_KEY: text}, overwrite=overwrite)


def _parse_header(metadata: Mapping[str, str], path: Path) -> HostHeader:
    try:
        values = dict(json.loads(metadata[_HEADER_KEY]))
        version = values.pop("format_version")
        if version != _FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: expected host format version {_FORMAT_VERSION}, found {version}."
            )
        return HostHeader(**values)
    except (json.JSONDecodeError, TypeError, KeyError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: its header is not a host's: {error}.") from error


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        first = str(error).strip().splitlines()
        raise CheckpointError(
            f"{path}: the tensors do not fit the host its header describes: {' '.join(first[:2])}"
        ) from error
    freeze(module)


def is_own_host(path: Path) -> bool:
    """Whether a path is a host file of `ldmsid train`."""
    ours = path.is_file() and path.suffix.lower() == ".safetensors"
    return ours and has_metadata(path, _HEADER_KEY)


def load_host(path: Path, *, dtype: torch.dtype = torch.float32) -> Host:
    """Read a host: a file of `ldmsid train`, Stable Diffusion in one file, or a diffusers folder.

    Args:
        path: The file or folder.
        dtype: Of the weights in memory; those stored in it stay memory-mapped until moved.

    Raises:
        CheckpointError: If it is missing, damaged, no host, incomplete, or asks to run code.
        HostMismatchError: If it is another kind of model.
    """
    if not path.exists():
        raise CheckpointError(f"Expected host weights, but {path} does not exist; check it.")
    if path.is_dir():
        folder = read_folder(path)
        unet, vae = build_folder(folder, dtype=dtype)
        return _stable_diffusion(folder, unet, vae, folder.sha256())
    if is_own_host(path):
        return _load_own(path, dtype)
    original = read_original(path)
    unet, vae = build_original(original, dtype=dtype)
    return _stable_diffusion(original, unet, vae, sha256_of(path))


def _stable_diffusion(
    source: OriginalHost | FolderHost,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    sha256: str,
) -> Host:
    """A host of others' weights: what its file does not say is read off the tensors."""
    for module in (unet, vae):
        freeze(module)
    header = HostHeader(
        source.family, source.latent_scale, source.prediction_type, dict(unet.config),
        dict(vae.config), {}, "",
    )  # fmt: skip
    return Host(header, unet, vae, source.path.name, sha256)


def _load_own(path: Path, dtype: torch.dtype) -> Host:
    """A host file of `ldmsid train`."""
    state, metadata = read_safetensors(path, dtype=dtype)
    header = _parse_header(metadata, path)
    try:
        with torch.device("meta"):
            unet = UNet2DConditionModel(**header.unet)
            vae = AutoencoderKL(**header.vae)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its header describes no host: {error}.") from error
    leftover = [k for k in state if not k.startswith((_UNET, _VAE))]
    if leftover:
        raise CheckpointError(f"{path}: expected unet.* and vae.* alone, found {leftover[0]}.")
    for prefix, module in ((_UNET, unet), (_VAE, vae)):
        part = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        _fill(module, part, path)
    return Host(header, unet, vae, path.name, sha256_of(path))
