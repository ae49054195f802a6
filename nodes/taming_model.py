"""A taming checkpoint inside ComfyUI: each half in a ModelPatcher that the host moves about."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
from torch import Tensor, nn

from ..ldmsid_core.errors import HostMismatchError
from ..ldmsid_core.taming.checkpoint import load_taming
from ..ldmsid_core.taming.header import TamingHeader
from .kept_halves import KeptHalves

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TamingModel:
    """What flows through a TAMING socket.

    Attributes:
        header: Description of the checkpoint.
        unet: ModelPatcher of the `UNetTaming`; None if the file has none.
        decoder: ModelPatcher of the `DecoderTaming`; None if the file has none.
        prompt_embedding: `(tokens, width)`; None if the file has none.
        name: Of the file.
        decoder_base: Tensors of a fine-tuned base decoder by their names in the VAE; may be empty.
        halves: Of the bands that were decoded last.
    """

    header: TamingHeader
    unet: Any | None
    decoder: Any | None
    prompt_embedding: Tensor | None
    name: str
    decoder_base: dict[str, Tensor]
    halves: KeptHalves = field(default_factory=KeptHalves, repr=False, compare=False)

    def need_unet(self) -> Any:
        """The patcher of UNet taming.

        Raises:
            HostMismatchError: If the file has none.
        """
        if self.unet is None:
            raise HostMismatchError(
                f"Expected UNet taming in {self.name}, found decoder taming alone; choose a file "
                "with both halves."
            )
        return self.unet

    def need_decoder(self) -> Any:
        """The patcher of decoder taming.

        Raises:
            HostMismatchError: If the file has none.
        """
        if self.decoder is None:
            raise HostMismatchError(
                f"Expected decoder taming in {self.name}, found UNet taming alone; decode with the "
                "plain VAE Decode node, or choose a file with both halves."
            )
        return self.decoder

    def conditioning(self) -> list[Any]:
        """The empty prompt that the modules were trained with, as CONDITIONING.

        Raises:
            HostMismatchError: If the file has none.
        """
        if self.prompt_embedding is None:
            raise HostMismatchError(
                f"Expected a prompt embedding in {self.name}, found none; use Apply taming with a "
                "KSampler and an empty CLIP Text Encode instead."
            )
        return [[self.prompt_embedding[None].float(), {}]]


def as_patcher(module: nn.Module) -> Any:
    """A ModelPatcher of the host's default class, for a module that lies on the offload device."""
    # Looked up at call time: newer hosts rebind it once they know the device.
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return kind(module, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device())


def load_taming_model(path: Path) -> TamingModel:
    """Read a checkpoint with its stored dtype; layers cast themselves to what they are given.

    Raises:
        CheckpointError: If the file is missing, damaged or inconsistent.
        ConfigError: If its header has an unknown setting.
    """
    taming = load_taming(path, operations=comfy.ops.manual_cast, dtype=None)
    log.info("loaded taming %s for %s", path.name, taming.header.host_family)
    return TamingModel(
        header=taming.header,
        unet=None if taming.unet is None else as_patcher(taming.unet),
        decoder=None if taming.decoder is None else as_patcher(taming.decoder),
        prompt_embedding=taming.prompt_embedding,
        name=taming.name,
        decoder_base=taming.decoder_base,
    )
