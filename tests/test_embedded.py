"""The embedded model: its files, its shape, and that it does what the README says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ldmsid_core.cli_evaluate import simulated_raw
from ldmsid_core.cli_synth import dark_counts
from ldmsid_core.evaluation.metrics import psnr_rgb, ssim_rgb
from ldmsid_core.evaluation.sheet import to_float_image
from ldmsid_core.hosts.engine import ready_engine
from ldmsid_core.hosts.host import Host, load_host
from ldmsid_core.model_files import EMBEDDED
from ldmsid_core.pipeline import enhance
from ldmsid_core.raw.develop import develop_amplified
from ldmsid_core.taming.checkpoint import Taming, load_taming
from ldmsid_core.training.photographs import load_photograph


@pytest.fixture(scope="module")
def model() -> tuple[Host, Taming]:
    return load_host(EMBEDDED.host), load_taming(EMBEDDED.taming)


def test_files_are_small_and_belong_together(model: tuple[Host, Taming]) -> None:
    host, taming = model
    size = EMBEDDED.host.stat().st_size + EMBEDDED.taming.stat().st_size
    assert size <= 40_000_000
    assert taming.header.host_sha256 == host.sha256
    assert taming.header.licence == host.header.licence == "Apache-2.0"
    assert taming.unet is not None and len(taming.unet.sites) == 22
    card = Path(EMBEDDED.host).with_name("MODEL_CARD.md").read_text(encoding="utf-8")
    assert host.sha256 in card


def test_widths_fit_comfyui(model: tuple[Host, Taming]) -> None:
    """ComfyUI describes a UNet by its first width and whole multiples of it."""
    host, _ = model
    for widths in (host.header.unet["block_out_channels"], host.header.vae["block_out_channels"]):
        assert all(width % 32 == 0 and width % widths[0] == 0 for width in widths)
    heads = zip(
        host.header.unet["block_out_channels"], host.header.unet["attention_head_dim"], strict=True
    )
    assert len({width // count for width, count in heads}) == 1
    assert host.header.unet["down_block_types"][0] == "DownBlock2D"
    assert host.vae.decoder.mid_block.attentions[0] is not None


def _results(model: tuple[Host, Taming], ratio: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    photograph = load_photograph("astronaut")[:192, 100:356]
    raw = simulated_raw(dark_counts(photograph, ratio=ratio, iso=1600.0, seed=0), "astronaut")
    host, taming = model
    recipe = taming.header.input_recipe
    with ready_engine(host, taming, device=torch.device("cpu"), dtype=torch.float32) as (s, d):
        found = enhance(raw, recipe, exposure_ratio=ratio, seed=seed, sample=s, decode=d).image
    amplified = develop_amplified(raw, exposure_ratio=ratio)
    truth = np.asarray(photograph, dtype=np.float32) / np.float32(255.0)
    return to_float_image(found), to_float_image(amplified), truth


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [100.0, 300.0])
def test_a_dark_photograph_comes_out_bright_clean_and_coloured(
    model: tuple[Host, Taming], ratio: float
) -> None:
    found, amplified, truth = _results(model, ratio)
    assert psnr_rgb(found, truth) > psnr_rgb(amplified, truth) + 5.0
    assert ssim_rgb(found, truth) > ssim_rgb(amplified, truth) + 0.2
    # Colour: the orange suit below, the grey background above, within a tenth of the range.
    for area in (np.s_[150:190, 10:50], np.s_[10:40, 10:60]):
        difference = found[area].mean(axis=(0, 1)) - truth[area].mean(axis=(0, 1))
        assert np.abs(difference).max() < 0.1


@pytest.mark.slow
def test_another_seed_gives_nearly_the_same_picture(model: tuple[Host, Taming]) -> None:
    first, _, truth = _results(model, 250.0)
    other, _, _ = _results(model, 250.0, seed=1)
    assert not np.array_equal(first, other)
    assert psnr_rgb(first, other) > psnr_rgb(first, truth)
