"""Where weight files are: the embedded model's, or the user's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
