"""A tamed against an untamed sampling step through diffusers, full size, random weights.

Stable Diffusion 2.1's and the released modules' shape, dtype and memory format as `ldmsid enhance`
has them, structure encoder included. Goal at a latent of 64 x 64: at most 1.18.
"""

from __future__ import annotations

import argparse

import torch
from measure import PAIRS, ratio
from synthetic_sd import Size, build_unet, build_unet_taming, fill
from torch import Tensor, nn

from ldmsid_core.hosts.dtypes import choose_dtype
from ldmsid_core.hosts.precision import upcast_attention
from ldmsid_core.taming.attach import attach_unet_taming

_PROMPT = (1, 77, 1024)


def placed(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Random weights, dtype and channels-last as the engine has them."""
    nn.Module.to(fill(module), dtype)
    return nn.Module.to(module, memory_format=torch.channels_last)


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--size", type=int, default=64, help="Side of the latent.")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--threads", type=int, help="One where other programs run: waiting counts.")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = choose_dtype(options.dtype, torch.device("cpu"))
    unet, taming = build_unet(Size()), build_unet_taming(Size())
    placed(unet, dtype), placed(taming, dtype)

    def random(*shape: int) -> Tensor:
        tensor = torch.randn(shape, dtype=dtype)
        return tensor.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else tensor

    latent, low = (random(1, 4, options.size, options.size) for _ in range(2))
    prompt, timestep = random(*_PROMPT), torch.tensor([500])

    def step(strength: float) -> None:
        with attach_unet_taming(unet, taming, strength=strength) as predict:
            assert torch.isfinite(predict(latent, timestep, prompt, low)).all()

    with torch.inference_mode(), upcast_attention(unet):
        middle, spread = ratio(lambda: step(1.0), lambda: step(0.0), pairs=options.pairs)
    name = str(dtype).removeprefix("torch.")
    print(
        f"tamed step / untamed step, {options.size} x {options.size} latent, {name}: "
        f"{middle:.3f} +- {spread:.3f} (goal 1.18)"
    )


if __name__ == "__main__":
    main()
