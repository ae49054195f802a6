"""Safetensors files with errors a user can act on."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import CheckpointError, OutputError
from .finite import is_finite
from .output.atomic import touch_for_mode, written_atomically


def has_metadata(path: Path, key: str) -> bool:
    """Whether a safetensors file's header has a text under this key; False if it is none."""
    try:
        with safe_open(str(path), "pt") as stored:
            return key in (stored.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return False


def read_safetensors(
    path: Path, *, dtype: torch.dtype | None = torch.float32
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and the header's texts.

    Args:
        path: The file.
        dtype: Of the tensors; None keeps the stored one, without a second copy in memory.

    Raises:
        CheckpointError: If the file is missing, damaged or holds NaN or infinity.
    """
    if not path.is_file():
        raise CheckpointError(f"Expected a weight file, but {path} does not exist; check it.")
    try:
        with safe_open(str(path), "pt") as stored:
            state = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
            metadata = dict(stored.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"Expected a safetensors file, but {path} is damaged, truncated or of another kind "
            f"({error}); fetch or convert it again."
        ) from error
    for name, tensor in state.items():
        if not is_finite(tensor):
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; the file is damaged.")
    if dtype is not None:
        state = {key: tensor.to(dtype) for key, tensor in state.items()}
    return state, metadata


def write_safetensors(
    path: Path, state: dict[str, Tensor], metadata: dict[str, str], *, overwrite: bool
) -> None:
    """Write tensors and header; the file appears whole or not at all.

    Raises:
        OutputError: If it exists or cannot be written.
        CheckpointError: If a tensor holds NaN or infinity.
    """
    for name, tensor in state.items():
        if not is_finite(tensor):
            raise CheckpointError(f"{name} holds NaN or infinity and was not saved to {path}.")
    ready = {name: tensor.detach().contiguous().cpu() for name, tensor in state.items()}
    with written_atomically(path, overwrite=overwrite) as partial:
        mode = touch_for_mode(partial)
        try:
            save_file(ready, str(partial), metadata=metadata)
        except SafetensorError as error:  # how the library reports a full disk
            raise OutputError(f"Cannot write {path}: {error}; make room.") from error
        partial.chmod(mode)
