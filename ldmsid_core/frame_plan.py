"""How a frame of a given size is computed on a given machine, and what that takes.

One rule for all: the sampling tile of least work among those that fit in free memory, decoding in
one piece while that fits. The numbers come from `work`; margins for what it cannot see, such as a
kernel's own workspace, are added here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .decoding.bounded import DEFAULT_TILE, SMALLEST_TILE, bounded_layout
from .decoding.cost import DecodeCost
from .errors import ConfigError
from .patchwork import SMALLEST_SAMPLED, patchwork_of
from .tiling import LATENT_PIXELS, TileLayout, WindowName, plan_tiles
from .work import CostModel, choose_tile, tiles_at_once

# Frames of up to this many latents are never planned: everything fits, nothing is cheaper.
SMALL_FRAME = 64 * 64
_MEGA = 1e6
# Measured growth of a process above the bytes of its tensors: a factor and a constant.
_MARGIN, _KERNELS = 1.5, 150 * 1_000_000


@dataclass(frozen=True)
class FramePlan:
    """How one frame is sampled and decoded.

    Attributes:
        layout: Of the tiles of a sampling step.
        decode: `exact` or `bounded`.
        decode_tile: Side of the tiles of `bounded`, in latents.
    """

    layout: TileLayout
    decode: str
    decode_tile: int

    def smaller_layout(self) -> TileLayout | None:
        """Tiles of half the side; None where they are as small as a network takes."""
        return smaller_layout(self.layout)

    def decode_layout(self) -> TileLayout:
        """Tiles of `bounded` decoding."""
        return bounded_layout(self.layout.height, self.layout.width, self.decode_tile)


def smaller_layout(layout: TileLayout) -> TileLayout | None:
    """Tiles of half the side; None where they are as small as a network takes."""
    step = 8
    side = max(layout.tile_height, layout.tile_width)
    half = side // 2 // step * step
    if half < step:
        return None
    return plan_tiles(
        layout.height, layout.width, tile=half, overlap=min(layout.overlap, half // 2),
        window=layout.window,
    )  # fmt: skip


def smaller_decode(mode: str, tile: int) -> tuple[str, int] | None:
    """What to try where decoding ran out of memory: `bounded`, then half its tile."""
    if mode == "exact":
        return "bounded", DEFAULT_TILE
    half = max(SMALLEST_TILE, tile // 2)
    return ("bounded", half) if half < tile else None


def smaller_plan(plan: FramePlan) -> FramePlan | None:
    """Sampling and decode tiles of half the side, where both can be had or one of them."""
    layout, decode = plan.smaller_layout(), smaller_decode("bounded", plan.decode_tile)
    if layout is None and decode is None:
        return None
    tile = plan.decode_tile if decode is None else decode[1]
    return FramePlan(layout or plan.layout, "bounded", tile)


@dataclass(frozen=True)
class Costs:
    """What the networks of a run cost.

    Attributes:
        step: Of one evaluation of the tamed UNet, its structure encoder included.
        decode: Of one tamed decode.
    """

    step: CostModel
    decode: DecodeCost


@dataclass(frozen=True)
class Estimate:
    """What a run is going to take.

    Attributes:
        plan: How it is computed.
        steps: Network evaluations a tile.
        peak_bytes: Of working memory, beside weights and the frame itself.
        free_bytes: Found free.
        step_flops: Operations of one step.
        decode_flops: Of the decode.
        seconds: Of sampling and decoding; None where no speed was measured.
    """

    plan: FramePlan
    steps: int
    peak_bytes: int
    free_bytes: int
    step_flops: int
    decode_flops: int
    seconds: float | None = None

    @property
    def flops(self) -> int:
        """Operations of the whole run."""
        return self.steps * self.step_flops + self.decode_flops

    def sentence(self) -> str:
        """For people, in one line."""
        layout = self.plan.layout
        count = len(layout.tiles())
        tile = max(layout.tile_height, layout.tile_width) * LATENT_PIXELS
        tiles = "in one piece" if count == 1 else f"in {count} tiles of {tile} pixels"
        parts = [
            f"{layout.width * LATENT_PIXELS}x{layout.height * LATENT_PIXELS} pixels",
            f"{self.steps} step{'s' if self.steps != 1 else ''} {tiles}",
            f"{self.plan.decode} decode",
            f"{self.flops / 1e12:.3g} TFLOP",
            f"about {self.peak_bytes / 1e9:.2g} GB of working memory "
            f"({self.free_bytes / 1e9:.2g} GB free)",
        ]
        if self.seconds is not None:
            parts.append(f"about {duration(self.seconds)}")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """In words."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def with_margin(needed: int) -> int:
    """Free memory that a computation needs, from the bytes of its tensors."""
    return round(_MARGIN * needed) + _KERNELS


def make_plan(
    height: int,
    width: int,
    *,
    tile: int,
    overlap: int,
    batch: int,
    decode: str,
    decode_tile: int,
    costs: Callable[[], Costs],
    free: int,
    window: WindowName = "smooth",
) -> FramePlan:
    """Choose tiles and decode mode, and refuse what cannot fit.

    Args:
        height: Of the frame, in latents.
        width: Of the frame.
        tile: Wanted side of a sampling tile, in latents; 0 chooses.
        overlap: Of sampling tiles, in latents.
        batch: Tiles a call; 0 takes as many as half the free memory holds.
        decode: `auto`, `exact` or `bounded`.
        decode_tile: Wanted side of a decode tile, in latents; 0 chooses.
        costs: Asked only where something is to be chosen.
        free: Bytes of working memory.
        window: Of the tiles.

    Raises:
        ConfigError: If not even the smallest tile fits.
    """
    layout = plan_layout(
        height, width, tile=tile, overlap=overlap, batch=batch, step=lambda: costs().step,
        free=free, window=window,
    )  # fmt: skip
    mode, side = plan_decode(
        height, width, mode=decode, tile=decode_tile, cost=lambda: costs().decode, free=free
    )
    return FramePlan(layout, mode, side)


def plan_layout(
    height: int,
    width: int,
    *,
    tile: int,
    overlap: int,
    step: Callable[[], CostModel],
    free: int,
    batch: int = 1,
    window: WindowName = "smooth",
) -> TileLayout:
    """Choose the tiles of a sampling step; arguments as of `make_plan`, `step` costs one step.

    Raises:
        ConfigError: If not even the smallest tile fits.
    """
    if tile == 0:
        small = height * width <= SMALL_FRAME
        found = None if small else choose_tile(
            height, width, overlap=overlap, cost=_margined(step(), batch or 1), free=free,
            smallest=SMALLEST_SAMPLED,
        )  # fmt: skip
        tile = max(height, width) if found is None else found
    overlap = min(overlap, tile - 1)
    layout = plan_tiles(height, width, tile=tile, overlap=overlap, window=window, batch=batch or 1)
    if batch or len(layout.tiles()) == 1:
        return layout
    each = replace(_margined(step(), 1), bytes_constant=_MARGIN * step().bytes_constant)
    return replace(layout, batch=tiles_at_once(layout, cost=each, free=free // 2 - _KERNELS))


def plan_decode(
    height: int, width: int, *, mode: str, tile: int, cost: Callable[[], DecodeCost], free: int
) -> tuple[str, int]:
    """Choose decode mode and tile; arguments as of `make_plan`, `cost` is of one decode.

    Returns:
        `exact` or `bounded`, and the side of the tiles of `bounded`, in latents.

    Raises:
        ConfigError: If not even the smallest tile fits.
    """
    positions = height * width
    if mode == "auto":
        fits = positions <= SMALL_FRAME or with_margin(cost().whole.bytes(positions)) <= free
        mode = "exact" if fits else "bounded"
    if mode == "bounded" and tile == 0 and positions > SMALL_FRAME:
        tile = _decode_tile(height, width, cost(), free)
    return mode, tile or DEFAULT_TILE


def _margined(cost: CostModel, batch: int) -> CostModel:
    """What so many tiles a call need of free memory."""
    each = _MARGIN * batch
    return replace(
        cost,
        bytes_constant=each * cost.bytes_constant + _KERNELS,
        bytes_linear=each * cost.bytes_linear,
    )


def _decode_tile(height: int, width: int, cost: DecodeCost, free: int) -> int:
    for side in range(DEFAULT_TILE, SMALLEST_TILE - 1, -8):
        needed = with_margin(cost.bounded_bytes(height, width, side))
        if needed <= free:
            return side
    raise ConfigError(
        f"Expected at least {needed / _MEGA:.0f} MB of free memory to decode in the "
        f"smallest tiles of {SMALLEST_TILE * LATENT_PIXELS} pixels, found "
        f"{free / _MEGA:.0f} MB; end other programs, use --dtype bf16, or another device."
    )


def estimate(plan: FramePlan, costs: Costs, *, steps: int, free: int) -> Estimate:
    """What a plan takes.

    Args:
        plan: From `make_plan`.
        costs: Of the networks.
        steps: Network evaluations a tile.
        free: Bytes found free.
    """
    layout = plan.layout
    area = layout.tile_height * layout.tile_width
    frame = layout.height * layout.width
    decode, height, width = costs.decode, layout.height, layout.width
    if plan.decode == "exact":
        needed, decode_flops = decode.whole.bytes(frame), decode.whole.flops(frame)
    else:
        needed = decode.bounded_bytes(height, width, plan.decode_tile)
        decode_flops = decode.bounded_flops(plan.decode_layout())
    peak = max(layout.batch * costs.step.bytes(area), needed)
    step_flops = len(layout.tiles()) * costs.step.flops(area)
    if layout.shares_norms:
        stand_in = patchwork_of(layout)
        positions = stand_in.height * stand_in.width
        peak = max(peak, costs.step.bytes(positions))
        step_flops += costs.step.flops(positions)
    return Estimate(plan, steps, with_margin(peak), free, step_flops, decode_flops)


def with_seconds(found: Estimate, *, step_rate: float, decode_rate: float) -> Estimate:
    """With the time it takes at measured speeds.

    Args:
        found: An estimate.
        step_rate: Operations a second of sampling.
        decode_rate: Of decoding.
    """
    sampling = found.steps * found.step_flops / step_rate
    return replace(found, seconds=sampling + found.decode_flops / decode_rate)
