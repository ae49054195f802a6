"""Weight files of others, whatever their container: tensors by name, memory-mapped."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import CheckpointError
from .pickled_file import PICKLED_ENDINGS, read_pickled

WEIGHT_ENDINGS = (".safetensors", *PICKLED_ENDINGS)


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` or PyTorch file, memory-mapped, in their stored dtypes.

    Raises:
        CheckpointError: If the file is missing, damaged, of another kind or asks to run code.
    """
    if path.suffix.lower() not in WEIGHT_ENDINGS:
        raise CheckpointError(
            f"Expected a weight file that ends in {', '.join(WEIGHT_ENDINGS)}, found {path}."
        )
    if path.suffix.lower() in PICKLED_ENDINGS:
        return read_pickled(path)[0]
    if not path.is_file():
        raise CheckpointError(f"Expected a weight file, but {path} does not exist; check it.")
    try:
        with safe_open(str(path), "pt") as stored:
            return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"Expected a safetensors file, but {path} is damaged, truncated or of another kind "
            f"({error}); download it again."
        ) from error


def sha256_of(path: Path) -> str:
    """Of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()
