"""Measuring a frame's norm statistics, on GPUs by a graph that serves one frame after the other."""

from __future__ import annotations

from torch import nn

from ..frame_norms import FrameNorms
from ..taming.attach import PredictNoise
from .graphed import GraphedPrediction


class StandIn:
    """What the patches that stand for a frame are sampled with.

    Attributes:
        norms: Of the frame that was begun last.
        predict: One evaluation of the tamed UNet on its patches.
    """

    def __init__(self, predict: PredictNoise, *networks: nn.Module) -> None:
        """Nothing is measured yet.

        Args:
            predict: Layer by layer.
            networks: UNet and taming.
        """
        self._plain, self._networks = predict, networks
        self._batch = 0
        self.release()

    def release(self) -> None:
        """Let go of the graph and what it writes to."""
        self.norms = FrameNorms(*self._networks)
        self.predict = GraphedPrediction(self._plain)

    def begin(self, batch: int) -> None:
        """A new frame.

        Args:
            batch: Pictures in it. A graph writes where it did when it was recorded, so another
                number needs another graph.
        """
        if batch != self._batch:
            self.release()
        self._batch = batch
        self.norms.forget()
