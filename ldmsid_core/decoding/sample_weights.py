"""How much each sample tile of a frame counts, so that together they look like the frame.

A few tiles miss a large frame's brightness and texture by chance, and norms feel it. What is known
of the whole frame, its bands and the features at the latent's size, tells by how much: weights are
sought with which the tiles' means and mean squares are the frame's, and which are nearly even.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..tiling import Tile
from .norms import moments

# Pulls weights towards even ones; measured on frames of 6 to 61 MP.
_EVENNESS = 0.1
_ROUNDS = 2000
_TINY = 1e-12


class Known(NamedTuple):
    """Something known of a whole frame.

    Attributes:
        values: `(1, C, scale * h, scale * w)`.
        scale: Positions of it a latent.
    """

    values: Tensor
    scale: int


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square of each channel, `(C,)` float64 on the CPU."""
    found = moments(values, values.shape[1])
    mean = found.mean.double().cpu()
    return mean, found.variance.double().cpu() + mean.square()


def _differences(known: Known, tiles: Sequence[Tile]) -> Tensor:
    """How far each tile is from the frame, `(tiles, 2 * C)`, in units of the frame's own spread.

    Divided by the root of their number, so that a wide feature counts no more than a narrow one.
    """
    mean, square = _moments(known.values)
    variance = (square - mean.square()).clamp_min(_TINY)
    rows = []
    for tile in tiles:
        own, own_square = _moments(tile.cut(known.values, scale=known.scale))
        rows.append(torch.cat([(own - mean) / variance.sqrt(), (own_square - square) / variance]))
    return torch.stack(rows) / math.sqrt(2 * len(mean))


def _on_simplex(x: Tensor) -> Tensor:
    """The nearest weights, none negative, that add up to 1 (Duchi et al., 2008)."""
    falling = x.sort(descending=True).values
    excess = (falling.cumsum(0) - 1.0) / torch.arange(1, len(x) + 1, dtype=x.dtype)
    last = int((falling > excess).sum()) - 1
    return (x - excess[last]).clamp_min(0.0)


def balanced(differences: Tensor, *, evenness: float = _EVENNESS) -> Tensor:
    """Weights with which differences nearly cancel.

    Minimises `|w D|^2 + evenness * n * |w - 1/n|^2` over weights that are not negative and add up
    to 1, by projected gradients with momentum (Beck and Teboulle, 2009).

    Args:
        differences: D, `(n, m)`.
        evenness: Above 0; large values give even weights.

    Returns:
        `(n,)` float64.
    """
    count = len(differences)
    products = differences.double() @ differences.double().T
    matrix = products + evenness * count * torch.eye(count, dtype=torch.float64)
    step = 1.0 / float(torch.linalg.matrix_norm(matrix, 2))
    weights = ahead = torch.full((count,), 1.0 / count, dtype=torch.float64)
    momentum = 1.0
    for _ in range(_ROUNDS):
        new = _on_simplex(ahead - step * (matrix @ ahead - evenness))
        faster = (1.0 + math.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        ahead = new + (momentum - 1.0) / faster * (new - weights)
        weights, momentum = new, faster
    return weights


def sample_weights(known: Sequence[Known], tiles: Sequence[Tile]) -> Tensor:
    """The weight of each tile in the frame's statistics.

    Args:
        known: Of the whole frame.
        tiles: That stand for it, in latents.

    Returns:
        `(tiles,)` float64, adding up to 1; even where NaN or infinity is known of the frame, which
        then spoils the picture and is named there.
    """
    differences = torch.cat([_differences(each, tiles) for each in known], dim=1)
    if not differences.isfinite().all():
        return torch.full((len(tiles),), 1.0 / len(tiles), dtype=torch.float64)
    return balanced(differences)
