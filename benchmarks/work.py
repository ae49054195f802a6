"""What a frame of 12 MP costs at full size, counted on the meta device; goal 1/25 of the released.

Stable Diffusion 2.1's and the released modules' shapes; nothing is computed. The released recipe
cuts six pieces of 1024 pixels, samples each in nine tiles of 64 latents over 200 steps, the
structure encoder within every one of them, and decodes each piece.
"""

from __future__ import annotations

import torch
from synthetic_sd import Size, build_decoder_taming, build_unet, build_unet_taming, build_vae
from torch import Tensor, nn

from ldmsid_core.hosts.precision import precise_output
from ldmsid_core.patchwork import patchwork_of
from ldmsid_core.taming.attach import attach_decoder_taming, attach_unet_taming
from ldmsid_core.tiling import plan_tiles
from ldmsid_core.wavelet import SubBands
from ldmsid_core.work import CostModel, choose_tile, count_work, fit_cost

# An A7S II's packed planes in latents, 178 x 266, padded to multiples of 8.
FRAME = (184, 272)
STEPS, TILE, OVERLAP = 12, 72, 16
RELEASED_PIECES, RELEASED_TILES, RELEASED_TILE, RELEASED_STEPS = 6, 9, 64, 200
RELEASED_PIECE = 128
TABLE = (64, 72, 80, 104, 128, None)
GOAL = 25
_DTYPE = torch.bfloat16


def empty(*shape: int) -> Tensor:
    """A tensor that is only a shape."""
    return torch.empty(shape, dtype=_DTYPE, device="meta")


def placed(module: nn.Module) -> nn.Module:
    """As the engine has it: frozen, in half precision, channels-last."""
    nn.Module.to(module.requires_grad_(False).eval(), _DTYPE)
    return nn.Module.to(module, memory_format=torch.channels_last)


class Networks:
    """The tamed UNet and decoder of full size."""

    def __init__(self) -> None:
        """Build all four on the meta device."""
        self.unet, self.unet_taming = build_unet(Size()), build_unet_taming(Size())
        self.vae, self.decoder_taming = build_vae(Size()), build_decoder_taming(Size())
        for module in (self.unet, self.unet_taming, self.vae, self.decoder_taming):
            placed(module)

    def step(self, height: int, width: int) -> object:
        """A sampling step on one tile, structure encoder included."""
        latent, low = (empty(1, 4, height, width) for _ in range(2))
        timestep = torch.empty(1, device="meta")
        with attach_unet_taming(self.unet, self.unet_taming) as predict:
            return predict(latent, timestep, empty(1, 77, 1024), low)

    def decode(self, height: int, width: int) -> object:
        """A tamed decode of one tile."""
        sides = [(height << power, width << power) for power in (2, 1, 0)]
        first, second, third = (empty(1, 4, *side) for side in sides)
        one, two, three = (empty(1, 12, *side) for side in sides)
        content = (8 * height, 8 * width)
        bands = SubBands((first, second, third), (one, two, three), content)
        with (
            attach_decoder_taming(self.vae, self.decoder_taming) as decode,
            precise_output(self.vae),
        ):
            return decode(empty(1, 4, height, width), bands)


def print_table(networks: Networks) -> None:
    """Tiles of a frame and what a step over all of them takes."""
    print(f"{'tile/overlap':>12} {'tiles':>5} {'TFLOP/step':>10} {'MB':>6}")
    rows = []
    for side in TABLE:
        layout = plan_tiles(*FRAME, tile=side or max(FRAME), overlap=OVERLAP)
        name = f"{side}/{OVERLAP}" if side else "untiled"
        rows.append((name, len(layout.tiles()), layout.tile_height, layout.tile_width))
    rows.append(("released", RELEASED_PIECES * RELEASED_TILES, RELEASED_TILE, RELEASED_TILE))
    for name, count, height, width in rows:
        work = count_work(lambda size=(height, width): networks.step(*size))
        tera, mega = count * work.flops / 1e12, work.peak_bytes / 1e6
        print(f"{name:>12} {count:5d} {tera:10.2f} {mega:6.0f}")


def print_fit(networks: Networks, cost: CostModel) -> None:
    """How far the model of three tiny runs is from direct counts, and the tile that it chooses."""
    for size in ((TILE, TILE), FRAME):
        work, positions = count_work(lambda size=size: networks.step(*size)), size[0] * size[1]
        flops = cost.flops(positions) / work.flops - 1
        memory = cost.bytes(positions) / work.peak_bytes - 1
        print(f"model at {size[0]} x {size[1]}: FLOP {flops:+.2%}, bytes {memory:+.2%}")
    side = choose_tile(*FRAME, overlap=OVERLAP, cost=cost, free=1 << 40)
    print(f"chosen with memory to spare: {side or 'untiled'}")


def print_recipes(networks: Networks, cost: CostModel) -> None:
    """The default recipe's work over the released one's."""
    layout = plan_tiles(*FRAME, tile=TILE, overlap=OVERLAP)
    # The patches that stand for the frame are sampled first, for the norms' statistics.
    stand_in = patchwork_of(layout)
    own = cost.flops(stand_in.height * stand_in.width)
    sampling = STEPS * (len(layout.tiles()) * cost.flops(TILE**2) + own)
    decode = count_work(lambda: networks.decode(*FRAME))
    pieces = RELEASED_PIECES * RELEASED_TILES * RELEASED_STEPS * cost.flops(RELEASED_TILE**2)
    piece = count_work(lambda: networks.decode(RELEASED_PIECE, RELEASED_PIECE))
    ours, released = sampling + decode.flops, pieces + RELEASED_PIECES * piece.flops
    print(
        f"ours: {sampling / 1e15:.4f} PFLOP sampling, {STEPS * own / 1e15:.4f} of it for the "
        f"norms' statistics, + {decode.flops / 1e15:.4f} decode, which peaks at "
        f"{decode.peak_bytes / 1e9:.1f} GB"
    )
    print(
        f"released: {pieces / 1e15:.3f} PFLOP sampling + "
        f"{RELEASED_PIECES * piece.flops / 1e15:.3f} decode"
    )
    print(f"ours / released: {ours / released:.4f} = 1/{released / ours:.1f} (goal 1/{GOAL})")


def main() -> None:
    """Print the tables and the ratio."""
    networks = Networks()
    cost = fit_cost(networks.step)
    print_table(networks)
    print_fit(networks, cost)
    print_recipes(networks, cost)


if __name__ == "__main__":
    main()
