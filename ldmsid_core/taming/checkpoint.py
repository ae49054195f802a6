"""The taming checkpoint: one safetensors file with its whole description in the header.

Keys are `structure_encoder.*`, `unet_sft.<site>.*`, `decoder.<level>.*`, `decoder_base.*` and
`prompt_embedding`; either half may be absent, and so may the last two. Loading is strict: unknown
or missing keys and wrong shapes are errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..pickled_file import PICKLED_ENDINGS
from ..safetensors_file import read_safetensors, write_safetensors
from .blocks import as_shape
from .fusion import DecoderTaming
from .header import TamingHeader
from .operations import PLAIN, Operations
from .unet_taming import UNetTaming

_HEADER_KEY = "ldmsid"
_DECODER = "decoder."
_DECODER_BASE = "decoder_base."
_PROMPT = "prompt_embedding"


@dataclass(frozen=True)
class Taming:
    """A loaded taming checkpoint: modules in evaluation mode, frozen.

    Attributes:
        header: Its description.
        unet: UNet taming; None if the file has none.
        decoder: Decoder taming; None if the file has none.
        prompt_embedding: `(tokens, width)`; None if the file has none.
        name: Of the file.
        decoder_base: Tensors of a fine-tuned base decoder by their names in the original layout.
    """

    header: TamingHeader
    unet: UNetTaming | None
    decoder: DecoderTaming | None
    prompt_embedding: Tensor | None
    name: str
    decoder_base: dict[str, Tensor] = field(default_factory=dict)


def taming_state(
    unet: UNetTaming | None,
    decoder: DecoderTaming | None,
    prompt_embedding: Tensor | None,
    decoder_base: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """All tensors of a checkpoint under its keys."""
    state: dict[str, Tensor] = {}
    if unet is not None:
        state.update(unet.state_dict())
    if decoder is not None:
        state.update({f"{_DECODER}{k[7:]}": v for k, v in decoder.state_dict().items()})
    if prompt_embedding is not None:
        state[_PROMPT] = prompt_embedding
    state.update({f"{_DECODER_BASE}{k}": v for k, v in (decoder_base or {}).items()})
    return state


def save_taming(
    path: Path,
    header: TamingHeader,
    state: dict[str, Tensor],
    *,
    dtype: torch.dtype,
    overwrite: bool = False,
) -> None:
    """Write a checkpoint; the file appears whole or not at all.

    Raises:
        OutputError: If it exists or cannot be written.
    """
    cast = {name: tensor.detach().to(dtype) for name, tensor in state.items()}
    write_safetensors(path, cast, {_HEADER_KEY: header.to_json()}, overwrite=overwrite)


def _load_part(
    module: nn.Module, wanted: dict[str, Tensor], state: dict[str, Tensor], source: str
) -> None:
    missing = sorted(set(wanted) - set(state))
    unknown = sorted(set(state) - set(wanted))
    if missing or unknown:
        raise CheckpointError(
            f"{source}: expected the keys its header describes; missing {len(missing)} "
            f"({', '.join(missing[:3])}), unknown {len(unknown)} ({', '.join(unknown[:3])})."
        )
    state = {name: as_shape(t, tuple(wanted[name].shape)) for name, t in state.items()}
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{source}: expected {name} of shape {tuple(wanted[name].shape)}, "
                f"found {tuple(tensor.shape)}."
            )
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False).eval()


def _build(
    header: TamingHeader, operations: Operations
) -> tuple[UNetTaming | None, DecoderTaming | None]:
    """The modules a header describes, without weights."""
    unet, decoder = None, None
    with torch.device("meta"):
        if header.unet is not None:
            unet = UNetTaming(header.unet, operations=operations)
        if header.decoder is not None:
            decoder = DecoderTaming(header.decoder, operations=operations)
    return unet, decoder


def _is_pickled(path: Path) -> bool:
    """Whether a file is a PyTorch checkpoint: by its ending, or a zip archive by another name."""
    with path.open("rb") as stream:
        return path.suffix.lower() in PICKLED_ENDINGS or stream.read(4) == b"PK\x03\x04"


def read_taming_state(
    path: Path, *, dtype: torch.dtype | None = None
) -> tuple[dict[str, Tensor], TamingHeader]:
    """All tensors of a taming checkpoint under its keys, and its header; nothing is built.

    Args:
        path: The file.
        dtype: Of the tensors; None keeps the stored one.

    Raises:
        CheckpointError: If the file is missing, damaged or no taming checkpoint, or holds NaN.
        ConfigError: If the header has an unknown setting or one out of range.
    """
    if path.is_file() and _is_pickled(path):
        raise CheckpointError(
            f"Expected a taming file (.safetensors), but {path} is a PyTorch checkpoint; turn "
            "released checkpoints into a taming file with `ldmsid convert --unet ... --decoder "
            "... -o NAME.safetensors`."
        )
    state, metadata = read_safetensors(path, dtype=dtype)
    if _HEADER_KEY not in metadata:
        raise CheckpointError(
            f"Expected a taming checkpoint with an '{_HEADER_KEY}' header, but {path} has none; "
            "is it a host or a LoRA? Choose a file written by `ldmsid train` or `ldmsid convert`."
        )
    return state, TamingHeader.from_json(metadata[_HEADER_KEY], source=str(path))


def load_taming(
    path: Path,
    *,
    operations: Operations = PLAIN,
    dtype: torch.dtype | None = torch.float32,
) -> Taming:
    """Read a taming checkpoint strictly.

    Args:
        path: The file.
        operations: What the layers are built from.
        dtype: Of the weights; None keeps the stored one.

    Raises:
        CheckpointError: If the file is missing, damaged, no taming checkpoint, does not hold what
            its header says, or holds NaN.
        ConfigError: If the header has an unknown setting or one out of range.
    """
    state, header = read_taming_state(path, dtype=dtype)
    prompt = state.pop(_PROMPT, None)
    base = _take_decoder_base(state, header, str(path))
    decoder_state = {
        f"levels.{k[len(_DECODER) :]}": v for k, v in state.items() if k.startswith(_DECODER)
    }
    unet_state = {k: v for k, v in state.items() if not k.startswith(_DECODER)}
    unet, decoder = _build(header, operations)
    # Shapes come from plain layers: a runtime's own may make their parameters only on loading.
    plain = _build(header, PLAIN)
    parts = zip((unet, decoder), plain, (unet_state, decoder_state), strict=True)
    for module, twin, part in parts:
        if module is not None and twin is not None:
            _load_part(module, twin.state_dict(), part, str(path))
        elif part:
            raise CheckpointError(
                f"{path}: holds {len(part)} tensors that its header does not describe, such as "
                f"{next(iter(part))}."
            )
    width = header.cross_attention_width
    if prompt is not None and (prompt.ndim != 2 or prompt.shape[1] != width):
        raise CheckpointError(
            f"{path}: expected {_PROMPT} of shape (tokens, {width}), found {tuple(prompt.shape)}."
        )
    return Taming(header, unet, decoder, prompt, path.name, base)


def _take_decoder_base(
    state: dict[str, Tensor], header: TamingHeader, source: str
) -> dict[str, Tensor]:
    """Remove a base decoder's tensors from a state, strictly those that the header names."""
    stored = [key for key in state if key.startswith(_DECODER_BASE)]
    base = {key[len(_DECODER_BASE) :]: state.pop(key) for key in stored}
    odd = sorted(set(base) ^ set(header.decoder_base))
    if odd:
        raise CheckpointError(
            f"{source}: expected the base decoder's tensors that its header names, found others: "
            f"{', '.join(odd[:3])}; convert the file again."
        )
    return base
