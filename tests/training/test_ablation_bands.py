"""Rescaling instead of the wavelet: values, headers, both ways in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.tiny_model import TAMING_HEADER, build_modules, load_model

from ldmsid_core.band_views import amplified_low_band
from ldmsid_core.errors import ConfigError, ShapeError
from ldmsid_core.model_files import SAMPLE_RAW
from ldmsid_core.pipeline import RawBands, prepare_bands
from ldmsid_core.raw.loader import load_raw
from ldmsid_core.taming.attach import attach_decoder_taming, attach_unet_taming
from ldmsid_core.taming.header import InputRecipe, TamingHeader
from ldmsid_core.training.export import no_change_decoder, no_change_unet
from ldmsid_core.wavelet import make_bands, rescale_bands, split_bands


def _planes(height: int = 128, width: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 4, height, width, generator=generator) * 2.0 - 1.0


def test_rescaled_bands_are_means_and_no_detail() -> None:
    planes = _planes()
    found, wavelet = rescale_bands(planes), split_bands(planes)
    for level in range(3):
        side = 2 ** (level + 1)
        means = planes.reshape(2, 4, 128 // side, side, 64 // side, side).mean(dim=(3, 5))
        torch.testing.assert_close(found.ll[level], means, atol=1e-6, rtol=0)
        # The wavelet's low band is the same picture, doubled at each level.
        torch.testing.assert_close(found.ll[level] * side, wavelet.ll[level], atol=1e-5, rtol=0)
        assert found.detail[level].shape == wavelet.detail[level].shape
        assert not found.detail[level].any()


def test_rescaling_pads_and_refuses_as_the_wavelet_does() -> None:
    odd = _planes(70, 45)
    found, wavelet = make_bands(odd, "rescale"), make_bands(odd, "dwt")
    assert found.content_size == wavelet.content_size == (70, 45)
    assert [b.shape for b in found.ll] == [b.shape for b in wavelet.ll]
    with pytest.raises(ShapeError, match="packed planes"):
        rescale_bands(odd[:, :3])


def test_a_header_without_the_setting_means_the_wavelet() -> None:
    values = json.loads(TAMING_HEADER.to_json())
    assert values["input_recipe"].pop("bands") == "dwt"
    assert TamingHeader.from_json(json.dumps(values), source="x") == TAMING_HEADER
    values["input_recipe"]["bands"] = "rescale"
    found = TamingHeader.from_json(json.dumps(values), source="x")
    assert found.input_recipe.bands == "rescale"
    with pytest.raises(ConfigError, match="'dwt' or 'rescale', found 'fft'"):
        InputRecipe(bands="fft")  # type: ignore[arg-type]


def test_both_ways_in_split_as_the_recipe_says() -> None:
    raw = load_raw(SAMPLE_RAW)
    recipes = [InputRecipe("as shot", bands=kind) for kind in ("dwt", "rescale")]  # type: ignore[arg-type]
    kept = RawBands(raw)
    for recipe in recipes:
        direct = prepare_bands(raw, recipe, exposure_ratio=raw.exposure_ratio)
        nodes = kept.for_recipe(recipe)
        assert torch.equal(direct.structure_input, nodes.structure_input)
        assert bool(direct.detail[0].any()) is (recipe.bands == "dwt")
    low = [amplified_low_band(kept.for_recipe(recipe), raw, recipe) for recipe in recipes]
    torch.testing.assert_close(low[0], low[1], atol=1e-4, rtol=0)


def test_stand_ins_of_an_untamed_half_change_nothing(tmp_path: Path) -> None:
    host, taming = load_model(tmp_path)
    assert taming.unet is not None and taming.decoder is not None
    generator = torch.Generator().manual_seed(0)
    latent, low = (torch.randn(1, 4, 16, 16, generator=generator) for _ in range(2))
    context, timestep = torch.zeros(1, 77, 16), torch.tensor([500])
    bands = split_bands(_planes(128, 128)[:1])
    with torch.no_grad():
        plain = host.unet(latent, timestep, encoder_hidden_states=context).sample
        with attach_unet_taming(host.unet, no_change_unet(taming.unet.config)) as predict:
            assert torch.equal(predict(latent, timestep, context, low), plain)
        picture = host.vae.decode(latent).sample
        with attach_decoder_taming(host.vae, no_change_decoder(taming.decoder)) as decode:
            assert torch.equal(decode(latent, bands), picture)


def test_a_stand_in_is_always_the_same() -> None:
    config = build_modules()[2].config
    first, second = (no_change_unet(config).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
