"""A UNet's evaluation as one CUDA graph: its thousand kernels start at once.

Without, a GPU waits for Python between the kernels of a small latent. Large latents keep it busy
anyway, and a graph would hold on to their activations, so they are computed as they are.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ..memory import is_out_of_memory
from ..taming.attach import PredictNoise

log = logging.getLogger(__name__)
# Positions of all latents of a call up to which a graph is made; two of the first.
MOST_POSITIONS = 2 * 64 * 64
_WARM_UP = 2
_Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class _Captured:
    """One graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: _Inputs
    output: Tensor

    def replay(self, given: _Inputs) -> Tensor:
        for mine, new in zip(self.inputs, given, strict=True):
            mine.copy_(new)
        self.graph.replay()
        return self.output.clone()


class GraphedPrediction:
    """Replays a prediction for inputs of the last call's sizes; captures it when they change."""

    def __init__(self, predict: PredictNoise) -> None:
        """Keep the prediction; it must give the same result for the same tensors.

        Args:
            predict: `(latent, timestep, context, structure input)` -> prediction.
        """
        self._predict = predict
        self._key: object = None
        self._captured: _Captured | None = None
        self._is_usable = True

    def __call__(
        self, latent: Tensor, timestep: Tensor, context: Tensor, structure_input: Tensor
    ) -> Tensor:
        """As `predict`."""
        given = (latent, timestep, context, structure_input)
        positions = len(latent) * latent.shape[-2] * latent.shape[-1]
        if latent.device.type != "cuda" or positions > MOST_POSITIONS or not self._is_usable:
            return self._predict(*given)
        key = tuple((x.shape, x.stride(), x.dtype) for x in given)
        if key != self._key:
            self._captured, self._key = None, key
            self._captured = self._capture(given)
        return self._predict(*given) if self._captured is None else self._captured.replay(given)

    def _capture(self, given: _Inputs) -> _Captured | None:
        """A graph of the prediction; None, and never again, where it cannot be captured."""
        latent, timestep, context, structure_input = (x.clone() for x in given)
        inputs = (latent, timestep, context, structure_input)
        try:
            stream = torch.cuda.Stream(latent.device)
            stream.wait_stream(torch.cuda.current_stream(latent.device))
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    self._predict(*inputs)
            torch.cuda.current_stream(latent.device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = self._predict(*inputs)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._is_usable = False
            log.warning(
                "no CUDA graph of the UNet, going on without: %s", str(error).split("\n")[0]
            )
            return None
        return _Captured(graph, inputs, output)
