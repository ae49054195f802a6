"""Sampling in tiles: the released implementation's vectors, and what the engine makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import golden as g
from helpers import released_hosts as hosts
from helpers.raws import write_test_dng
from helpers.tiny_model import load_model
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from torch import nn

from ldmsid_core.cli_enhance import enhance_files
from ldmsid_core.cli_enhance_options import EnhanceOptions
from ldmsid_core.errors import ConfigError
from ldmsid_core.hosts.engine import ready_engine
from ldmsid_core.hosts.host import load_host
from ldmsid_core.hosts.sampling import sample_latent
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.hosts.tiled_sampling import tiled_prediction
from ldmsid_core.model_files import EMBEDDED
from ldmsid_core.output.writers import read_settings
from ldmsid_core.taming.attach import attach_unet_taming
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.tiling import TileLayout, plan_tiles
from ldmsid_core.wavelet import SubBands, split_bands

CPU = torch.device("cpu")
# As for the untiled network: two float32 implementations of the same formulas.
NETWORK = 2e-5


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        yield


def random_bands(height: int, width: int, *, batch: int = 1) -> SubBands:
    generator = torch.Generator().manual_seed(height + width)
    return split_bands(torch.rand(batch, 4, height, width, generator=generator) * 2 - 1)


def test_golden_canvas_unet() -> None:
    vectors, described = g.load_golden("canvas"), g.load_golden("unet")
    case = vectors.cases["unet"]
    config = case["predictor"]
    encoder = described.metadata["encoder_config"][config]
    unet_config = described.metadata["unet_config"][config]
    state = g.weights(vectors.tag, g.manifest(f"ckpt_unet_{config}"), "unit")
    taming = hosts.build_taming(hosts.taming_config(encoder, unet_config, state), state)
    unet = hosts.build_unet(unet_config, state)
    latent, low = vectors["unet.in.x"], vectors["unet.in.struct_x"]
    layout = plan_tiles(
        *latent.shape[-2:], tile=case["tile_size"], overlap=case["tile_overlap"], window="released"
    )
    assert len(layout.tiles()) == case["tiles"]
    with attach_unet_taming(unet, taming) as predict:
        for batch in (1, 4):
            found = tiled_prediction(predict, replace(layout, batch=batch))(
                latent, vectors["unet.in.t"], vectors["unet.in.context"], low
            )
            g.assert_close(found, vectors["unet.out.eps"], NETWORK, f"{batch} tiles a call")


@limits(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 24), st.booleans())
def test_a_network_that_sees_single_positions_knows_no_tiles(
    data: st.DataObject, tile: int, narrow: bool
) -> None:
    """Pointwise predictions merge to that of the whole frame: identity for the latent."""
    overlap = data.draw(st.integers(0, tile - 1))
    # One latent more than tiles cover, a single tile, and anything else.
    lengths = st.sampled_from((1, tile, tile + 1, 2 * tile - overlap, 2 * tile - overlap + 1))
    sizes = st.one_of(lengths, st.integers(1, 60))
    height, width = 1 if narrow else data.draw(sizes), data.draw(sizes)
    batch = data.draw(st.integers(1, 2))
    layout = plan_tiles(
        height, width, tile=tile, overlap=overlap, batch=data.draw(st.integers(1, 5)),
        window=data.draw(st.sampled_from(("smooth", "released"))),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(height)
    noise, low, context = (
        torch.randn(batch, *shape, generator=generator)
        for shape in ((4, height, width), (4, height, width), (7, 3))
    )

    def predict(
        latent: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor, low: torch.Tensor
    ) -> torch.Tensor:
        assert len(latent) == len(timestep) == len(context) == len(low)
        # Every tile comes with its own frame's prompt.
        mark = context.mean((1, 2))[:, None, None, None]
        return 0.5 * latent + 0.3 * low + 0.01 * mark + timestep[:, None, None, None] / 10_000

    tiled = tiled_prediction(predict, layout)
    found = [
        sample_latent(lambda x, t, p=p: p(x, t, context, low), noise, steps=3)
        for p in (predict, tiled)
    ]
    # Weights of tiles add up to 1 within float32; from timestep 999 that grows some 15 times.
    torch.testing.assert_close(found[1], found[0], atol=2e-4, rtol=1e-4)


def sample(tmp_path: Path, bands: SubBands, **settings: int) -> torch.Tensor:
    host, taming = load_model(tmp_path)
    chosen = SamplingSettings(steps=2, **settings)
    with ready_engine(host, taming, device=CPU, dtype=torch.float32, settings=chosen) as (run, _):
        return run(bands, 3)


def test_one_tile_is_the_whole_frame(tmp_path: Path) -> None:
    bands = random_bands(128, 192)
    whole = sample(tmp_path, bands)
    torch.testing.assert_close(sample(tmp_path, bands, tile=192), whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 2])
def test_tiles_a_call_change_nothing(tmp_path: Path, batch: int) -> None:
    bands = random_bands(192, 320, batch=batch)
    one = sample(tmp_path, bands, tile=128, overlap=32)
    for several in (2, 16):
        found = sample(tmp_path, bands, tile=128, overlap=32, tile_batch=several)
        torch.testing.assert_close(found, one, atol=2e-4, rtol=1e-4)


def test_one_engine_takes_frame_after_frame(tmp_path: Path) -> None:
    frames = [random_bands(192, 320), random_bands(192, 320, batch=2), random_bands(128, 320)]
    tiles = {"tile": 128, "overlap": 32}
    wanted = [sample(tmp_path, bands, **tiles) for bands in frames]
    host, taming = load_model(tmp_path)
    chosen = SamplingSettings(steps=2, **tiles)
    with ready_engine(host, taming, device=CPU, dtype=torch.float32, settings=chosen) as (run, _):
        for place in (0, 1, 0, 2, 2, 1):
            assert torch.equal(run(frames[place], 3), wanted[place])


@pytest.mark.parametrize("start", [1.0, 0.6])
def test_norms_see_the_frame(start: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a gradient, where tiles differ from one another, by the embedded model."""
    slope = torch.linspace(-0.9, 0.9, 1536).expand(1, 4, 256, 1536)
    generator = torch.Generator().manual_seed(0)
    bands = split_bands(slope + 0.05 * torch.randn(slope.shape, generator=generator))
    picture = slope[:, :3, ::8, ::8] / 2 + 0.5

    def run(**tiles: int) -> torch.Tensor:
        host, taming = load_host(EMBEDDED.host), load_taming(EMBEDDED.taming)
        chosen = SamplingSettings(steps=2, start=start, **tiles)
        with ready_engine(host, taming, device=CPU, dtype=torch.float32, settings=chosen) as e:
            return e[0](bands, 3, picture)

    whole = run(tile=1536)
    shared = run(tile=512, overlap=128)
    monkeypatch.setattr(TileLayout, "shares_norms", property(lambda _: False))
    apart = run(tile=512, overlap=128)
    near, far = ((found - whole).square().mean().sqrt() for found in (shared, apart))
    assert near < 0.6 * far, (near, far)


def test_who_shares_norms() -> None:
    assert plan_tiles(64, 96, tile=64, overlap=16).shares_norms
    assert not plan_tiles(64, 64, tile=64, overlap=16).shares_norms
    assert not plan_tiles(64, 96, tile=64, overlap=16, window="released").shares_norms


@pytest.mark.parametrize("batch", [1, 2])
def test_tiles_of_a_frame_that_does_not_divide(tmp_path: Path, batch: int) -> None:
    bands = random_bands(192, 320, batch=batch)
    whole = sample(tmp_path, bands)
    tiled = sample(tmp_path, bands, tile=128, overlap=32)
    assert tiled.shape == whole.shape == (batch, 4, 24, 40)
    assert tiled.isfinite().all() and not torch.equal(tiled, whole)
    assert torch.equal(tiled, sample(tmp_path, bands, tile=128, overlap=32))


def test_an_interruption_between_tiles_leaves_the_host_usable(tmp_path: Path) -> None:
    bands = random_bands(128, 320)
    host, taming = load_model(tmp_path)
    chosen = SamplingSettings(steps=2, tile=128, overlap=32)
    calls: list[int] = []
    limit = 1000

    def stop(_module: nn.Module, _inputs: object) -> None:
        calls.append(1)
        if len(calls) == limit:
            raise KeyboardInterrupt

    handle = host.unet.register_forward_pre_hook(stop)
    with ready_engine(host, taming, device=CPU, dtype=torch.float32, settings=chosen) as (run, _):
        wanted = run(bands, 3)
    tiles = len(calls) // 2 - 1  # Beside two calls for the stand-in.
    assert tiles >= 3
    # In the middle of the second step.
    limit = len(calls) + 2 + tiles + 2
    with (
        pytest.raises(KeyboardInterrupt),
        ready_engine(host, taming, device=CPU, dtype=torch.float32, settings=chosen) as (run, _),
    ):
        run(bands, 3)
    handle.remove()
    assert not any(
        m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m)
        for m in host.unet.modules()
    )
    with ready_engine(host, taming, device=CPU, dtype=torch.float32, settings=chosen) as (run, _):
        assert torch.equal(run(bands, 3), wanted)


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of tracing
def test_compiled_networks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as `--compile` does, but run by PyTorch: generating code takes a minute."""
    bands, tiles = random_bands(128, 192), {"tile": 64, "overlap": 32}
    wanted, traced = [sample(tmp_path, bands, **way) for way in ({}, tiles)], []
    compiled = torch.compile

    def compile_eagerly(run: object) -> object:
        traced.append(run)
        return compiled(run, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    found = [sample(tmp_path, bands, compile=True, **way) for way in ({}, tiles)]
    assert len(traced) == 2
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("tile", "overlap", "words"),
    [
        (32, 0, "multiple of 64 pixels, found 32; use 64 or 128"),
        (500, 128, "multiple of 64 pixels, found 500; use 448 or 512"),
        (128, 128, "below the tile of 128, found 128"),
        (128, 12, "multiple of 8 pixels and below the tile of 128, found 12"),
        (128, -8, "found -8"),
    ],
)
def test_tiles_that_no_network_takes(tile: int, overlap: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SamplingSettings(tile=tile, overlap=overlap)


def test_on_the_command_line(tmp_path: Path) -> None:
    raw = tmp_path / "a.dng"
    write_test_dng(raw)
    fixed = {"steps": 1, "quiet": True, "dtype": "fp32"}
    with pytest.raises(ConfigError, match="Expected --tile with --overlap"):
        enhance_files([str(raw)], EnhanceOptions(tmp_path / "out", overlap=32, **fixed))
    (report,) = enhance_files(
        [str(raw)], EnhanceOptions(tmp_path / "out", tile=64, overlap=16, **fixed)
    )
    settings = read_settings(Path(report["output"]))
    assert settings is not None and '"tile": 64' in settings and '"overlap": 16' in settings
