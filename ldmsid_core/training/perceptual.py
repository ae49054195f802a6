"""LPIPS as a training loss, from a weight file that the user has."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..errors import ConfigError
from ..evaluation.lpips import load_lpips
from ..weight_file import sha256_of
from .config import TrainingConfig


class LpipsLoss:
    """LPIPS of pictures on whatever device they are; its weights never learn.

    Attributes:
        name: Of the backbone.
        sha256: Of the file: a run goes on with the network it began with.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            CheckpointError: If it is missing, damaged, or of another layout.
        """
        self._network = load_lpips(path)
        self._device = next(iter(self._network.state.values())).device
        self.name, self.sha256 = self._network.backbone.name, sha256_of(path)

    def __call__(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Mean over the samples; both `(B, 3, H, W)` model range."""
        if found.device != self._device:
            self._network, self._device = self._network.to(found.device), found.device
        return self._network.loss(found, wanted)


def load_perceptual(path: Path, config: TrainingConfig) -> LpipsLoss:
    """The network for a configuration's loss term `perceptual`.

    Raises:
        ConfigError: If no stage has that term.
        CheckpointError: If the file is missing, damaged, or of another layout.
    """
    if not any(stage.loss.perceptual for stage in config.stages):
        raise ConfigError(
            f"Expected a stage whose loss has a perceptual term for {path}, found none; set "
            "perceptual above 0 under the stage's loss, or leave --lpips out."
        )
    return LpipsLoss(path)
