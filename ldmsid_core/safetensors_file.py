"""Safetensors files with errors a user can act on."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import CheckpointError, OutputError
from .output.atomic import written_atomically


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors in float32 and the header's texts.

    Raises:
        CheckpointError: If the file is missing, damaged or holds NaN or infinity.
    """
    if not path.is_file():
        raise CheckpointError(f"Expected a weight file, but {path} does not exist; check it.")
    try:
        with safe_open(str(path), "pt") as stored:
            state = {key: stored.get_tensor(key).float() for key in stored.keys()}  # noqa: SIM118
            metadata = dict(stored.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"Expected a safetensors file, but {path} is damaged, truncated or of another kind "
            f"({error}); fetch or convert it again."
        ) from error
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; the file is damaged.")
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
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{name} holds NaN or infinity and was not saved to {path}.")
    ready = {name: tensor.detach().contiguous().cpu() for name, tensor in state.items()}
    with written_atomically(path, overwrite=overwrite) as partial:
        try:
            save_file(ready, str(partial), metadata=metadata)
        except SafetensorError as error:  # how the library reports a full disk
            raise OutputError(f"Cannot write {path}: {error}; make room.") from error
        partial.chmod(0o644)
