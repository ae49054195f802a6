"""Measuring a frame's norm statistics, on GPUs by a graph that serves one frame after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from ..shared_norms import SharedNorms
from ..taming.attach import PredictNoise
from .graphed import GraphedPrediction

_Size = TypeVar("_Size")


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
        self.norms = SharedNorms(*self._networks)
        self.predict = GraphedPrediction(self._plain)

    def releasing(
        self, smaller: Callable[[_Size], _Size | None]
    ) -> Callable[[_Size], _Size | None]:
        """What to try where memory ran out, after letting go of what is held here.

        Args:
            smaller: As for `with_less_memory`.
        """

        def freed(size: _Size) -> _Size | None:
            self.release()
            return smaller(size)

        return freed

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
