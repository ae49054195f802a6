"""A part of a frame alone against the same part of the whole frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.decoders import CPU, psnr
from helpers.tiny_model import load_model
from torch import Tensor

from ldmsid_core.cli_evaluate import simulated_raw
from ldmsid_core.cli_synth import dark_counts
from ldmsid_core.crop import Crop
from ldmsid_core.decoding.bounded import SAMPLE_TILE
from ldmsid_core.decoding.layers import STRIP
from ldmsid_core.decoding.network import TamedDecoder
from ldmsid_core.hosts.engine import Engine, attached_engine
from ldmsid_core.hosts.host import load_host
from ldmsid_core.hosts.region import enhance_region
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.model_files import EMBEDDED
from ldmsid_core.patchwork import Patchwork
from ldmsid_core.pipeline import prepare_bands
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.tiling import Tile, TileLayout
from ldmsid_core.training.photographs import load_photograph
from ldmsid_core.wavelet import SubBands, split_bands

# What the decoder's attention sees beyond the part, and statistics from a sample of the frame.
NEAR_DB = 40.0


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def scene(height: int, width: int, *, ratio: float = 100.0) -> SubBands:
    """Bands of a dark photograph, mirrored to the right where it is too narrow."""
    photograph = torch.from_numpy(load_photograph("astronaut").copy())
    wide = torch.cat([photograph, photograph.flip(1), photograph], dim=1)[:height, :width].numpy()
    raw = simulated_raw(dark_counts(wide, ratio=ratio, iso=1600.0, seed=0), "astronaut")
    recipe = load_taming(EMBEDDED.taming).header.input_recipe
    return prepare_bands(raw, recipe, exposure_ratio=ratio)


def cut(image: Tensor, crop: Crop) -> Tensor:
    return image[..., crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Engine]:
    host, taming = load_model(tmp_path)
    settings = SamplingSettings(steps=1, tile=128, overlap=32, decode="bounded", decode_tile=512)
    with attached_engine(host, taming, device=CPU, dtype=torch.float32, settings=settings) as e:
        yield e


def test_edges_corners_and_single_pixels(tiny: Engine) -> None:
    bands = split_bands(
        torch.rand(1, 4, 64, 1088, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    assert len(tiny.plan(8, 136).layout.tiles()) > 8
    for crop in (
        Crop(0, 0, 1, 1), Crop(1087, 63, 1, 1), Crop(543, 0, 1, 64), Crop(0, 30, 100, 3),
        Crop(1000, 0, 88, 64), Crop(500, 7, 65, 9),
    ):  # fmt: skip
        found = enhance_region(tiny, bands, crop, 3)
        assert found.shape == (1, 3, crop.height, crop.width)
        assert found.isfinite().all()


def test_the_parts_latent_is_that_of_the_whole_frame(
    tiny: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder is handed the whole run's latent in the part, and elsewhere what stands for it.

    With one step nothing comes from tiles beside those of the part.
    """
    bands = split_bands(
        torch.rand(1, 4, 64, 1088, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    whole = tiny.sample(bands, 3)
    seen: list[tuple[Tensor, Tile]] = []

    def bounded_part(
        latent: Tensor, _bands: SubBands, _tile: int, part: Tile
    ) -> tuple[Tensor, Tile]:
        seen.append((latent, part))
        size = (1, 3, 8 * part.height, 8 * part.width)
        return torch.zeros(size), part

    monkeypatch.setattr(tiny.decoder, "bounded_part", bounded_part)
    enhance_region(tiny, bands, Crop(500, 7, 65, 9), 3)
    ((latent, part),) = seen
    assert part == Tile(0, 46, 8, 41, 0, 0)
    assert torch.equal(part.cut(latent), part.cut(whole))


def test_statistics_never_come_from_latents_that_were_not_sampled(
    tiny: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[Tensor] = []

    def run(_self: TamedDecoder, latents: list[Tensor], *_: object, **__: object) -> None:
        looked_at.extend(latents)
        raise KeyboardInterrupt  # Statistics come first; seen enough.

    monkeypatch.setattr(TamedDecoder, "run", run)
    # So large that the statistics of tiles of 512 come from other places than those of 768.
    bands = split_bands(
        torch.rand(1, 4, 512, 2176, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    with pytest.raises(KeyboardInterrupt):
        enhance_region(tiny, bands, Crop(500, 7, 65, 9), 3)
    assert len(looked_at) > 10
    assert all((latent != 0).any(dim=1).all() for latent in looked_at)


def test_lack_of_memory_tries_once_more_with_smaller_tiles(
    tiny: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bands = split_bands(
        torch.rand(1, 4, 64, 1088, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    wider = replace(tiny.settings, tile=256)
    tiny = replace(tiny, planner=replace(tiny.planner, settings=wider))
    sizes: list[int] = []
    strips: list[int] = []
    sample_part = Engine.sample_part
    fails: list[bool] = []

    def sample(
        self: Engine, bands: SubBands, part: Tile | Patchwork, layout: TileLayout, *rest: Any
    ) -> Tensor:
        if isinstance(part, Tile):
            sizes.append(layout.tile_width)
            strips.append(self.decoder.strip)
            # The part itself comes after the tiles that stand for the frame.
            if part.width > SAMPLE_TILE and fails.pop():
                raise torch.OutOfMemoryError("out of memory")
        return sample_part(self, bands, part, layout, *rest)

    monkeypatch.setattr(Engine, "sample_part", sample)
    fails[:] = [False, True]
    found = enhance_region(tiny, bands, Crop(500, 7, 65, 9), 3)
    assert found.shape == (1, 3, 9, 65) and found.isfinite().all()
    assert "tiles of 256 pixels" in caplog.text and "once more with tiles of 128" in caplog.text
    assert sizes.count(32) == 1 and sizes[-1] == 16
    assert strips[0] == 0 and strips[-1] == STRIP

    strips.clear()
    fails[:] = [True] * 2
    with pytest.raises(torch.OutOfMemoryError):
        enhance_region(tiny, bands, Crop(500, 7, 65, 9), 3)
    assert strips[0] == 0 and strips[-1] == STRIP


def test_a_frame_of_one_piece_is_computed_whole(tmp_path: Path) -> None:
    host, taming = load_model(tmp_path)
    bands = scene(96, 128)
    settings = SamplingSettings(steps=2)
    with attached_engine(host, taming, device=CPU, dtype=torch.float32, settings=settings) as e:
        whole = e.decode(e.sample(bands, 5), bands)
        for crop in (Crop(0, 0, 128, 96), Crop(100, 90, 28, 6), Crop(17, 3, 1, 1)):
            assert torch.equal(enhance_region(e, bands, crop, 5), cut(whole, crop))


@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((64, 768), Crop(330, 5, 80, 50)),
        pytest.param((64, 1024), Crop(944, 0, 80, 64), marks=pytest.mark.slow),
        pytest.param((384, 1280), Crop(600, 200, 128, 96), marks=pytest.mark.slow),
        pytest.param((384, 1280), Crop(0, 300, 64, 84), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("decode", ["exact", "bounded"])
def test_the_embedded_model_gives_nearly_the_same(
    size: tuple[int, int], crop: Crop, decode: str
) -> None:
    host, taming = load_host(EMBEDDED.host), load_taming(EMBEDDED.taming)
    bands = scene(*size)
    settings = SamplingSettings(steps=2, tile=256, overlap=64, decode=decode, decode_tile=512)
    with attached_engine(host, taming, device=CPU, dtype=torch.float32, settings=settings) as e:
        whole = e.decode(e.sample(bands, 0), bands)
        found = enhance_region(e, bands, crop, 0)
    assert float(whole.std()) > 0.1
    assert psnr(found, cut(whole, crop)) >= NEAR_DB
