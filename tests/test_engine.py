"""The engine where memory runs out, where a user stops it, and where sampling starts later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from helpers.decoders import CPU, assert_near
from helpers.tiny_model import load_model
from torch import Tensor

from ldmsid_core.decoding.decode import FrameDecoder
from ldmsid_core.decoding.layers import STRIP
from ldmsid_core.hosts.engine import attached_engine
from ldmsid_core.hosts.host import Host
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.taming.checkpoint import Taming
from ldmsid_core.wavelet import SubBands, split_bands

# float32 sums in another order, through two steps of a random network.
SAME = 1e-4
Model = tuple[Host, Taming]


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tmp_path_factory.mktemp("model"))


def engine_of(model: Model, progress: object = None, decoded: object = None, **settings: object):  # type: ignore[no-untyped-def] # noqa: ANN201
    chosen = SamplingSettings(**{"steps": 2, **settings})  # type: ignore[arg-type]
    silent = (lambda _part: None) if decoded is None else decoded
    return attached_engine(
        *model, device=CPU, dtype=torch.float32, settings=chosen, progress=progress,  # type: ignore[arg-type]
        decode_progress=silent,  # type: ignore[arg-type]
    )  # fmt: skip


def noisy_bands(height: int = 128, width: int = 256, *, batch: int = 1) -> SubBands:
    generator = torch.Generator().manual_seed(height + width)
    return split_bands(torch.rand(batch, 4, height, width, generator=generator) * 2 - 1)


class Failing:
    """Raises at chosen calls, counted from 1, and else passes them on."""

    def __init__(self, real: Callable[..., Tensor], error: Exception, *at: int) -> None:
        self.real, self.error, self.at, self.calls = real, error, at, 0
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, x: Tensor, *rest: object) -> Tensor:
        self.calls += 1
        self.sizes.append(tuple(x.shape[-2:]))
        if self.calls in self.at:
            raise self.error
        return self.real(x, *rest)


LACK = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_sampling_that_runs_out_of_memory_is_tried_once_more_in_half(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    bands = noisy_bands()
    with engine_of(model, tile=128, overlap=128 - 64) as engine:
        wanted = engine.sample(bands, 3)
    with engine_of(model) as engine, caplog.at_level(logging.WARNING):
        engine.predict = Failing(engine.predict, LACK, 2)
        found = engine.sample(bands, 3)
        sizes = engine.predict.sizes
    # A step of the whole frame, the failing one, then two steps of three tiles of half the side.
    assert sizes == [(16, 32)] * 2 + [(16, 16)] * 6
    assert torch.equal(found, wanted)
    said = [record.message for record in caplog.records if "memory" in record.message]
    assert said == [
        "memory ran out with tiles of 256 pixels; trying once more with tiles of 128 pixels"
    ]


@pytest.mark.parametrize("at", [(1, 2), (2, 5)])
def test_sampling_that_runs_out_twice_is_an_error(model: Model, at: tuple[int, ...]) -> None:
    with engine_of(model) as engine:
        engine.predict = Failing(engine.predict, LACK, *at)
        with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
            engine.sample(noisy_bands(), 3)
        assert engine.predict.calls == at[1]


def test_another_error_of_sampling_is_not_tried_again(model: Model) -> None:
    with engine_of(model) as engine:
        engine.predict = Failing(engine.predict, RuntimeError("shapes do not match"), 1)
        with pytest.raises(RuntimeError, match="shapes do not match"):
            engine.sample(noisy_bands(), 3)
        assert engine.predict.calls == 1


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Modes, tiles and strips that were tried; `FrameDecoder.exact` has no memory."""
    tried: list[tuple[str, int, int]] = []
    real = FrameDecoder.bounded

    def exact(self: FrameDecoder, *_: object) -> Tensor:
        tried.append(("exact", 0, self.strip))
        raise LACK

    def bounded(self: FrameDecoder, latent: Tensor, bands: SubBands, tile: int) -> Tensor:
        tried.append(("bounded", tile, self.strip))
        return real(self, latent, bands, tile)

    monkeypatch.setattr(FrameDecoder, "exact", exact)
    monkeypatch.setattr(FrameDecoder, "bounded", bounded)
    return tried


def test_decoding_that_runs_out_of_memory_is_tried_once_more_in_tiles(
    model: Model, decodes: list[tuple[str, int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    bands, latent = noisy_bands(), torch.randn(1, 4, 16, 32, generator=torch.Generator())
    with engine_of(model, decode="exact") as engine, caplog.at_level(logging.WARNING):
        found = [engine.decode(latent, bands) for _ in range(2)][1]
        wanted = engine.decoder.bounded(latent, bands, 96)
    # The second try takes the smallest strips, the next frame begins as the first did.
    assert decodes == 2 * [("exact", 0, 0), ("bounded", 96, STRIP)] + [("bounded", 96, STRIP)]
    assert torch.equal(found, wanted) and found.shape == (1, 3, 128, 256)
    said = "ran out with exact decode; trying once more with bounded decode in tiles of 768 pixels"
    assert f"memory {said}" in caplog.text


def test_decoding_in_tiles_halves_them_and_gives_up_after_that(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def bounded(_self: FrameDecoder, _latent: Tensor, _bands: SubBands, tile: int) -> Tensor:
        tried.append(tile)
        raise LACK

    monkeypatch.setattr(FrameDecoder, "bounded", bounded)
    latent = torch.zeros(1, 4, 16, 32)
    for tile, sides in ((1600, [200, 100]), (768, [96, 64]), (512, [64])):
        tried.clear()
        with (
            engine_of(model, decode="bounded", decode_tile=tile) as engine,
            pytest.raises(torch.OutOfMemoryError),
        ):
            engine.decode(latent, noisy_bands())
        assert tried == sides


def test_another_error_of_decoding_is_not_tried_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def exact(_self: FrameDecoder, *_: object) -> Tensor:
        calls.append(1)
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(FrameDecoder, "exact", exact)
    with engine_of(model) as engine, pytest.raises(RuntimeError, match="no kernel image"):
        engine.decode(torch.zeros(1, 4, 16, 32), noisy_bands())
    assert calls == [1]


def test_an_interrupt_between_steps_escapes_and_the_engine_goes_on(model: Model) -> None:
    done: list[int] = []

    def progress(step: int, _steps: int) -> None:
        done.append(step)
        if len(done) == 1:
            raise KeyboardInterrupt

    bands = noisy_bands()
    with engine_of(model, progress, tile=128, overlap=32) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.sample(bands, 3)
        assert done == [1]
        found = engine.sample(bands, 3)
    with engine_of(model, tile=128, overlap=32) as engine:
        assert torch.equal(engine.sample(bands, 3), found)


@pytest.mark.parametrize("mode", ["exact", "bounded"])
def test_an_interrupt_in_the_middle_of_a_decode_escapes(model: Model, mode: str) -> None:
    parts: list[float] = []
    stops = [0.8]

    def decoded(part: float) -> None:
        parts.append(part)
        if stops and sum(parts) > stops[0]:
            stops.clear()
            raise KeyboardInterrupt

    bands = noisy_bands(64, 640)
    with engine_of(model, decoded=decoded, decode=mode, decode_tile=512) as engine:
        latent = torch.randn(1, 4, 8, 80, generator=torch.Generator())
        with pytest.raises(KeyboardInterrupt):
            engine.decode(latent, bands)
        assert 0.8 < sum(parts) < 1.0
        parts.clear()
        found = engine.decode(latent, bands)
        assert sum(parts) == pytest.approx(1.0, abs=1e-6)
        assert torch.equal(found, engine.decode(latent, bands))


@pytest.mark.parametrize("batch", [2, 3, 16])
def test_tiles_a_call_do_not_change_the_latent(model: Model, batch: int) -> None:
    bands = noisy_bands(192, 320)
    found = []
    for number in (1, batch, batch):
        with engine_of(model, tile=128, overlap=32, tile_batch=number) as engine:
            found.append(engine.sample(bands, 3))
    assert torch.equal(found[1], found[2])
    # Convolutions of several tiles add up in another order.
    assert_near(found[1], found[0], 1e-5)


@pytest.mark.parametrize("decode", ["exact", "bounded"])
@pytest.mark.parametrize("same", [True, False])
def test_a_batch_is_decoded_as_its_frames(model: Model, decode: str, same: bool) -> None:
    bands = noisy_bands(64, 128, batch=1 if same else 2)
    latent = torch.randn(2, 4, 8, 16, generator=torch.Generator())
    with engine_of(model, decode=decode) as engine:
        found = engine.decode(latent, bands)
        own = [bands if same else bands.one(i) for i in range(2)]
        wanted = torch.cat([engine.decode(latent[i : i + 1], own[i]) for i in range(2)])
    assert_near(found, wanted, SAME)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def picture_of(bands: SubBands) -> Tensor:
    rows = torch.linspace(0.2, 0.8, bands.structure_input.shape[-2])[:, None]
    return rows.expand(1, 3, *bands.structure_input.shape[-2:]).contiguous()


def test_start_1_needs_no_picture_and_changes_nothing(model: Model) -> None:
    bands = noisy_bands()
    with engine_of(model) as engine:
        wanted = engine.sample(bands, 3)
        assert torch.equal(engine.sample(bands, 3, picture_of(bands)), wanted)
    with engine_of(model, start=1.0) as engine:
        assert torch.equal(engine.sample(bands, 3), wanted)


@pytest.mark.parametrize("tile", [0, 128])
def test_a_later_start_stays_nearer_to_the_picture(model: Model, tile: int) -> None:
    bands, distances = noisy_bands(), []
    host, taming = model
    scale = 1.0 if taming.header.decoder_latent_scale == "scaled" else host.header.latent_scale
    for start in (0.01, 0.2, 0.9):
        with engine_of(model, start=start, tile=tile, overlap=32) as engine:
            found = engine.sample(bands, 3, picture_of(bands)) * scale
            whole = 2 * picture_of(bands).repeat_interleave(8, -1).repeat_interleave(8, -2) - 1
            begin = host.vae.encode(whole).latent_dist.mode() * host.header.latent_scale  # type: ignore[operator]
        distances.append(float((found - begin).square().mean().sqrt()))
    assert distances[0] < distances[1] < distances[2]
    # Noise of timestep 9 has a deviation of 0.1, and a random network adds its own.
    assert distances[0] < 0.3


def test_costs_are_counted_once_for_several_engines(model: Model) -> None:
    with engine_of(model) as engine:
        assert engine.planner.known is None
        found = engine.planner.costs()
        assert engine.planner.known is found
    with attached_engine(*model, device=CPU, dtype=torch.float32, costs=found) as other:
        assert other.planner.costs() is found


def test_a_cpu_takes_one_tile_a_call(model: Model) -> None:
    with engine_of(model, tile=64, overlap=16) as engine:
        layout = engine.plan(16, 32).layout
    assert len(layout.tiles()) > 1 and layout.batch == 1


def test_a_lack_of_memory_first_takes_fewer_tiles_a_call(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    bands = noisy_bands()
    with engine_of(model, tile=128, overlap=32, tile_batch=1) as engine:
        wanted = engine.sample(bands, 0)
    with engine_of(model, tile=128, overlap=32, tile_batch=2) as engine:
        failing = Failing(engine.predict, torch.OutOfMemoryError("out of memory"), 1)
        engine.predict = failing  # type: ignore[assignment]
        with caplog.at_level(logging.WARNING):
            found = engine.sample(bands, 0)
    assert torch.allclose(found, wanted, atol=SAME)
    assert "with tiles of 128 pixels, 2 a call; trying once more with tiles of 128" in caplog.text
    assert set(failing.sizes) == {(16, 16)}
