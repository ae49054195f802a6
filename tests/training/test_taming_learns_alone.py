"""Only taming learns: gradients, optimiser state and the host's weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_model import build_modules
from helpers.training_runs import decoder_stage, same_weights, settings, unet_stage

from ldmsid_core.errors import ConfigError, HostMismatchError
from ldmsid_core.taming.sft import SftLayer
from ldmsid_core.training.learning import (
    check_only_taming_learns,
    set_trainable,
    unchanged_hosts,
    weights_sha256,
)


def test_gradients_reach_all_of_taming_and_nothing_of_the_host(tmp_path: Path) -> None:
    taming, unet, vae = unet_stage(tmp_path, settings(steps=1))
    fresh = build_modules()
    assert all(p.grad is not None for p in taming.parameters())
    for host, before in ((unet, fresh[0]), (vae, fresh[1])):
        assert all(p.grad is None and not p.requires_grad for p in host.parameters())
        assert same_weights(host, before)
    state = torch.load(tmp_path / "s.state.pt")["optimiser"]["state"]
    assert len(state) == len(list(taming.parameters()))
    held = sum(entry["exp_avg"].numel() for entry in state.values())
    assert held == sum(p.numel() for p in taming.parameters())


def test_the_decoders_taming_learns_alone_too(tmp_path: Path) -> None:
    taming, vae = decoder_stage(tmp_path, settings(steps=1))
    assert all(p.grad is not None for p in taming.parameters())
    assert all(p.grad is None for p in vae.parameters())
    assert same_weights(vae, build_modules()[1])


def test_a_host_that_would_learn_is_refused() -> None:
    unet, vae, taming, _ = build_modules()
    set_trainable(taming, trainable=True)
    check_only_taming_learns(taming, unet, vae)
    vae.get_parameter("decoder.conv_in.weight").requires_grad_(True)
    with pytest.raises(ConfigError, match=r"decoder\.conv_in\.weight of the AutoencoderKL would"):
        check_only_taming_learns(taming, unet, vae)


def test_frozen_or_shared_taming_is_refused() -> None:
    unet, _, taming, decoder = build_modules()
    with pytest.raises(ConfigError, match="Expected all of UNetTaming to learn"):
        check_only_taming_learns(taming, unet)
    set_trainable(decoder, trainable=True)
    with pytest.raises(ConfigError, match="would learn"):
        check_only_taming_learns(decoder, decoder)


def test_a_changed_host_is_told_after_the_stage() -> None:
    _, vae, _, _ = build_modules()
    with unchanged_hosts("s", vae):
        pass
    with (
        pytest.raises(HostMismatchError, match="changed in stage s"),
        unchanged_hosts("s", vae),
        torch.no_grad(),
    ):
        vae.get_parameter("decoder.conv_out.bias")[1] += 1e-6


def test_a_checksum_is_of_names_types_and_bytes() -> None:
    module = torch.nn.Module()
    module.register_parameter("a", torch.nn.Parameter(torch.tensor([1.0, 2.0])))
    digest = hashlib.sha256(b"a torch.float32 (2,)" + torch.tensor([1.0, 2.0]).numpy().tobytes())
    assert weights_sha256(module) == digest.hexdigest()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_hosts_feature_of_any_layout_passes_the_first_norm(layout: Any) -> None:
    """PyTorch's GroupNorm crashes the process where this is not kept from it."""
    with torch.random.fork_rng(devices=[]):
        layer = SftLayer(64, features=8, hidden=8, normalise=True)
        h, structure = torch.randn(2, 64, 8, 8), torch.randn(2, 8, 8, 8)
    layer(h.contiguous(memory_format=layout), structure).pow(2).sum().backward()
    gradient = layer.get_parameter("norm.weight").grad
    layer.zero_grad()
    layer(h, structure).pow(2).sum().backward()
    again = layer.get_parameter("norm.weight").grad
    assert gradient is not None and again is not None and torch.equal(gradient, again)
