"""LPIPS files of random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ldmsid_core.evaluation.lpips import Backbone

State = dict[str, Tensor]


def random_state(backbone: Backbone, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in backbone.shapes().items():
        size = max(1, int(np.prod(shape[1:])))
        state[name] = torch.randn(shape, generator=generator) * (2.0 / size) ** 0.5
        if name.startswith("lin"):
            state[name] = state[name].abs()
    return state


def written(folder: Path, state: State, name: str = "lpips.safetensors") -> Path:
    save_file(state, str(folder / name))
    return folder / name
