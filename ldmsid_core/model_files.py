"""Where weight files are: the embedded model's, or the user's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .errors import CheckpointError

MODELS_VARIABLE = "LDMSID_MODELS"
_ENDINGS = ("", ".safetensors", ".ckpt")
_ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class ModelFiles:
    """The two files of a model.

    Attributes:
        host: Host weights.
        taming: Taming checkpoint.
    """

    host: Path
    taming: Path


EMBEDDED = ModelFiles(_ASSETS / "tiny_host.safetensors", _ASSETS / "tiny_taming.safetensors")
# A dark RAW with known truth, made by `ldmsid synth astronaut --ratio 250 --iso 1600 --size 448`.
SAMPLE_RAW = _ASSETS / "sample_dark.dng"


def find_model(name: Path | None, default: Path) -> Path:
    """A weight file or folder by its path, or by its name in the folders of `$LDMSID_MODELS`.

    Args:
        name: Path, or name with or without ending; None takes the default.
        default: The embedded file.

    Raises:
        CheckpointError: If there is no such file.
    """
    if name is None:
        return default
    if name.exists():
        return name
    folders = [f for f in os.environ.get(MODELS_VARIABLE, "").split(os.pathsep) if f]
    if not name.is_absolute():
        for folder in folders:
            for ending in _ENDINGS:
                path = Path(folder) / f"{name}{ending}"
                if path.exists():
                    return path
    looked = f" and in {', '.join(folders)}" if folders else f"; ${MODELS_VARIABLE} names no folder"
    raise CheckpointError(
        f"Expected a weight file, but {name} does not exist (looked here{looked}); check the path "
        "or the name."
    )
