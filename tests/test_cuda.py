"""On a CUDA GPU: the pictures of the CPU in every dtype, real lack of memory, and training."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training_configs import taming_values
from helpers.training_runs import losses_in
from torch import Tensor
from torch.nn import functional

from ldmsid_core.cli_evaluate import simulated_raw
from ldmsid_core.cli_synth import dark_counts
from ldmsid_core.decoding.norms import moments
from ldmsid_core.decoding.wide_attention import attend, attend_in_strips, gives_float32
from ldmsid_core.hosts.engine import Engine, attached_engine
from ldmsid_core.hosts.graphed import GraphedPrediction
from ldmsid_core.hosts.host import load_host
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.memory import free_memory
from ldmsid_core.model_files import EMBEDDED
from ldmsid_core.pipeline import prepare_bands
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.training.config import parse_training_config
from ldmsid_core.training.context import RunOptions
from ldmsid_core.training.photographs import load_photograph
from ldmsid_core.training.run import train_model
from ldmsid_core.wavelet import SubBands

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
RATIO = 250.0
GIGA = 10**9


@contextmanager
def engine_of(device: torch.device, dtype: torch.dtype, **settings: object) -> Iterator[Engine]:
    wanted = SamplingSettings(**{"steps": 4, **settings})  # type: ignore[arg-type]
    host, taming = load_host(EMBEDDED.host), load_taming(EMBEDDED.taming)
    with (
        torch.inference_mode(),
        attached_engine(host, taming, device=device, dtype=dtype, settings=wanted) as engine,
    ):
        yield engine


def bands_of(side: int) -> SubBands:
    photograph = load_photograph("astronaut")[:side, :side]
    raw = simulated_raw(dark_counts(photograph, ratio=RATIO, iso=1600.0, seed=0), "astronaut")
    recipe = load_taming(EMBEDDED.taming).header.input_recipe
    return prepare_bands(raw, recipe, exposure_ratio=RATIO)


def picture(
    device: torch.device, dtype: torch.dtype, side: int = 256, **settings: object
) -> Tensor:
    bands = bands_of(side)
    with engine_of(device, dtype, **settings) as engine:
        return engine.decode(engine.sample(bands, 0), bands)


def decibels(found: Tensor, wanted: Tensor) -> float:
    """PSNR of pictures in model range."""
    error = float((found.clamp(-1, 1) - wanted.clamp(-1, 1)).square().mean())
    return 10.0 * float(np.log10(4.0 / max(error, 1e-12)))


@pytest.fixture(scope="module")
def on_cpu() -> Tensor:
    return picture(CPU, torch.float32)


@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.float32, 50.0), (torch.float16, 40.0), (torch.bfloat16, 30.0)]
)
def test_a_gpu_gives_the_picture_of_the_cpu(
    dtype: torch.dtype, least: float, on_cpu: Tensor
) -> None:
    found = picture(CUDA, dtype)
    assert found.device == CPU and torch.isfinite(found).all()
    assert decibels(found, on_cpu) > least


def test_tiles_and_bounded_decoding_are_those_of_the_cpu() -> None:
    how = {"tile": 256, "overlap": 64, "decode": "bounded", "decode_tile": 512, "steps": 2}
    wanted = picture(CPU, torch.float32, 512, **how)
    assert decibels(picture(CUDA, torch.float32, 512, **how), wanted) > 50.0
    one_a_call = picture(CUDA, torch.float32, 512, tile_batch=1, **how)
    assert decibels(one_a_call, wanted) > 50.0


def test_one_graph_measures_the_norms_of_frame_after_frame() -> None:
    frames, tiles = [bands_of(512), bands_of(448)], {"tile": 256, "overlap": 64, "steps": 2}
    wanted = []
    for bands in frames:
        with engine_of(CUDA, torch.float32, **tiles) as engine:
            wanted.append(engine.sample(bands, 0))
    with engine_of(CUDA, torch.float32, **tiles) as engine:
        for place in (0, 1, 0, 0):
            found = engine.sample(frames[place], 0)
            torch.testing.assert_close(found, wanted[place], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_through_scores_is_attention(dtype: torch.dtype, biased: bool) -> None:
    made = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 1, 3000, 512, generator=made) for _ in range(3))
    bias = torch.linspace(-2.0, 2.0, 3000) if biased else None
    mask = None if bias is None else bias.expand(1, 1, 3000, -1)
    wanted = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    given = [x.to(CUDA, dtype) for x in (query, key, value)]
    if not gives_float32(given[0]):
        pytest.skip("no products of half precision in float32 here")
    own = None if bias is None else bias.to(CUDA)
    found = attend_in_strips(*given, bias=own, strip=1 << 22)
    assert (found.cpu().float() - wanted).abs().max() < 0.01
    assert torch.equal(attend(*given, bias=own, strip=1 << 22), found)


def test_a_gpu_takes_several_tiles_a_call() -> None:
    with engine_of(CUDA, torch.bfloat16, tile=256, overlap=64) as engine:
        layout = engine.plan(128, 128).layout
    assert len(layout.tiles()) > 16 and 4 < layout.batch <= 16


def test_a_graph_computes_what_the_layers_do() -> None:
    with engine_of(CUDA, torch.float32) as engine:
        graph = GraphedPrediction(engine.plain)
        for side, seed in ((32, 0), (32, 1), (40, 2), (32, 3)):
            generator = torch.Generator().manual_seed(seed)
            latent, low = (
                torch.randn(1, 4, side, side, generator=generator).to(CUDA) for _ in range(2)
            )
            timestep = torch.full((1,), 100 + seed, device=CUDA)
            inputs = (latent, timestep, engine.planner.context(1), low)
            assert torch.allclose(graph(*inputs), engine.plain(*inputs), atol=1e-3)
        assert len(graph._captured) == 2
        graph.release()
        assert not graph._captured


def test_a_prediction_that_cannot_be_captured_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def waits(latent: Tensor, *_: Tensor) -> Tensor:
        return latent * float(latent.sum())  # a graph cannot wait for the device

    inputs = (torch.ones(1, 4, 8, 8, device=CUDA), *(torch.ones(1, device=CUDA),) * 3)
    graph = GraphedPrediction(waits)
    for _ in range(2):
        assert torch.equal(graph(*inputs), waits(*inputs))
    assert caplog.text.count("no CUDA graph") == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_statistics_are_those_of_the_cpu(dtype: torch.dtype, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, 3000, 400, generator=generator).to(dtype) * 3 + 1
    wanted = moments(x, 32)
    found = moments(x.to(CUDA).contiguous(memory_format=layout), 32)
    assert torch.allclose(found.mean.cpu(), wanted.mean, atol=1e-4)
    assert torch.allclose(found.variance.cpu(), wanted.variance, rtol=1e-4)


def test_a_real_lack_of_memory_is_met_with_less(caplog: pytest.LogCaptureFixture) -> None:
    bands = bands_of(512)
    large = SubBands(
        *(tuple(x.repeat(1, 1, 4, 4) for x in levels) for levels in (bands.ll, bands.detail)),  # type: ignore[arg-type]
        (2048, 2048),
    )
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        2.2 * GIGA / torch.cuda.get_device_properties(0).total_memory
    )
    try:
        with (
            caplog.at_level(logging.WARNING),
            engine_of(
                CUDA, torch.float32, steps=1, tile=512, overlap=128, decode="exact"
            ) as engine,
        ):
            found = engine.decode(engine.sample(large, 0), large)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.isfinite(found).all()
    assert "trying once more with bounded decode" in caplog.text


def test_free_memory_is_the_cards() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    assert GIGA < free_memory(CUDA) <= total


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_training_learns_on_a_gpu(precision: str, tmp_path: Path) -> None:
    values = taming_values("embedded")
    for stage in values["stages"]:
        stage.update(precision=precision, steps=6, batch=2, crop=128)
    config = parse_training_config(values, source="test")
    files = train_model(config, tmp_path, options=RunOptions(quiet=True))
    for name in ("unet_taming", "decoder_taming"):
        losses = losses_in(tmp_path / f"{name}.csv")
        assert len(losses) == 6 and np.isfinite(losses).all()
    taming = load_taming(files.taming)
    assert all(torch.isfinite(x).all() for x in taming.decoder.state_dict().values())  # type: ignore[union-attr]
