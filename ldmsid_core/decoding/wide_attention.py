"""Attention of one wide head: through matrices of scores where that is faster.

A decoder's head has 512 channels. The kernels that keep no matrix of scores take at most 256 on
GPUs, and what is left for wider heads runs far below a card's matrix rate. So there the scores are
computed as matrices, a strip of queries at a time, in float32 as those kernels do.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

# Widest head of the kernels that keep no matrix.
_FAST_WIDTH = 256
# Of a strip's numbers in half precision, those that one score takes: it is float32.
_PER_SCORE = 2
# Queries of a strip that keep a GPU busy.
_LEAST_ROWS = 256


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None, strip: int
) -> Tensor:
    """Softmax attention, `softmax(q k / sqrt(C) + bias) v`.

    Args:
        query: `(1, 1, Q, C)`.
        key: `(1, 1, K, C)`.
        value: `(1, 1, K, C)`.
        bias: Of each key, `(K,)` float32.
        strip: Numbers that a tensor may hold at once.

    Returns:
        `(1, 1, Q, C)`.
    """
    half = query.dtype in (torch.float16, torch.bfloat16)
    gains = half and query.shape[-1] > _FAST_WIDTH and _rows(key, strip) >= _LEAST_ROWS
    if gains and has_wide_products(query.device, query.dtype):
        return attend_in_strips(query, key, value, bias=bias, strip=strip)
    mask = None
    if bias is not None:
        mask = bias.to(query.dtype).expand(1, 1, query.shape[2], -1)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attend_in_strips(
    query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None, strip: int
) -> Tensor:
    """As `attend`, through matrices of scores."""
    (queries, keys, values), scale = (x[0, 0] for x in (query, key, value)), query.shape[-1] ** -0.5
    rows, out = max(1, _rows(key, strip)), torch.empty_like(queries)
    for some, place in zip(queries.split(rows), out.split(rows), strict=True):  # type: ignore[no-untyped-call]
        scores = _wide_product(some, keys.T)
        if bias is None:
            scores.mul_(scale)
        else:
            torch.add(bias, scores, alpha=scale, out=scores)
        place.copy_(scores.softmax(dim=1).to(values.dtype) @ values)
    return out[None, None]


def _rows(key: Tensor, strip: int) -> int:
    """Queries of a strip."""
    return strip // (_PER_SCORE * key.shape[2])


@lru_cache(maxsize=8)
def has_wide_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device multiplies matrices in half precision into one of float32."""
    if device.type != "cuda":
        return False
    try:
        tried = torch.ones(8, 8, device=device, dtype=dtype)
        torch.mm(tried, tried, torch.float32)
    except (RuntimeError, TypeError):  # PyTorch before 2.8 has no such product.
        return False
    return True


def _wide_product(left: Tensor, right: Tensor) -> Tensor:
    """The product of two matrices in float32."""
    if has_wide_products(left.device, left.dtype):
        return torch.mm(left, right, torch.float32)
    return left.float() @ right.float()
