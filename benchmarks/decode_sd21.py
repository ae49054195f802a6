"""A tamed against an untamed decode, Stable Diffusion 2.1's full shape, random weights.

Both in the same dtype and memory format. Untamed is the host's own `decode`. Goals at a latent of
32 x 32: 2.45 for the first decode of a frame's bands, 1.80 for further ones.
"""

from __future__ import annotations

import argparse

import torch
from measure import ratio
from step_sd21 import placed
from synthetic_sd import Size, build_decoder_taming, build_vae
from torch import Tensor

from ldmsid_core.decoding.bands import HalfCache
from ldmsid_core.decoding.decode import FrameDecoder
from ldmsid_core.decoding.modules import find_decoder
from ldmsid_core.decoding.network import TamedDecoder
from ldmsid_core.hosts.dtypes import choose_dtype
from ldmsid_core.wavelet import split_bands

_PAIRS = 7


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--size", type=int, default=32, help="Side of the latent.")
    parser.add_argument("--pairs", type=int, default=_PAIRS)
    parser.add_argument("--threads", type=int, help="One where other programs run: waiting counts.")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device("cpu")
    dtype = choose_dtype(options.dtype, device)
    vae, taming = build_vae(Size()), build_decoder_taming(Size())
    placed(vae, dtype), placed(taming, dtype)
    decoder = FrameDecoder(TamedDecoder(find_decoder(vae), taming), device, dtype)
    side = options.size
    bands = split_bands(torch.rand(1, 4, 8 * side, 8 * side) * 2.0 - 1.0, multiple=8)
    latent = decoder.place(torch.randn(1, 4, side, side))
    halves: HalfCache = {}
    name = str(dtype).removeprefix("torch.")

    def untamed() -> Tensor:
        return vae.decode(latent).sample.float()

    with torch.inference_mode():
        decoder.exact(latent, bands, halves)
        for what, kept, goal in (("first", None, 2.45), ("further", halves, 1.80)):
            middle, spread = ratio(
                lambda kept=kept: decoder.exact(latent, bands, kept), untamed, pairs=options.pairs
            )
            print(
                f"{what} tamed decode / untamed decode, {side} x {side} latent, {name}: "
                f"{middle:.3f} +- {spread:.3f} (goal {goal:.2f})"
            )


if __name__ == "__main__":
    main()
