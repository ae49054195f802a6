"""Strength of taming: 1 tames fully, 0 is the untamed host, between and beyond is linear."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from helpers.raws import write_test_dng
from helpers.tiny_model import build_modules, load_model, write_model
from PIL import Image
from torch import Tensor, nn

from ldmsid_core.cli import main
from ldmsid_core.hosts.engine import ready_engine
from ldmsid_core.hosts.sampling import sample_latent
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.pipeline import enhance
from ldmsid_core.raw.loader import load_raw
from ldmsid_core.sampling_grid import initial_noise
from ldmsid_core.taming.attach import attach_decoder_taming, attach_unet_taming
from ldmsid_core.taming.fusion import BandFusion
from ldmsid_core.taming.operations import blend
from ldmsid_core.taming.sft import SftLayer
from ldmsid_core.taming.sites import DECODER_SITES
from ldmsid_core.wavelet import split_bands

CPU = torch.device("cpu")
# The formula is a handful of float32 operations on values of a few units.
TOLERANCE = 1e-5
# The same rounding, carried on through a whole host.
HOST_TOLERANCE = 1e-3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LATENT, CONTEXT, LL = draw(2, 4, 16, 8), draw(2, 77, 16), draw(2, 4, 16, 8, seed=1)
STEPS = torch.tensor([10, 900])
BANDS = split_bands(draw(1, 4, 64, 64).tanh())


def sft_layer(*, normalise: bool) -> SftLayer:
    with torch.random.fork_rng(devices=[]):
        layer = SftLayer(64, features=32, hidden=8, normalise=normalise)
    for seed, last in enumerate((layer.gamma, layer.beta)):
        last.weight.data = draw(*last.weight.shape, seed=seed) / 8.0
    return layer.requires_grad_(False)


def band_fusion() -> BandFusion:
    with torch.random.fork_rng(devices=[]):
        return BandFusion(32, ll_channels=4, detail_channels=12).requires_grad_(False)


def forbid(module: nn.Module) -> None:
    """Every layer of a module raises when called."""

    def refuse(layer: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
        raise AssertionError(f"{type(layer).__name__} was called at strength 0")

    for layer in module.modules():
        if not list(layer.children()):
            layer.register_forward_pre_hook(refuse)


def mixed(h: Tensor, tamed: Tensor, strength: float) -> Tensor:
    """The formula in another order of operations, in float64."""
    return ((1.0 - strength) * h.double() + strength * tamed.double()).to(h.dtype)


def test_blend() -> None:
    h, tamed = draw(1000), draw(1000, seed=1) * 1e4
    assert blend(h, tamed, 1.0) is tamed
    assert torch.equal(blend(h, tamed, 0.0), h)
    assert torch.equal(blend(torch.tensor(2.0), torch.tensor(6.0), 0.5), torch.tensor(4.0))
    assert torch.equal(blend(torch.tensor(2.0), torch.tensor(6.0), 2.0), torch.tensor(10.0))


@pytest.mark.parametrize("normalise", [True, False])
def test_sft_layer(normalise: bool) -> None:
    layer, h, structure = sft_layer(normalise=normalise), draw(2, 64, 5, 7), draw(2, 32, 5, 7)
    tamed = layer(h, structure)
    assert not torch.allclose(tamed, h, atol=0.1)
    assert torch.equal(layer(h, structure, 1.0), tamed)
    for strength in (0.5, 2.0):
        found = layer(h, structure, strength)
        assert torch.allclose(found, mixed(h, tamed, strength), atol=TOLERANCE)
    forbid(layer)
    assert layer(h, structure, 0.0) is h


def test_released_sft_without_gamma_and_beta_is_the_norm_and_at_strength_0_nothing() -> None:
    layer, h, structure = sft_layer(normalise=True), draw(1, 64, 4, 4) * 3 + 2, draw(1, 32, 4, 4)
    for last in (layer.gamma, layer.beta):
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
    groups = h.reshape(1, 32, -1)
    spread = groups.var(dim=-1, unbiased=False, keepdim=True).add(1e-5).sqrt()
    norm = ((groups - groups.mean(dim=-1, keepdim=True)) / spread).reshape(h.shape)
    assert torch.allclose(layer(h, structure), norm, atol=TOLERANCE)
    assert not torch.allclose(norm, h, atol=0.1)
    assert layer(h, structure, 0.0) is h


def test_band_fusion() -> None:
    fusion, h = band_fusion(), draw(2, 32, 6, 4)
    ll, detail = draw(2, 4, 6, 4, seed=2), draw(2, 12, 6, 4, seed=3)
    tamed = fusion(h, ll, detail)
    assert not torch.allclose(tamed, h, atol=0.01)
    assert torch.equal(fusion(h, ll, detail, 1.0), tamed)
    for strength in (0.5, 2.0):
        found = fusion(h, ll, detail, strength)
        assert torch.allclose(found, mixed(h, tamed, strength), atol=TOLERANCE)
    forbid(fusion)
    assert fusion(h, ll, detail, 0.0) is h


def test_modulate_is_the_sites_layer_at_that_strength() -> None:
    _, _, taming, _ = build_modules()
    site = taming.sites[0]
    h, structure = draw(1, 32, 4, 4), [draw(1, 32, 4, 4, seed=4)]
    tamed = taming.modulate(site, h, structure)
    assert torch.equal(taming.modulate(site, h, structure, 1.0), tamed)
    halfway = taming.modulate(site, h, structure, 0.5)
    assert torch.allclose(halfway, mixed(h, tamed, 0.5), atol=TOLERANCE)
    forbid(taming)
    assert taming.modulate(site, h, structure, 0.0) is h


@torch.no_grad()
def test_attached_unet_at_full_and_no_strength() -> None:
    unet, _, taming, _ = build_modules()
    untamed = unet(LATENT, STEPS, CONTEXT).sample
    with attach_unet_taming(unet, taming) as predict:
        tamed = predict(LATENT, STEPS, CONTEXT, LL)
    with attach_unet_taming(unet, taming, strength=1.0) as predict:
        assert torch.equal(predict(LATENT, STEPS, CONTEXT, LL), tamed)
    forbid(taming)
    with attach_unet_taming(unet, taming, strength=0.0) as predict:
        assert torch.equal(predict(LATENT, STEPS, CONTEXT, LL), untamed)
    assert not torch.allclose(tamed, untamed, atol=0.01)


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_attached_unet_mixes_at_every_site(strength: float) -> None:
    unet, _, taming, _ = build_modules()
    with attach_unet_taming(unet, taming, strength=strength) as predict:
        found = predict(LATENT, STEPS, CONTEXT, LL)
    structure = taming.structure_encoder(LL, STEPS)
    for site in taming.sites:

        def by_hand(_m: nn.Module, _i: object, h: Tensor, name: str = site.name,
                    level: int = site.level) -> Tensor:  # fmt: skip
            return mixed(h, taming.unet_sft[name](h, structure[level]), strength)

        unet.get_submodule(site.diffusers_path).register_forward_hook(by_hand)
    wanted = unet(LATENT, STEPS, CONTEXT).sample
    assert torch.allclose(found, wanted, atol=HOST_TOLERANCE)


@torch.no_grad()
def test_attached_decoder_at_full_and_no_strength() -> None:
    _, vae, _, taming = build_modules()
    latent = draw(1, 4, 8, 8)
    untamed = vae.decode(latent).sample
    with attach_decoder_taming(vae, taming) as decode:
        tamed = decode(latent, BANDS)
    with attach_decoder_taming(vae, taming, strength=1.0) as decode:
        assert torch.equal(decode(latent, BANDS), tamed)
    forbid(taming)
    with attach_decoder_taming(vae, taming, strength=0.0) as decode:
        assert torch.equal(decode(latent, BANDS), untamed)
    assert not torch.allclose(tamed, untamed, atol=0.01)


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_attached_decoder_mixes_at_every_site(strength: float) -> None:
    _, vae, _, taming = build_modules()
    latent = draw(1, 4, 8, 8)
    with attach_decoder_taming(vae, taming, strength=strength) as decode:
        found = decode(latent, BANDS)
    for site in DECODER_SITES:

        def by_hand(_m: nn.Module, inputs: tuple[Tensor, ...], level: int = site.level
                    ) -> tuple[Tensor, ...]:  # fmt: skip
            h, bands = inputs[0], (BANDS.ll[level - 1], BANDS.detail[level - 1])
            return (mixed(h, taming.fusion(level)(h, *bands), strength), *inputs[1:])

        vae.get_submodule(site.diffusers_path).register_forward_pre_hook(by_hand)
    assert torch.allclose(found, vae.decode(latent).sample, atol=HOST_TOLERANCE)


def test_the_engine_without_strength_is_the_host_alone(tmp_path: Path) -> None:
    host, taming = load_model(tmp_path)
    assert taming.unet is not None and taming.decoder is not None
    assert taming.prompt_embedding is not None
    forbid(taming.unet)
    forbid(taming.decoder)
    settings = SamplingSettings(steps=2, strength=0.0, decoder_strength=0.0)
    with (
        torch.inference_mode(),
        ready_engine(host, taming, device=CPU, dtype=torch.float32, settings=settings) as (s, d),
    ):
        latent = s(BANDS, 3)
        image = d(latent, BANDS)
    # The engine leaves the host channels-last, which decides the order of sums.
    noise = initial_noise((1, 4, 8, 8), 3).contiguous(memory_format=torch.channels_last)
    context = taming.prompt_embedding[None]
    with torch.inference_mode():
        wanted = sample_latent(lambda x, t: host.unet(x, t, context).sample, noise, steps=2)
        wanted = wanted / host.header.latent_scale
        assert torch.equal(latent, wanted)
        # Decoding runs in strips, with sums in another order than the host's own.
        torch.testing.assert_close(image, host.vae.decode(wanted).sample, atol=TOLERANCE, rtol=0)


def enhance_by_cli(tmp_path: Path, name: str, *options: object) -> Result:
    files = write_model(tmp_path / "model")
    arguments = [
        "enhance", tmp_path / "a.dng", "-o", tmp_path / name, "--host", files.host, "--taming",
        files.taming, "--ratio", 5, "--steps", 2, "--device", "cpu", "--dtype", "fp32", "--quiet",
    ]  # fmt: skip
    texts = [str(a) for a in (*arguments, *options)]
    return CliRunner().invoke(main, texts, catch_exceptions=False)


@pytest.mark.parametrize("pair", [(1.0, 1.0), (0.25, 1.0), (1.0, 0.25), (0.0, 2.0)])
def test_cli_options_reach_picture_and_settings(tmp_path: Path, pair: tuple[float, float]) -> None:
    write_test_dng(tmp_path / "a.dng", height=96, width=132)
    options = ["--strength", pair[0], "--decoder-strength", pair[1]]
    result = enhance_by_cli(tmp_path, "out", *options if pair != (1.0, 1.0) else ())
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "out" / "a.png") as picture:
        picture.load()
        stored = json.loads(picture.text["ldmsid"])  # type: ignore[attr-defined]
        found = np.asarray(picture)
    assert (stored["strength"], stored["decoder_strength"]) == pair

    host, taming = load_model(tmp_path / "model")
    pictures = {}
    for strengths in {pair, (1.0, 1.0), (pair[1], pair[0])}:
        settings = SamplingSettings(2, "dpmpp-2m", *strengths)
        with ready_engine(host, taming, device=CPU, dtype=torch.float32, settings=settings) as e:
            image = enhance(load_raw(tmp_path / "a.dng"), taming.header.input_recipe,
                            exposure_ratio=5.0, seed=0, sample=e[0], decode=e[1]).image  # fmt: skip
        pictures[strengths] = (image[0].movedim(0, -1) * 255.0).numpy()
    # Rounding to 8 bits, plus what another order of sums changes.
    assert np.abs(found - pictures[pair]).max() <= 0.5 + 0.01
    for strengths, other in pictures.items():
        assert strengths == pair or np.abs(found - other).max() > 2.0


@pytest.mark.parametrize("option", ["--strength", "--decoder-strength"])
@pytest.mark.parametrize(
    "value",
    [
        "-0.1",
        "2.01",
        "full",
        "nan",
    ],
)
def test_cli_refuses_strengths_out_of_range(tmp_path: Path, option: str, value: str) -> None:
    write_test_dng(tmp_path / "a.dng")
    result = enhance_by_cli(tmp_path, "out", f"{option}={value}")
    assert result.exit_code != 0
    named = option in result.stderr or option[2:].replace("-", "_") in result.stderr
    assert named and value in result.stderr
    assert not (tmp_path / "out").exists()


def test_default_settings_tame_fully() -> None:
    assert (SamplingSettings().strength, SamplingSettings().decoder_strength) == (1.0, 1.0)
