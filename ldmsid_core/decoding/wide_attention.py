"""Attention of one wide head, which GPUs compute through matrices of scores.

A decoder's head has 512 channels. The kernels that keep no matrix of scores take at most 256 on
GPUs. So wider ones compute scores as matrices, a strip of queries at a time, in float32 as those
kernels do; `benchmarks/gpu.py` times this beside what PyTorch has for wide heads.
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
# Queries of a strip: as many as keep a GPU busy, in steps that leave each strip's memory aligned.
_LEAST_ROWS, _ROW_STEP = 256, 64


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
    if gains and gives_float32(query):
        return attend_in_strips(query, key, value, bias=bias, strip=strip)
    mask = None
    if bias is not None:
        mask = bias.to(query.dtype).expand(1, 1, query.shape[2], -1)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attend_in_strips(
    query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None, strip: int
) -> Tensor:
    """As `attend`, through matrices of scores."""
    # Rows of a matrix in one piece: products of others are slow.
    queries, keys, values = (x[0, 0].contiguous() for x in (query, key, value))
    rows, out, scale = _rows(key, strip), torch.empty_like(queries), query.shape[-1] ** -0.5
    for some, place in zip(queries.split(rows), out.split(rows), strict=True):  # type: ignore[no-untyped-call]
        scores = _wide_product(some, keys.T)
        if bias is None:
            scores.mul_(scale)
        else:
            torch.add(bias, scores, alpha=scale, out=scores)
        torch.mm(scores.softmax(dim=1).to(values.dtype), values, out=place)
    return out[None, None]


def _rows(key: Tensor, strip: int) -> int:
    """Queries of a strip."""
    rows = max(1, strip // (_PER_SCORE * key.shape[2]))
    return rows if rows < _ROW_STEP else rows - rows % _ROW_STEP


def gives_float32(x: Tensor) -> bool:
    """Whether matrices in half precision, where `x` is, are multiplied into one of float32."""
    # A setting that others may change at any time.
    halved = getattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", False)
    if x.device.type != "cuda" or (halved and x.dtype == torch.float16):
        return False
    return _tried(x.device, x.dtype)


@lru_cache(maxsize=8)
def _tried(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether such a product can be computed there."""
    ones = torch.ones(8, 8, device=device, dtype=dtype)
    try:
        return bool((torch.mm(ones, ones, torch.float32) == 8.0).all())
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError):  # PyTorch before 2.8 has none, nor have all builds since.
        return False


def _wide_product(left: Tensor, right: Tensor) -> Tensor:
    """The product of two matrices in float32."""
    if gives_float32(left):
        return torch.mm(left, right, torch.float32)
    return left.float() @ right.float()
