"""Taming modules against the plain-function oracle, and the properties they promise."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from helpers import oracle
from torch import Tensor, nn

from ldmsid_core.errors import ConfigError, ShapeError
from ldmsid_core.taming.configs import (
    DecoderTamingConfig,
    StructureEncoderConfig,
    UNetTamingConfig,
)
from ldmsid_core.taming.fusion import BandFusion, DecoderTaming
from ldmsid_core.taming.sft import SftLayer
from ldmsid_core.taming.sites import DECODER_SITES, unet_sites
from ldmsid_core.taming.structure_encoder import StructureEncoder
from ldmsid_core.taming.unet_taming import UNetTaming

# Both sides compute the same formulas in float64.
TOLERANCE = 1e-10
Variant = Literal["unit", "lowgain"]


def randomise(module: nn.Module, variant: Variant, seed: int = 0) -> oracle.State:
    """Unit-gain or small weights in float64; small ones make every epsilon visible."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * noise + (1.0 if name.endswith("weight") else 0.0))
            if variant == "lowgain" and (parameter.ndim > 1 or not name.endswith("weight")):
                parameter.mul_(0.01)
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).detach().abs().max() / wanted.abs().max()) < TOLERANCE


@pytest.fixture
def _modules_draw_initial_weights() -> object:
    """Building modules draws from torch's global generator, as PyTorch does; keep it as it was."""
    with torch.random.fork_rng(devices=[]):
        yield


pytestmark = pytest.mark.usefixtures("_modules_draw_initial_weights")


@pytest.mark.parametrize("variant", ["unit", "lowgain"])
@pytest.mark.parametrize("normalise", [True, False])
def test_sft_layer(variant: Variant, normalise: bool) -> None:
    layer = SftLayer(64, features=32, hidden=24, normalise=normalise)
    state = randomise(layer, variant)
    h, structure = draw(2, 64, 5, 7), draw(2, 32, 5, 7, seed=2)
    assert_same(layer(h, structure), oracle.sft(h, structure, state))


@pytest.mark.parametrize("variant", ["unit", "lowgain"])
def test_band_fusion(variant: Variant) -> None:
    fusion = BandFusion(64, ll_channels=4, detail_channels=12)
    state = randomise(fusion, variant)
    h, ll, detail = draw(2, 64, 6, 4), draw(2, 4, 6, 4, seed=2), draw(2, 12, 6, 4, seed=3)
    assert_same(fusion(h, ll, detail), oracle.fusion(h, ll, detail, state))


@pytest.mark.parametrize("variant", ["unit", "lowgain"])
def test_structure_encoder(variant: Variant) -> None:
    config = StructureEncoderConfig(
        width=32, multipliers=(1, 2, 2), blocks=2, attention_levels=(0, 2), heads=4, features=64
    )
    encoder = StructureEncoder(config)
    state = randomise(encoder, variant)
    ll, timestep = draw(2, 4, 12, 8), torch.tensor([3, 700])
    wanted = oracle.structure_encoder(
        ll, timestep, state, width=32, levels=3, blocks=2, attention_levels=(0, 2), heads=4
    )
    for found, feature in zip(encoder(ll, timestep), wanted, strict=True):
        # The timestep embedding is float32 by design (method, section 8): 1e-7 relative.
        assert float((found - feature).detach().abs().max() / feature.abs().max()) < 2e-5


def test_new_sft_layers_start_as_identity_and_released_ones_do_not() -> None:
    h, structure = torch.randn(1, 64, 4, 4), torch.randn(1, 32, 4, 4)
    identity = SftLayer(64, features=32, hidden=16, normalise=False)
    released = SftLayer(64, features=32, hidden=16, normalise=True)
    assert torch.equal(identity(h, structure), h)
    assert not torch.allclose(released(h, structure), h)


def test_decoder_taming_can_start_as_identity() -> None:
    taming = DecoderTaming(DecoderTamingConfig(widths=(64, 64, 64)))
    h, ll, detail = torch.randn(1, 64, 4, 4), torch.randn(1, 4, 4, 4), torch.randn(1, 12, 4, 4)
    assert not torch.allclose(taming.fusion(2)(h, ll, detail), h)
    taming.start_as_identity()
    assert torch.equal(taming.fusion(2)(h, ll, detail), h)


def test_released_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        unet, decoder = UNetTaming(UNetTamingConfig()), DecoderTaming(DecoderTamingConfig())

    def millions(module: nn.Module) -> float:
        return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)

    assert millions(unet.structure_encoder) == 52.49
    assert millions(unet.unet_sft) == 53.02
    assert millions(decoder) == pytest.approx(63.2, abs=0.05)
    assert len(unet.sites) == 22


def test_sites_of_stable_diffusion() -> None:
    sites = unet_sites((320, 640, 1280, 1280), 2)
    assert [s.original_path for s in sites[:8]] == [
        f"input_blocks.{i}.0" for i in (1, 2, 4, 5, 7, 8, 10, 11)
    ]
    assert [s.original_path for s in sites[8:10]] == ["middle_block.0", "middle_block.2"]
    assert [s.original_path for s in sites[10:]] == [f"output_blocks.{i}.0" for i in range(12)]
    assert [s.channels for s in sites[10:]] == [1280] * 6 + [640] * 3 + [320] * 3
    assert [s.level for s in sites] == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3] + [3] * 3 + [2] * 3 + [
        1
    ] * 3 + [0] * 3
    assert [s.original_path for s in DECODER_SITES] == [
        f"decoder.up.{i}.block.0" for i in (3, 2, 1)
    ]


def test_wrong_shapes_are_named() -> None:
    encoder = StructureEncoder(
        StructureEncoderConfig(
            width=32, multipliers=(1,), blocks=1, attention_levels=(), features=32
        )
    )
    with pytest.raises(ShapeError, match=r"\(B, 4, h, w\)"):
        encoder(torch.zeros(1, 3, 8, 8), torch.zeros(1))
    with pytest.raises(ShapeError, match="one timestep per image"):
        encoder(torch.zeros(2, 4, 8, 8), torch.zeros(1))
    fusion = BandFusion(32, ll_channels=4, detail_channels=12)
    with pytest.raises(ShapeError, match="different files or sizes"):
        fusion(torch.zeros(1, 32, 8, 8), torch.zeros(1, 4, 1, 8), torch.zeros(1, 12, 8, 8))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 48}, "multiple of 32"),
        ({"heads": 0}, "exactly one"),
        ({"heads": 5}, "divide by 5"),
        ({"attention_levels": (4,)}, "attention_levels below 4"),
        ({"blocks": 0}, ">= 1"),
    ],
)
def test_impossible_configurations_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        StructureEncoderConfig(**changes)  # type: ignore[arg-type]
