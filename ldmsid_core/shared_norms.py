"""Statistics of a whole frame for the group norms of a UNet that sees one tile of it at a time.

Left alone, a norm gives every tile the same mean and variance, whatever it shows, and colours that
differ over the frame come out too much alike. So a small stand-in for the frame (`patchwork`) is
sampled first; what each norm measured at each timestep is kept, and the tiles are normalised with
that. All tiles, in any order and number a call, and a part of the frame alone get the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

# Weight and bias of a norm, on a device.
NormWeights = Callable[[nn.GroupNorm, torch.device], tuple[Tensor, Tensor]]


def own_weights(norm: nn.GroupNorm, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weight and bias as they are."""
    return norm.weight.to(device), norm.bias.to(device)


class _KnownNorm:
    """One norm whose statistics come from elsewhere; its buffers stay where they are (CUDA graphs).

    The batch of what it is given holds tile after tile, each of as many rows as were measured.
    """

    def __init__(self, norm: nn.GroupNorm, weights: NormWeights) -> None:
        self.norm, self._weights = norm, weights
        self.rows = 0
        # Mean, variance, weight and bias of each row's channels, `(4, rows * C)` float32.
        self._values: Tensor | None = None

    @torch.no_grad()
    def measure(self, x: Tensor) -> Tensor:
        """Take the statistics of `(rows, C, ...)`, and normalise it."""
        rows, channels = x.shape[:2]
        if self._values is None or rows != self.rows:
            self._values = torch.empty(4, rows * channels, device=x.device)
            self.rows = rows
        grouped = x.float().reshape(rows, self.norm.num_groups, -1, *x.shape[2:])
        inside = tuple(range(2, grouped.dim()))
        variance, mean = torch.var_mean(grouped, dim=inside, correction=0)
        by_group = self._values[:2].view(2, *mean.shape, -1)
        by_group.copy_(torch.stack((mean, variance))[..., None])
        weights = torch.stack(self._weights(self.norm, x.device))
        self._values[2:].view(2, rows, channels).copy_(weights[:, None])
        return self.normalise(x)

    def statistics(self) -> Tensor | None:
        """A copy of what was measured last, `(2, rows * C)`; None where the norm is never used."""
        return None if self._values is None else self._values[:2].clone()

    def take(self, statistics: Tensor) -> None:
        """Normalise with these from now on."""
        assert self._values is not None
        self._values[:2].copy_(statistics)

    def normalise(self, x: Tensor) -> Tensor:
        """PyTorch's batch norm in evaluation mode, every row with its own statistics."""
        assert self._values is not None
        mean, variance, weight, bias = self._values
        joined = x.reshape(len(x) // self.rows, self.rows * x.shape[1], *x.shape[2:])
        if x.device.type == "mps":  # Its batch norm takes no two dtypes.
            joined = joined.float()
        found = functional.batch_norm(
            joined, mean, variance, weight, bias, training=False, eps=self.norm.eps
        )
        return found.reshape(x.shape).to(x.dtype)


class SharedNorms:
    """What the group norms of some networks measured on a stand-in, timestep by timestep."""

    def __init__(self, *networks: nn.Module, weights: NormWeights = own_weights) -> None:
        """Find the norms.

        Args:
            networks: Whose norms are meant; changed only inside the `with` blocks below.
            weights: How a norm's weight and bias are read.
        """
        found = (module for network in networks for module in network.modules())
        self._norms = [_KnownNorm(m, weights) for m in found if isinstance(m, nn.GroupNorm)]
        self._kept: dict[float, list[Tensor | None]] = {}

    def forget(self) -> None:
        """Begin with another frame of as many rows."""
        self._kept.clear()

    @contextmanager
    def measured(self, timestep: float) -> Iterator[None]:
        """Normalise by, and keep, what the one evaluation inside the block measures.

        Args:
            timestep: Of the evaluation; of several at the same one the last counts.
        """
        with _forwarded([(known.norm, known.measure) for known in self._norms]):
            yield
        self._kept[timestep] = [known.statistics() for known in self._norms]

    @contextmanager
    def applied(self, timestep: float) -> Iterator[None]:
        """Normalise by what an evaluation measured.

        Args:
            timestep: Of the evaluation inside the block. Where a sampler chooses its timesteps by
                what it sees, or calls are skipped, the nearest that was measured counts.
        """
        nearest = min(self._kept, key=lambda kept: abs(kept - timestep))
        used = []
        for known, statistics in zip(self._norms, self._kept[nearest], strict=True):
            if statistics is not None:
                known.take(statistics)
                used.append((known.norm, known.normalise))
        with _forwarded(used):
            yield


@contextmanager
def _forwarded(
    replaced: Sequence[tuple[nn.GroupNorm, Callable[[Tensor], Tensor]]],
) -> Iterator[None]:
    """Other functions in place of some modules' forward passes; then what was there before."""
    before = [(module, vars(module).get("forward")) for module, _ in replaced]
    try:
        for module, function in replaced:
            vars(module)["forward"] = function
        yield
    finally:
        for module, own in before:
            if own is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = own
