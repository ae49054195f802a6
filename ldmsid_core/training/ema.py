"""A running mean of the weights of a module that learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightMean:
    """An exponential moving average of the parameters that learn, in their own dtype.

    Early on the mean forgets faster, `(1 + n) / (10 + n)` after n updates, so that it does not
    hold the first, random weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start at the module's weights.

        Args:
            module: What learns.
            decay: Share of the mean that an update keeps, 0 to 1.
        """
        self.decay, self.updates = decay, 0
        self.mean = {n: p.detach().clone() for n, p in _learning(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take the module's weights in."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, parameter in _learning(module).items():
            self.mean[name].lerp_(parameter.detach(), 1.0 - keep)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Put the mean in place of the module's weights."""
        for name, parameter in _learning(module).items():
            parameter.copy_(self.mean[name])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The mean in place of the weights for the length of a `with` block."""
        before = {name: p.detach().clone() for name, p in _learning(module).items()}
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in _learning(module).items():
                    parameter.copy_(before[name])

    def state(self) -> dict[str, object]:
        """What a resumed run needs."""
        return {"mean": self.mean, "updates": self.updates}

    def load(self, mean: dict[str, Tensor], updates: int) -> None:
        """Go on from `state`."""
        self.updates = updates
        for name, tensor in self.mean.items():
            tensor.copy_(mean[name])


def _learning(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
