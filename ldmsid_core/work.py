"""What a computation costs before it runs: operations, peak memory, and the best tile.

Operations are a polynomial of degree two in the positions of a latent (attention is quadratic) and
peak memory is linear, so three runs at tiny sizes tell both at any size.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .errors import ConfigError
from .tiling import TileLayout, plan_tiles

# Not 8 x 8, where a norm of the narrowest networks sees one value a group, which torch refuses.
_TINY_SIZES = ((8, 16), (8, 24), (16, 16))
# Stable Diffusion halves its latent three times, and was trained at 64 x 64.
_SIDE_STEP, _TRAINED_SIDE = 8, 64
# Of a call: 16 of 72 x 72 latents keep the largest GPUs busy.
_MOST_TILES = 16
# Kernels of attention that torch's own registry of formulas lacks.
_ATTENTION = ("flash_attention_for_cpu", "attention_math_for_mps", "fused_attention_overrideable")


@dataclass(frozen=True)
class Work:
    """What one call costs.

    Attributes:
        flops: Of matrix products, convolutions and attention; a multiply-add is two.
        peak_bytes: Most bytes alive at once of the tensors that the call made; what it was given,
            weights among it, is not in.
    """

    flops: int
    peak_bytes: int


def _storages(values: Any) -> dict[int, torch.UntypedStorage]:
    """Storages of all tensors in nested values, by address."""
    found = (leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
    return {storage._cdata: storage for storage in found}


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages of new tensors from their making to their end."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Attention stays whole: kernels keep no matrix of tokens x tokens, the meta device would.
        if func is not torch.ops.aten.scaled_dot_product_attention.default:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        given = _storages((args, kwargs))
        result = func(*args, **kwargs)
        for address, storage in _storages(result).items():
            if address not in given and address not in self._known:
                self._add(address, storage)
        return result

    def _add(self, address: int, storage: torch.UntypedStorage) -> None:
        self._known.add(address)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, address, storage.nbytes()).atexit = False

    def _drop(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


def _attention_flops(query: torch.Size, key: torch.Size, *_: Any, **__: Any) -> int:
    """Two products of tokens x tokens x width for each head, from shapes."""
    return 4 * query.numel() * key[-2]


def count_work(call: Callable[[], object]) -> Work:
    """What a call costs, found by running it in inference mode.

    Args:
        call: Any computation; on the meta device nothing is computed, only counted.

    Returns:
        Its operations and peak; what kernels take for themselves inside an operation is not seen.
    """
    kernels = (getattr(torch.ops.aten, f"_scaled_dot_product_{n}", None) for n in _ATTENTION)
    formulas = {found: _attention_flops for found in kernels if found is not None}
    # In inference mode every device shows attention as one operation.
    with (
        torch.inference_mode(),
        FlopCounterMode(display=False, custom_mapping=formulas) as counter,
        _LiveBytes() as memory,
    ):
        call()
    return Work(int(counter.get_total_flops()), memory.peak)


@dataclass(frozen=True)
class CostModel:
    """Operations and peak memory of a computation on N latent positions.

    Attributes:
        flops_constant: Operations at any size.
        flops_linear: For each position.
        flops_quadratic: For each pair of positions.
        bytes_constant: Peak bytes at any size.
        bytes_linear: For each position.
    """

    flops_constant: float
    flops_linear: float
    flops_quadratic: float
    bytes_constant: float
    bytes_linear: float

    def flops(self, positions: int) -> int:
        """Operations on a latent of `positions` = height x width."""
        each = self.flops_linear + self.flops_quadratic * positions
        return round(self.flops_constant + each * positions)

    def bytes(self, positions: int) -> int:
        """Peak bytes on a latent of `positions` = height x width."""
        return round(self.bytes_constant + self.bytes_linear * positions)


def fit_cost(
    run_at: Callable[[int, int], object], sizes: Sequence[tuple[int, int]] = _TINY_SIZES
) -> CostModel:
    """A computation's cost at any size, from three runs at tiny ones.

    Args:
        run_at: Runs it on a latent of `(height, width)`, multiples of 8.
        sizes: Three of them with different numbers of positions. The larger two alone give the
            memory, which at tiny sizes may peak elsewhere.
    """
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    # A first run may make tensors that the modules keep, and would count them as working memory.
    run_at(*ordered[0])
    works = [count_work(lambda size=size: run_at(*size)) for size in ordered]  # type: ignore[misc]
    n1, n2, n3 = (height * width for height, width in ordered)
    f1, f2, f3 = (work.flops for work in works)
    lower, upper = (f2 - f1) / (n2 - n1), (f3 - f2) / (n3 - n2)
    quadratic = (upper - lower) / (n3 - n1)
    linear = lower - quadratic * (n1 + n2)
    constant = f1 - linear * n1 - quadratic * n1**2
    each = (works[2].peak_bytes - works[1].peak_bytes) / (n3 - n2)
    return CostModel(constant, linear, quadratic, works[2].peak_bytes - each * n3, each)


def seconds_of(run: Callable[[], Tensor]) -> float:
    """How long a computation takes the second time it runs; the first chooses kernels."""
    with torch.inference_mode():
        run()
        started = time.perf_counter()
        run().flatten()[0].item()  # Waits for the device.
        return time.perf_counter() - started


def choose_tile(
    height: int, width: int, *, overlap: int, cost: CostModel, free: int, smallest: int = _SIDE_STEP
) -> int | None:
    """The side of the tiles that cover a frame with the least operations and fit in memory.

    Sides below 64, at which Stable Diffusion was not trained, are taken only where nothing larger
    fits; of equally cheap ones the largest is taken.

    Args:
        height: Of the frame, in latents.
        width: Of the frame.
        overlap: Of neighbouring tiles, in latents.
        cost: Of the networks on one tile.
        free: Bytes to fit in.
        smallest: Least side considered, in latents.

    Returns:
        A multiple of 8 above the overlap, or None: the whole frame in one piece.

    Raises:
        ConfigError: If not even the smallest tile fits.
    """
    whole = max(height, width)
    first = max(-(-smallest // _SIDE_STEP), overlap // _SIDE_STEP + 1) * _SIDE_STEP
    options = []  # By falling side, so that `min` finds the largest among equals.
    for side in (whole, *reversed(range(first, whole, _SIDE_STEP))):
        layout = plan_tiles(height, width, tile=side, overlap=min(overlap, side - 1))
        positions = layout.tile_height * layout.tile_width
        options.append((side, len(layout.tiles()) * cost.flops(positions), cost.bytes(positions)))
    fitting = [(side, flops) for side, flops, needed in options if needed <= free]
    if not fitting:
        side, _, needed = options[-1]
        raise ConfigError(
            f"Expected at least {needed} bytes of free memory for a tile of {side} latents, found "
            f"{free}; end other programs, or use a smaller overlap or another device."
        )
    trained = [(side, flops) for side, flops in fitting if side >= min(whole, _TRAINED_SIDE)]
    best, _ = min(trained or fitting, key=lambda option: option[1])
    return None if best == whole else best


def tiles_at_once(layout: TileLayout, *, cost: CostModel, free: int) -> int:
    """As many tiles a call as memory takes, in calls of about equal size.

    A GPU waits for the start of each of a network's thousand kernels; the more tiles a kernel
    computes, the less that shows.

    Args:
        layout: Of a frame.
        cost: Of the networks on one tile.
        free: Bytes to fit in.
    """
    count = len(layout.tiles())
    most = free // max(1, cost.bytes(layout.tile_height * layout.tile_width))
    calls = -(-count // max(1, min(most, _MOST_TILES)))
    return -(-count // calls)
