"""CUDA graphs where there is no CUDA: nothing but the prediction itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ldmsid_core.hosts.graphed import GraphedPrediction


def test_elsewhere_every_call_is_the_prediction() -> None:
    seen: list[tuple[Tensor, ...]] = []

    def predict(*given: Tensor) -> Tensor:
        seen.append(given)
        return given[0] + 1.0

    graphed = GraphedPrediction(predict)
    for size in (8, 8, 16):
        inputs = (torch.zeros(1, 4, size, size), *(torch.zeros(1) for _ in range(3)))
        assert torch.equal(graphed(*inputs), inputs[0] + 1.0)
        assert all(mine is given for mine, given in zip(seen[-1], inputs, strict=True))
    assert len(seen) == 3
