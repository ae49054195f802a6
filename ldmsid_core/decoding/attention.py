"""Self-attention at the decoder's start: over a whole frame, or linear in its size.

In a large frame each block of positions looks at all positions around it. Of the rest it looks at
those that draw most attention, found with some queries of the whole frame, and at every n-th of
the others, which counts for those left out: `n * exp(q k)` in the softmax's sums. A decoder's
attention hangs on very few positions and is even over all others, so both parts are needed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..tiling import Tile
from .layers import Affine, Layers, normalise
from .modules import Attention
from .wide_attention import attend

# Blocks, and how much is seen as a whole at each side of one.
_BLOCK, _BESIDE = 64, 16
# Positions that stand for a frame, those among them that draw most attention, queries asked.
_FAR, _STRONG, _ASKED, _ASKED_AT_ONCE = 1 << 14, 1 << 11, 512, 64


class _Far(NamedTuple):
    """Positions that stand for a frame.

    Attributes:
        key: `(1, 1, K, C)`.
        value: Of the same shape.
        rows: `(K,)`, where they lie.
        columns: `(K,)`.
        shares: `(K,)` logarithm of how many positions each one stands for.
    """

    key: Tensor
    value: Tensor
    rows: Tensor
    columns: Tensor
    shares: Tensor

    def weights(self, window: Tile) -> Tensor:
        """What is added to the products with these keys: nothing of them within the window."""
        in_rows = (self.rows >= window.top) & (self.rows < window.top + window.height)
        in_columns = (self.columns >= window.left) & (self.columns < window.left + window.width)
        return self.shares.masked_fill(in_rows & in_columns, -math.inf)


def self_attention(pieces: list[Tensor], attention: Attention, layers: Layers) -> list[Tensor]:
    """Self-attention of each piece, added to it.

    Args:
        pieces: Each `(1, C, h, w)`.
        attention: Its layers.
        layers: How; pieces above its `attention_positions` are computed in blocks.
    """
    norm = layers.affine(attention.norm, pieces)
    found = []
    for x in pieces:
        height, width = x.shape[-2:]
        whole = height * width <= layers.attention_positions
        block = max(height, width) if whole else _BLOCK
        far = None if whole else _far(x, attention, norm)
        out = torch.empty_like(x)
        for top in range(0, height, block):
            for left in range(0, width, block):
                inner = Tile(top, left, min(block, height - top), min(block, width - left), 0, 0)
                added = _attended(x, inner, far, attention, norm, layers.strip)
                inner.cut(out).copy_(added)
                layers.report(inner.height * inner.width / (height * width))
        found.append(out)
    return found


def _far(x: Tensor, attention: Attention, norm: Affine) -> _Far:
    seen, width = normalise(x, norm), x.shape[-1]
    key = _tokens(seen, attention.key)
    count = key.shape[2]
    asked = torch.linspace(0, count - 1, _ASKED, device=x.device).round().long()
    columns = seen.flatten(2)[:, :, asked][..., None]
    strong = _attention_drawn(_tokens(columns, attention.query), key).topk(_STRONG).indices
    others = torch.ones(count, dtype=torch.bool, device=x.device)
    others[strong] = False
    rest = others.nonzero()[:, 0]
    # One in each of equal stretches, not always at the same place, which could follow a pattern.
    wanted = _FAR - _STRONG
    jitter = torch.rand(wanted, generator=torch.Generator().manual_seed(0)).to(x.device)
    places = (torch.arange(wanted, device=x.device) + jitter) * (len(rest) / wanted)
    chosen = torch.cat([strong, rest[places.long().clamp_max(len(rest) - 1)]])
    shares = torch.zeros(_FAR, device=x.device)
    shares[_STRONG:] = math.log(len(rest) / wanted)
    value = _tokens(seen.flatten(2)[:, :, chosen][..., None], attention.value)
    return _Far(key[:, :, chosen], value, chosen // width, chosen % width, shares)


def _attention_drawn(query: Tensor, key: Tensor) -> Tensor:
    """Mean attention that each key draws from some queries, `(keys,)` float32."""
    scale = query.shape[-1] ** -0.5
    total = torch.zeros(key.shape[2], device=key.device)
    for some in query[0, 0].split(_ASKED_AT_ONCE):  # type: ignore[no-untyped-call]
        total += ((some @ key[0, 0].T).float() * scale).softmax(dim=1).sum(dim=0)
    return total


def _attended(
    x: Tensor, inner: Tile, far: _Far | None, attention: Attention, norm: Affine, strip: int
) -> Tensor:
    """A block of a piece plus its attention."""
    beside = 0 if far is None else _BESIDE
    top, left = max(0, inner.top - beside), max(0, inner.left - beside)
    bottom = min(x.shape[-2], inner.top + inner.height + beside)
    right = min(x.shape[-1], inner.left + inner.width + beside)
    window = Tile(top, left, bottom - top, right - left, 0, 0)
    near = normalise(window.cut(x), norm)
    own = near[..., inner.top - top :, inner.left - left :][..., : inner.height, : inner.width]
    query = _tokens(own, attention.query)
    key, value = (_tokens(near, part) for part in (attention.key, attention.value))
    bias = None
    if far is not None:
        weights = far.weights(window)
        bias = torch.cat([weights.new_zeros(key.shape[2]), weights])
        key, value = torch.cat([key, far.key], dim=2), torch.cat([value, far.value], dim=2)
    mixed = attend(query, key, value, bias=bias, strip=strip)[:, 0]
    before = inner.cut(x)
    if isinstance(attention.out, nn.Linear):
        added = attention.out(mixed).transpose(1, 2).reshape(before.shape)
    else:
        added = attention.out(mixed.transpose(1, 2).reshape(before.shape))
    return before + added


def _tokens(y: Tensor, projection: nn.Module) -> Tensor:
    """`(1, C, h, w)` -> `(1, 1, h * w, C)`, projected."""
    if isinstance(projection, nn.Linear):
        return projection(y.flatten(2).transpose(1, 2))[:, None]
    return projection(y).flatten(2).transpose(1, 2)[:, None]
