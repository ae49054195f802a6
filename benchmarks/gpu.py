"""A frame of 12 MP at full size on a CUDA GPU: seconds, and the share of the card's matrix rate.

Stable Diffusion 2.1's and the released modules' shapes, random weights on the card, planes in the
card's memory, everything warm; seconds end when the picture is in the computer's memory. Goals on
an H200: default recipe 2 s, four steps 0.6 s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from synthetic_sd import Size, build_decoder_taming, build_unet, build_unet_taming, build_vae
from torch import Tensor, nn
from torch.nn import functional

from ldmsid_core.decoding.layers import strip_on
from ldmsid_core.decoding.wide_attention import attend_in_strips
from ldmsid_core.hosts.engine import Engine, attached_engine
from ldmsid_core.hosts.graphed import GraphedPrediction
from ldmsid_core.hosts.host import Host, HostHeader
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.raw.packing import network_planes
from ldmsid_core.taming.checkpoint import Taming
from ldmsid_core.taming.header import TamingHeader
from ldmsid_core.wavelet import SubBands, split_bands

# Packed planes of an A7S II.
PLANES = (1424, 2128)
SCALE, REPEATS = 0.18215, 3
CUDA = torch.device("cuda")
Rows = dict[str, float]


def seconds(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median wall time of a warm call, the device's work included."""
    run()
    found = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def matrix_rate(side: int = 8192) -> float:
    """Operations a second of a product of two bf16 matrices of random numbers."""
    left, right = (torch.randn(side, side, device=CUDA, dtype=torch.bfloat16) for _ in range(2))
    return 10 * 2 * side**3 / seconds(lambda: [left @ right for _ in range(10)])


def filled(module: nn.Module) -> nn.Module:
    """Random weights on the card, frozen."""
    state = {
        name: torch.empty(tensor.shape, device=CUDA).normal_(std=0.02)
        for name, tensor in module.state_dict().items()
    }
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def full_model() -> tuple[Host, Taming]:
    """Host and taming of full size with random weights."""
    torch.manual_seed(0)
    unet, vae = filled(build_unet(Size())), filled(build_vae(Size()))
    taming, decoder = filled(build_unet_taming(Size())), filled(build_decoder_taming(Size()))
    header = HostHeader("sd21-base", SCALE, "epsilon", {}, {}, {}, "none")
    own = TamingHeader(
        host_family="sd21-base", cross_attention_width=1024, prediction_type="epsilon",
        latent_scale=SCALE,
    )  # fmt: skip
    host = Host(header, unet, vae, "random", "")  # type: ignore[arg-type]
    prompt = torch.randn(77, 1024, device=CUDA)
    return host, Taming(own, taming, decoder, prompt, "random")  # type: ignore[arg-type]


@contextmanager
def engine_of(model: tuple[Host, Taming], **settings: object) -> Iterator[Engine]:
    """The engine of `ldmsid enhance`."""
    wanted = SamplingSettings(**settings)  # type: ignore[arg-type]
    with (
        torch.inference_mode(),
        attached_engine(*model, device=CUDA, dtype=torch.bfloat16, settings=wanted) as engine,
    ):
        yield engine


def dark_planes() -> Tensor:
    """Noise that is as bright as a frame."""
    return torch.rand(1, 4, *PLANES, device=CUDA) / 200


def bands_of(planes: Tensor) -> SubBands:
    """What the pipeline makes of planes."""
    seen = network_planes(
        planes, exposure_ratio=200.0, white_balance=(1.0, 1.0, 1.0), clip=(0.0, 1.0)
    )
    return split_bands(seen)


def measure_frame(model: tuple[Host, Taming], rate: float, rows: Rows, **settings: object) -> None:
    """Seconds of a whole frame and of its parts."""
    planes = dark_planes()
    name = " ".join(f"{key} {value}" for key, value in settings.items()) or "default"
    with engine_of(model, **settings) as engine:
        bands = bands_of(planes)
        height, width = bands.structure_input.shape[-2:]
        plan = engine.plan(height, width)
        found = engine.planner.estimate(height, width)
        latent = engine.sample(bands, 0)
        torch.cuda.reset_peak_memory_stats()
        parts = {
            "bands": seconds(lambda: bands_of(planes)),
            "sampling": seconds(lambda: engine.sample(bands, 0)),
            "decode": seconds(lambda: engine.decode(latent, bands)),
        }

        def whole() -> Tensor:
            own = bands_of(planes)
            return engine.decode(engine.sample(own, 0), own)

        parts["whole"] = seconds(whole)
    share = found.flops / parts["whole"] / rate
    peak = torch.cuda.max_memory_allocated() / 1e9
    print(
        f"{name}: {parts['whole']:.3f} s (bands {parts['bands']:.3f}, sampling "
        f"{parts['sampling']:.3f}, decode {parts['decode']:.3f}), {len(plan.layout.tiles())} tiles,"
        f" {plan.layout.batch} a call, {plan.decode}, {found.flops / 1e12:.1f} TFLOP, "
        f"{100 * share:.0f} % of the matrix rate, peak {peak:.1f} GB",
        flush=True,
    )
    rows.update({f"{name}: {part}": value for part, value in parts.items()})


def measure_step(model: tuple[Host, Taming], rows: Rows, side: int, **settings: object) -> None:
    """One step on one latent: plain, as a graph or compiled; and what taming adds to it."""
    with engine_of(model, **settings) as engine:
        place = engine.decoder.place
        latent, low = (place(torch.randn(1, 4, side, side)) for _ in range(2))
        context, timestep = engine.planner.context(1), torch.full((1,), 500, device=CUDA)
        inputs = (latent, timestep, context, low)
        ways = {"plain": engine.plain, "graph": GraphedPrediction(engine.plain)}
        if engine.settings.compile:
            ways = {"compiled": engine.predict}
        found = {name: seconds(lambda way=way: way(*inputs), 10) for name, way in ways.items()}
    if not settings:
        with engine_of(model, strength=0.0) as engine:
            graph = GraphedPrediction(engine.plain)
            found["untamed graph"] = seconds(lambda: graph(*inputs), 10)
    times = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in found.items())
    print(f"step at {side} x {side}: {times}", flush=True)
    rows.update({f"step {side} {name}": value for name, value in found.items()})


def measure_attention(rows: Rows) -> None:
    """The decoder's attention over a frame: PyTorch's own kernel, and through scores."""
    height, width = (-(-side // 64) * 8 for side in PLANES)
    positions = height * width
    qkv = [torch.randn(1, 1, positions, 512, device=CUDA, dtype=torch.bfloat16) for _ in range(3)]
    strip = strip_on(CUDA, torch.bfloat16)
    ways: dict[str, Callable[[], Tensor]] = {
        "kernel": lambda: functional.scaled_dot_product_attention(*qkv),
        "scores": lambda: attend_in_strips(*qkv, strip=strip),
    }
    with torch.inference_mode():
        found = {name: seconds(way) for name, way in ways.items()}
    times = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in found.items())
    print(f"the decoder's attention over {positions} latents: {times}", flush=True)
    rows.update({f"attention {name}": value for name, value in found.items()})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--compile", action="store_true", help="Also torch.compile, which takes minutes."
    )
    parser.add_argument("--json", type=Path, help="Write the numbers here as well.")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA GPU here, nothing measured")
        return
    rate = matrix_rate()
    name = torch.cuda.get_device_name()
    print(f"{name}, PyTorch {torch.__version__}: {rate / 1e12:.0f} TFLOP/s in bf16", flush=True)
    rows: Rows = {"matrix rate": rate}
    measure_attention(rows)
    model = full_model()
    for settings in ({}, {"steps": 4}, {"steps": 4, "tile_batch": 1}, {"steps": 4, "tile": 2176}):
        measure_frame(model, rate, rows, **settings)
    for side in (32, 64, 128):
        measure_step(model, rows, side)
    if options.compile:
        measure_step(model, rows, 64, compile=True)
        measure_frame(model, rate, rows, compile=True)
        measure_frame(model, rate, rows, steps=4, compile=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
