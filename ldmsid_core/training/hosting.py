"""The host that a run tames: a given Stable Diffusion, or a small one that the run trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from ..errors import CheckpointError
from ..hosts.empty_prompt import empty_prompt_embedding, has_text_encoder
from ..hosts.folder import read_folder
from ..hosts.host import Host, is_own_host, load_host
from ..hosts.original import read_original
from ..model_files import EMBEDDED, find_model
from ..taming.checkpoint import load_taming


@dataclass(frozen=True)
class TamableHost:
    """A frozen host with what training and export must know of it.

    Attributes:
        unet: The denoiser.
        vae: Encoder and decoder of latents.
        prompt: Embedding of the empty prompt, `(tokens, width)`.
        latent_scale: Latent as the UNet sees it over latent as the VAE gives it.
        prediction_type: `epsilon` or `v_prediction`.
        family: Such as `sd21-base`.
        given: The file or folder it was read from; None where this run trained it.
        sha256: Of that file.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    prompt: Tensor
    latent_scale: float
    prediction_type: str
    family: str
    given: Path | None = None
    sha256: str | None = None

    def to(self, device: torch.device) -> TamableHost:
        """The same host, its modules moved in place."""
        for module in (self.unet, self.vae):
            torch.nn.Module.to(module, device)
        return TamableHost(
            self.unet, self.vae, self.prompt.to(device), self.latent_scale, self.prediction_type,
            self.family, self.given, self.sha256,
        )  # fmt: skip


def find_host(name: str) -> Path:
    """Where a configuration's `host` is.

    Raises:
        CheckpointError: If there is no such file or folder.
    """
    return EMBEDDED.host if name == "embedded" else find_model(Path(name), EMBEDDED.host)


def given_host(name: str) -> TamableHost:
    """Load the host that a configuration names, in float32.

    Args:
        name: `embedded`, a path, or a name in the folders of `$LDMSID_MODELS`.

    Raises:
        CheckpointError: If it is missing or damaged, or nothing tells the empty prompt's embedding.
        HostMismatchError: If it is another kind of model.
    """
    path = find_host(name)
    host = load_host(path)
    header = host.header
    return TamableHost(
        host.unet, host.vae, _prompt_of(path, host), header.latent_scale, header.prediction_type,
        header.family, path, host.sha256,
    )  # fmt: skip


def _prompt_of(path: Path, host: Host) -> Tensor:
    """From the host's own text encoder, or the taming file that lies beside a host of ours."""
    if is_own_host(path):
        beside = EMBEDDED.taming if path == EMBEDDED.host else path.with_name("taming.safetensors")
        prompt = load_taming(beside).prompt_embedding if beside.exists() else None
        where = f"a taming file {beside.name} beside the host with a prompt embedding"
    else:
        state = _text_encoder(path)
        found = has_text_encoder(state)
        prompt = empty_prompt_embedding(state, source=str(path)) if found else None
        where = "a text encoder in the host (the full checkpoint, or text_encoder/ in the folder)"
    if prompt is None or prompt.shape[-1] != host.cross_attention_width:
        found_width = "none" if prompt is None else f"one of width {prompt.shape[-1]}"
        raise CheckpointError(
            f"Expected {where} of width {host.cross_attention_width} for the empty prompt of "
            f"{path}, found {found_width}."
        )
    return prompt


def _text_encoder(path: Path) -> Mapping[str, Tensor]:
    """Tensors among which a Stable Diffusion's text encoder is, where it has one."""
    if path.is_dir():
        return read_folder(path).weights("text_encoder")
    return read_original(path).state
