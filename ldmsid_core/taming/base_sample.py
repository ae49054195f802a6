"""A few numbers of the host decoder's tensors that a taming file leaves out.

A converted file carries only those tensors of its base decoder that differ from a host's. The rest
must come from the same decoder again; a sample of them tells whether it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_TENSORS, _NUMBERS = 4, 8
# bfloat16 rounds at 2**-9 of a number; another training moves some numbers by more than this.
_TOLERANCE = 0.005


def sample_of(tensors: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """The first numbers of a few weights, evenly spread over the names."""
    names = sorted(name for name, tensor in tensors.items() if tensor.ndim >= 2)
    step = max(1, len(names) // _TENSORS)
    return {name: _first(tensors[name]) for name in names[::step][:_TENSORS]}


def _first(tensor: Tensor) -> list[float]:
    return [float(value) for value in tensor.reshape(-1)[:_NUMBERS].float().cpu()]


def other_tensor(
    sample: Mapping[str, list[float]], find: Callable[[str], Tensor | None]
) -> str | None:
    """The first sampled tensor that a host has otherwise; None if all agree.

    Args:
        sample: From `sample_of`.
        find: Name in the original layout -> the host's tensor, None where it has none.
    """
    for name, numbers in sample.items():
        tensor = find(name)
        if tensor is None:
            return name
        wanted, found = torch.tensor(numbers), torch.tensor(_first(tensor))
        if wanted.shape != found.shape:
            return name
        if (wanted - found).abs().max() > _TOLERANCE * wanted.abs().max():
            return name
    return None
