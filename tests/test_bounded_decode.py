"""Bounded decoding: near the exact one although it sees a sample of the frame and tiles of it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from helpers.decoders import CPU, assert_near, build_decoder, frame_decoder, psnr, random_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ldmsid_core.cli_evaluate import simulated_raw
from ldmsid_core.cli_synth import dark_counts
from ldmsid_core.crop import part_of_layout
from ldmsid_core.decoding.bounded import (
    SAMPLE_POSITIONS,
    SAMPLE_TILE,
    bounded_layout,
    place_bands,
    sample_tiles,
    sides_of,
)
from ldmsid_core.decoding.decode import check_decode
from ldmsid_core.decoding.network import TamedDecoder
from ldmsid_core.errors import ConfigError
from ldmsid_core.hosts.encoding import encode_picture
from ldmsid_core.hosts.engine import attached_engine
from ldmsid_core.hosts.host import load_host
from ldmsid_core.model_files import EMBEDDED
from ldmsid_core.pipeline import prepare_bands
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.taming.fusion import DecoderTaming
from ldmsid_core.tiling import Tile
from ldmsid_core.training.photographs import load_photograph
from ldmsid_core.wavelet import SubBands

# Attention over a tile differs from attention over the frame; statistics come from a sample.
NEAR_DB = 45.0


@pytest.fixture(scope="module")
def model() -> tuple[nn.Module, DecoderTaming]:
    return build_decoder()


Model = tuple[nn.Module, DecoderTaming]
ALL = Tile(0, 0, 8, 130, 0, 0)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 500), st.integers(1, 500), st.sampled_from((500, 4096, SAMPLE_POSITIONS)))
def test_sample_tiles(height: int, width: int, positions: int) -> None:
    tiles = sample_tiles(height, width, positions=positions)
    tall, wide = min(SAMPLE_TILE, height), min(SAMPLE_TILE, width)
    assert {(t.height, t.width) for t in tiles} == {(tall, wide)}
    assert all(0 <= t.top <= height - tall and 0 <= t.left <= width - wide for t in tiles)
    assert len({(t.top, t.left) for t in tiles}) == len(tiles)
    assert len(tiles) == 1 or tall * wide * len(tiles) <= positions
    for starts, room in (
        (sorted({t.top for t in tiles}), height - tall),
        (sorted({t.left for t in tiles}), width - wide),
    ):
        if len(starts) == 1:
            assert starts == [room // 2]
            continue
        assert starts[0] == 0 and starts[-1] == room
        gaps = [after - before for before, after in pairwise(starts)]
        assert max(gaps) - min(gaps) <= 1
    assert len(tiles) == len({t.top for t in tiles}) * len({t.left for t in tiles})


@pytest.mark.parametrize(
    ("size", "positions", "rows", "columns"),
    [
        ((184, 272), SAMPLE_POSITIONS, 4, 6),
        ((272, 184), SAMPLE_POSITIONS, 6, 4),
        ((24, 24), SAMPLE_POSITIONS, 1, 1),
        ((8, 200), SAMPLE_POSITIONS, 1, 9),
        ((200, 8), SAMPLE_POSITIONS, 9, 1),
        ((100, 100), 24 * 24, 1, 1),
        ((100, 100), 10, 1, 1),
        ((48, 48), SAMPLE_POSITIONS, 2, 2),
    ],
)
def test_how_many_tiles_stand_for_a_frame(
    size: tuple[int, int], positions: int, rows: int, columns: int
) -> None:
    tiles = sample_tiles(*size, positions=positions)
    assert (len({t.top for t in tiles}), len({t.left for t in tiles})) == (rows, columns)


def test_sides_are_the_frames_own_or_cut() -> None:
    assert sides_of(Tile(0, 0, 10, 20, 0, 0), 10, 20) == (True, True, True, True)
    assert sides_of(Tile(0, 4, 10, 16, 0, 0), 20, 20) == (True, False, False, True)
    assert sides_of(Tile(10, 0, 10, 16, 0, 0), 20, 20) == (False, True, True, False)


@pytest.mark.parametrize("tile", [-512, 8, 504, 516, 600 + 4])
def test_tiles_below_what_the_decoder_looks_at_are_refused(tile: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 512 pixels and a multiple of 8, found {tile}"):
        check_decode("bounded", tile)


def test_modes_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="among auto, exact, bounded, found 'tiled'"):
        check_decode("tiled", 0)
    for tile in (0, 512, 520, 4096):
        check_decode("exact", tile)


@pytest.mark.parametrize("size", [(24, 24), (9, 13), (8, 8)])
def test_a_frame_within_one_sample_tile_is_exact(model: Model, size: tuple[int, int]) -> None:
    latent, bands = random_frame(*size)
    decoder = frame_decoder(*model)
    # One tile, and it is the frame: the same statistics, all sides its own.
    assert_near(decoder.bounded(latent, bands, 64), decoder.exact(latent, bands), 1e-5)


@pytest.mark.parametrize("size", [(32, 32), (8, 100), (72, 8)])
def test_any_shape_is_near_and_the_same_twice(model: Model, size: tuple[int, int]) -> None:
    latent, bands = random_frame(*size)
    decoder = frame_decoder(*model)
    found = decoder.bounded(latent, bands, 64)
    assert found.shape == (1, 3, 8 * size[0], 8 * size[1])
    assert found.dtype == torch.float32 and found.device == CPU
    exact = decoder.exact(latent, bands)
    # Random layers pass everything on; what a trained decoder does is measured below.
    assert float((found - exact).square().mean()) < 0.05 * float(exact.var())
    assert torch.equal(found, decoder.bounded(latent, bands, 64))


@pytest.fixture(scope="module")
def whole(model: Model) -> Tensor:
    """A frame of three tiles, decoded as a part of itself."""
    found, box = frame_decoder(*model).bounded_part(*random_frame(8, 130), 64, ALL)
    assert box == ALL
    return found


@pytest.mark.parametrize(
    "part",
    [
        Tile(0, 0, 1, 1, 0, 0),
        Tile(3, 129, 1, 1, 0, 0),
        Tile(0, 40, 8, 30, 0, 0),
        Tile(2, 60, 5, 2, 0, 0),
        Tile(0, 0, 8, 130, 0, 0),
    ],
)
def test_a_part_is_that_part_of_the_whole(model: Model, whole: Tensor, part: Tile) -> None:
    latent, bands = random_frame(8, 130)
    found, place = frame_decoder(*model).bounded_part(latent, bands, 64, part)
    layout, box = part_of_layout(bounded_layout(8, 130, 64), part)
    assert box == place and len(layout.tiles()) <= 3
    top, left = part.top - place.top, part.left - place.left
    inner = Tile(top, left, part.height, part.width, 0, 0)
    assert torch.equal(inner.cut(found, scale=8), part.cut(whole, scale=8))


def test_the_whole_as_a_part_is_near_the_whole(model: Model, whole: Tensor) -> None:
    """A part has no features of the whole frame to begin with; statistics stand in for them."""
    found = frame_decoder(*model).bounded(*random_frame(8, 130), 64)
    assert float((found - whole).square().mean()) < 0.05 * float(whole.var())


def test_only_the_parts_tiles_are_computed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    latent, bands = random_frame(8, 300)
    sizes: list[list[tuple[int, ...]]] = []
    real = TamedDecoder.run

    def run(self: TamedDecoder, latents: list[Tensor], *rest: object, **named: object) -> object:
        sizes.append([tuple(x.shape[-2:]) for x in latents])
        return real(self, latents, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(TamedDecoder, "run", run)
    decoder = frame_decoder(*model)
    found, place = decoder.bounded_part(latent, bands, 64, Tile(0, 100, 8, 1, 0, 0))
    assert found.shape[-1] == 8 * place.width and place.width < 120
    statistics, *tiles = sizes
    # At most twice a tile's positions stand for the frame.
    assert len(statistics) * 8 * 24 <= 2 * 8 * 64
    assert 1 <= len(tiles) <= 2 and all(tile == [(8, 64)] for tile in tiles)


def scene(height: int, width: int) -> tuple[SubBands, Tensor]:
    """Bands of a dark photograph and what a latent of its truth is made from."""
    photograph = torch.from_numpy(load_photograph("astronaut").copy())
    # The second half is darker, so that the first alone has other statistics than the frame.
    darker = photograph.flip(1) // 3
    wide = torch.cat([photograph, darker], dim=1)[:height, :width].numpy()
    raw = simulated_raw(dark_counts(wide, ratio=100.0, iso=1600.0, seed=0), "astronaut")
    bands = prepare_bands(raw, load_taming(EMBEDDED.taming).header.input_recipe, exposure_ratio=100)
    truth = torch.from_numpy(wide.copy()).movedim(-1, 0)[None].float() / 255.0
    return bands, torch.nn.functional.avg_pool2d(truth, 8)


@pytest.mark.parametrize(
    ("height", "width"), [(128, 640), pytest.param(512, 1024, marks=pytest.mark.slow)]
)
def test_the_embedded_model_decodes_a_photograph_nearly_the_same(height: int, width: int) -> None:
    bands, small = scene(height, width)
    host, taming = load_host(EMBEDDED.host), load_taming(EMBEDDED.taming)
    with (
        torch.inference_mode(),
        attached_engine(host, taming, device=CPU, dtype=torch.float32) as engine,
    ):
        latent = encode_picture(host.vae, small, engine.decoder.place)
        if taming.header.decoder_latent_scale == "scaled":
            latent = latent * host.header.latent_scale
        decoder = engine.decoder
        exact, bounded = decoder.exact(latent, bands), decoder.bounded(latent, bands, 64)
        # What a tile alone would give: its own statistics, where the frame's are wanted.
        tile = Tile(0, 0, height // 8, 64, 0, 0)
        alone = decoder.exact(tile.cut(latent), place_bands(bands, decoder.place, tile))
    columns = bounded_layout(height // 8, width // 8, 64).columns
    assert len(columns) > 1 and float(exact.std()) > 0.2
    assert psnr(bounded, exact) >= NEAR_DB
    # No seam: where tiles meet it is no worse than elsewhere, within a few dB.
    seam = slice(8 * columns[1], 8 * 64)
    assert psnr(bounded[..., seam], exact[..., seam]) >= NEAR_DB - 3.0
    inside = slice(0, 8 * columns[1])
    wanted = exact[..., inside]
    assert psnr(bounded[..., inside], wanted) > psnr(alone[..., inside], wanted)
