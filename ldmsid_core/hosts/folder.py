"""Stable Diffusion from a diffusers folder: `unet/`, `vae/`, `scheduler/`, `text_encoder/`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, HostMismatchError
from ..weight_file import read_weights, sha256_of
from .families import LATENT_SCALE, family_name

_ENDINGS = (".safetensors", ".bin")
_WEIGHTS = ("diffusion_pytorch_model",)
_TEXT_WEIGHTS = ("model", "pytorch_model")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"Expected a diffusers configuration at {path}, found none that can be read ({error}); "
            "name the folder that holds unet/ and vae/, or a single file."
        ) from error


def _find_weights(folder: Path, names: tuple[str, ...]) -> tuple[Path, str | None] | None:
    """The first weight file there is under these names, and its variant, such as fp16."""
    for ending in _ENDINGS:
        for variant in (None, "fp16", "bf16"):
            for name in names:
                path = folder / f"{name}{f'.{variant}' if variant else ''}{ending}"
                if path.is_file():
                    return path, variant
    return None


def _weights_in(folder: Path) -> tuple[Path, str | None]:
    """The weight file of a part, and its variant."""
    found = _find_weights(folder, _WEIGHTS)
    if found is None:
        raise CheckpointError(
            f"Expected {_WEIGHTS[0]}.safetensors in {folder}, found none; download the folder "
            "again."
        )
    return found


@dataclass(frozen=True)
class FolderHost:
    """A diffusers folder, its configurations read.

    Attributes:
        path: The folder.
        unet_config: Of `unet/`.
        prediction_type: From `scheduler/`, `epsilon` where it says nothing.
        latent_scale: From `vae/`.
    """

    path: Path
    unet_config: dict[str, Any]
    prediction_type: str
    latent_scale: float

    @property
    def cross_attention_width(self) -> int:
        """Width of a prompt token."""
        return int(self.unet_config["cross_attention_dim"])

    @property
    def family(self) -> str:
        """See `family_name`."""
        return family_name(self.cross_attention_width, self.prediction_type)

    def weights(self, part: str) -> dict[str, Tensor]:
        """Tensors of `unet`, `vae` or `text_encoder` under diffusers' names, memory-mapped."""
        if part != "text_encoder":
            return read_weights(_weights_in(self.path / part)[0])
        found = _find_weights(self.path / part, _TEXT_WEIGHTS)
        return {} if found is None else read_weights(found[0])

    def sha256(self) -> str:
        """Of the UNet's and the VAE's weight files together."""
        digest = hashlib.sha256()
        for part in ("unet", "vae"):
            digest.update(sha256_of(_weights_in(self.path / part)[0]).encode())
        return digest.hexdigest()


def read_folder(path: Path) -> FolderHost:
    """Open a diffusers folder.

    Raises:
        CheckpointError: If a configuration is missing or unreadable.
        HostMismatchError: If it is another kind of model.
    """
    unet = _read_json(path / "unet" / "config.json")
    vae = _read_json(path / "vae" / "config.json")
    scheduler = path / "scheduler" / "scheduler_config.json"
    settings = _read_json(scheduler) if scheduler.is_file() else {}
    width, channels = unet.get("cross_attention_dim"), unet.get("in_channels", 4)
    extra = [
        k for k in ("addition_embed_type", "class_embed_type", "num_class_embeds") if unet.get(k)
    ]
    if not isinstance(width, int) or channels != 4 or extra:
        raise HostMismatchError(
            f"Expected Stable Diffusion 1.x or 2.x in {path}, found a UNet with {channels} input "
            f"channels, prompt width {width}{f' and {extra[0]}' if extra else ''}; use the base "
            "model that the taming file was trained with, such as 2.1-base."
        )
    scale = vae.get("scaling_factor", LATENT_SCALE)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not scale > 0:
        raise CheckpointError(
            f"Expected a scaling_factor above 0 in {path / 'vae' / 'config.json'}, found {scale!r}."
        )
    prediction = str(settings.get("prediction_type", "epsilon"))
    return FolderHost(path, unet, prediction, float(scale))


def build_folder(host: FolderHost, *, dtype: torch.dtype, parts: tuple[str, ...] = ("unet", "vae")
                 ) -> list[Any]:  # fmt: skip
    """Diffusers' modules with a folder's weights, offline.

    Raises:
        CheckpointError: If tensors are missing or of a wrong shape.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    kinds: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    modules = []
    for part in parts:
        _, variant = _weights_in(host.path / part)
        try:
            module, info = kinds[part].from_pretrained(
                str(host.path), subfolder=part, local_files_only=True, torch_dtype=dtype,
                variant=variant, output_loading_info=True,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            first = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{host.path / part}: cannot be loaded ({first}).") from error
        wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
        if wrong:
            raise CheckpointError(
                f"{host.path / part}: {len(wrong)} tensors are missing or unknown, such as "
                f"{wrong[0]}; download the folder again."
            )
        modules.append(module)
    return modules
