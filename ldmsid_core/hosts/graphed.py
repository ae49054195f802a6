"""A UNet's evaluation as one CUDA graph: its thousand kernels start at once.

Without, a GPU waits for Python between the kernels of a small latent. Large latents keep it busy
anyway, and a graph would hold on to their activations, so they are computed as they are.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..taming.attach import PredictNoise

log = logging.getLogger(__name__)
# Positions of all latents of a call up to which a graph is made; two of the first.
MOST_POSITIONS = 2 * 64 * 64
# Sizes whose graphs are kept: the last call of a step may take fewer tiles.
_WARM_UP, _KEPT = 2, 2
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
    """Replays a prediction for inputs of sizes that it has seen; captures it for new ones."""

    def __init__(self, predict: PredictNoise) -> None:
        """Keep the prediction; it must give the same result for the same tensors.

        Args:
            predict: `(latent, timestep, context, structure input)` -> prediction.
        """
        self._predict = predict
        self._captured: dict[object, _Captured] = {}
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
        if key not in self._captured:
            if len(self._captured) == _KEPT:
                self._captured.clear()
            captured = self._capture(given)
            if captured is None:
                return self._predict(*given)
            self._captured[key] = captured
        return self._captured[key].replay(given)

    def release(self) -> None:
        """Let go of all graphs and the memory that they hold."""
        self._captured.clear()

    def _capture(self, given: _Inputs) -> _Captured | None:
        """A graph of the prediction; None, and never again, where it cannot be captured."""
        latent, timestep, context, structure_input = (x.clone() for x in given)
        inputs = (latent, timestep, context, structure_input)
        device = latent.device
        with torch.cuda.device(device):
            stream, current = _side_stream(device), torch.cuda.current_stream(device)
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    self._predict(*inputs)
                graph = torch.cuda.CUDAGraph()
                try:
                    with torch.cuda.graph(graph, stream=stream):
                        output = self._predict(*inputs)
                except RuntimeError as error:
                    self._is_usable = False
                    first = str(error).split("\n")[0]
                    log.warning("no CUDA graph of the UNet, going on without: %s", first)
                    return None
            current.wait_stream(stream)
        return _Captured(graph, inputs, output)


@lru_cache(maxsize=8)
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """What is captured must not run on the default stream; libraries keep memory for each one."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
