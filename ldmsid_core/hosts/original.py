"""Stable Diffusion from one file in the original layout, through diffusers' own loader, offline.

The configurations lie beside this module; widths and depths are read off the tensors, so relatives
of other widths load as well. Weights stay memory-mapped until they are cast or moved.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, HostMismatchError
from ..weight_file import read_weights
from .families import (
    LATENT_SCALE,
    cross_attention_width,
    family_name,
    prediction_type,
    refuse_other_families,
)
from .layout import unet_names, vae_names

log = logging.getLogger(__name__)
_CONFIGS = Path(__file__).parent / "configs"
_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_TAMING = ".sft_layer."
_HEAD_WIDTH = 64


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix) and _TAMING not in k
    }


@dataclass(frozen=True)
class OriginalHost:
    """One file in the original layout, opened.

    Attributes:
        path: The file.
        state: All its tensors, memory-mapped.
    """

    path: Path
    state: dict[str, Tensor]

    @cached_property
    def unet(self) -> dict[str, Tensor]:
        """The UNet's tensors without prefix, taming layers of a released file left out."""
        return _part(self.state, _UNET)

    @cached_property
    def vae(self) -> dict[str, Tensor]:
        """The VAE's tensors without prefix."""
        return _part(self.state, _VAE)

    @cached_property
    def cross_attention_width(self) -> int:
        """Width of a prompt token."""
        width = cross_attention_width(self.unet)
        assert width is not None
        return width

    @cached_property
    def prediction_type(self) -> str:
        """`epsilon` or `v_prediction`."""
        return prediction_type(self.unet)

    @property
    def latent_scale(self) -> float:
        """The file's own, where it has one, or Stable Diffusion's.

        Raises:
            CheckpointError: If the file's own is no number above 0.
        """
        stored = self.state.get("scale_factor")
        if stored is None:
            return LATENT_SCALE
        if stored.numel() != 1 or not 0.0 < stored.item() < float("inf"):
            raise CheckpointError(
                f"Expected scale_factor as one number above 0 in {self.path}, found "
                f"{tuple(stored.shape)} {stored.reshape(-1)[:1].tolist()}; download it again."
            )
        return float(stored.item())

    @property
    def family(self) -> str:
        """See `family_name`."""
        return family_name(self.cross_attention_width, self.prediction_type)


def read_original(path: Path) -> OriginalHost:
    """Open a Stable Diffusion checkpoint.

    Raises:
        CheckpointError: If the file is damaged, asks to run code, or has no VAE.
        HostMismatchError: If it is another kind of model.
    """
    found = OriginalHost(path, read_weights(path))
    if not found.unet:
        raise CheckpointError(
            f"Expected host weights in {path}: a host file of `ldmsid train`, or Stable Diffusion "
            f"in one file; found neither (first tensor: {next(iter(found.state), 'none')}). Choose "
            "another file, or leave --host out to use the embedded model."
        )
    refuse_other_families(found.unet, source=str(path))
    if "decoder.conv_in.weight" not in found.vae:
        raise CheckpointError(
            f"Expected UNet and VAE in {path}, found no VAE; use the full checkpoint, or a "
            "diffusers folder."
        )
    return found


def _levels(unet: Mapping[str, Tensor]) -> tuple[list[int], int, list[bool]]:
    """Widths of the levels, blocks a level, and which levels attend to prompts."""
    widths: list[int] = []
    attends: list[bool] = []
    blocks, number = 0, 1
    while f"input_blocks.{number}.0.out_layers.3.weight" in unet:
        widths.append(int(unet[f"input_blocks.{number}.0.out_layers.3.weight"].shape[0]))
        attends.append(f"input_blocks.{number}.1.proj_in.weight" in unet)
        first = number
        while f"input_blocks.{number}.0.out_layers.3.weight" in unet:
            number += 1
        blocks = number - first
        number += 1  # the downsampling between levels
    return widths, blocks, attends


def _unet_overrides(host: OriginalHost) -> dict[str, Any]:
    """What of the shipped configuration the tensors decide."""
    widths, blocks, attends = _levels(host.unet)
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends]
    up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)]
    linear = all(v.ndim == 2 for k, v in host.unet.items() if k.endswith(".proj_in.weight"))
    heads: Any = [max(1, width // _HEAD_WIDTH) for width in widths] if linear else 8
    return {
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": down,
        "up_block_types": up,
        "cross_attention_dim": host.cross_attention_width,
        "attention_head_dim": heads,
        "use_linear_projection": linear,
    }


def _vae_overrides(vae: Mapping[str, Tensor]) -> dict[str, Any]:
    numbers = [int(m[1]) for k in vae if (m := re.match(r"encoder\.down\.0\.block\.(\d+)\.", k))]
    widths = [int(vae[f"decoder.up.{i}.block.0.conv1.weight"].shape[0]) for i in range(4)]
    return {"block_out_channels": widths, "layers_per_block": max(numbers, default=1) + 1}


@contextlib.contextmanager
def _without_cast_warning() -> Iterator[None]:
    """Diffusers warns of every cast, also where nothing has to stay in float32."""
    logger = logging.getLogger("diffusers.models.modeling_utils")

    def keep(record: logging.LogRecord) -> bool:
        return "should be kept in float32: []" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _load(kind: Any, host: OriginalHost, part: str, dtype: torch.dtype, overrides: Any) -> Any:
    family = "sd1" if host.cross_attention_width == 768 else "sd2"
    state = {k: v for k, v in host.state.items() if _TAMING not in k}
    config = _CONFIGS / family / part
    try:
        with _without_cast_warning():
            module = kind.from_single_file(
                state, config=str(config), local_files_only=True, torch_dtype=dtype,
                low_cpu_mem_usage=True, **overrides,
            )  # fmt: skip
    except NotImplementedError as error:  # diffusers moves tensors that the file lacks
        missing = _missing(kind, host, part, config, overrides)
        raise _incomplete(host, part, missing or ["unnamed ones"]) from error
    except (ValueError, RuntimeError, KeyError, IndexError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{host.path}: its {part} is incomplete or of another shape ({first})."
        ) from error
    missing = [name for name, tensor in module.state_dict().items() if tensor.is_meta]
    if missing:
        raise _incomplete(host, part, missing)
    _warn_of_surplus(host, part, set(module.state_dict()), overrides["layers_per_block"])
    return module


def _warn_of_surplus(host: OriginalHost, part: str, known: set[str], blocks: int) -> None:
    """Say which tensors of a part have no place in the network, as add-ons bring them along."""
    own = host.unet if part == "unet" else host.vae
    names = unet_names(own, blocks=blocks) if part == "unet" else vae_names(own)
    surplus = [key for key in own if names.get(key) not in known]
    if surplus:
        log.warning(
            "%s: %d tensors of its %s have no place in Stable Diffusion and are not used, such as "
            "%s", host.path, len(surplus), part, surplus[0],
        )  # fmt: skip


def _incomplete(host: OriginalHost, part: str, missing: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{host.path}: its {part} is incomplete, {len(missing)} tensors are missing, such as "
        f"{', '.join(missing[:2])} (diffusers' names); download it again."
    )


def _missing(kind: Any, host: OriginalHost, part: str, config: Path, overrides: Any) -> list[str]:
    """Names, in diffusers, of the tensors that a file lacks."""
    settings = json.loads((config / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        wanted = kind.from_config({**settings, **overrides}).state_dict()
    blocks = overrides["layers_per_block"]
    names = unet_names(host.unet, blocks=blocks) if part == "unet" else vae_names(host.vae)
    return sorted(set(wanted) - set(names.values()))


def build_original(host: OriginalHost, *, dtype: torch.dtype) -> tuple[Any, Any]:
    """Diffusers' UNet and VAE with a file's weights.

    Raises:
        CheckpointError: If tensors are missing or of a wrong shape.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    try:
        overrides = (_unet_overrides(host), _vae_overrides(host.vae))
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"{host.path}: incomplete, missing {error}.") from error
    if len(overrides[0]["block_out_channels"]) != 4:
        raise HostMismatchError(
            f"Expected a UNet with four levels in {host.path}, found "
            f"{len(overrides[0]['block_out_channels'])}."
        )
    unet = _load(UNet2DConditionModel, host, "unet", dtype, overrides[0])
    vae = _load(AutoencoderKL, host, "vae", dtype, overrides[1])
    return unet, vae
