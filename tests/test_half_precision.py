"""float16 and bfloat16: attention in float32, and the module that first lost its numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import golden as g
from helpers import released_layout as r
from helpers.golden_half import CASES
from helpers.tiny_model import load_model
from torch import Tensor, nn
from torch.nn import functional

from ldmsid_core.errors import NonFiniteError
from ldmsid_core.hosts.engine import ready_engine
from ldmsid_core.hosts.host import Host
from ldmsid_core.hosts.precision import precise_output, upcast_attention
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.taming.checkpoint import Taming
from ldmsid_core.taming.watch import first_non_finite
from ldmsid_core.wavelet import SubBands, split_bands

HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The dtypes that attention was computed in."""
    seen: list[torch.dtype] = []
    real = functional.scaled_dot_product_attention

    def record(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> Tensor:
        seen.extend({query.dtype, key.dtype, value.dtype})
        return real(query, key, value, *rest, **named)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", record)
    return seen


def hooks(*networks: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for network in networks
        for module in network.modules()
    )


@torch.no_grad()
def outputs(weights: r.Weights, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 4, 8, 8, generator=generator).to(dtype)
    context = torch.randn(1, 7, weights.layout.context, generator=generator).to(dtype)
    noise = weights.unet(x, torch.tensor([500]), encoder_hidden_states=context).sample
    return noise, weights.vae.decode(x).sample


@pytest.mark.parametrize("is_second", [True, False])
def test_float16_attends_in_float32(attended: list[torch.dtype], is_second: bool) -> None:
    weights = r.build_weights(r.Layout(is_second=is_second, text_layers=0))
    exact = outputs(weights, torch.float32)
    attended.clear()
    networks = (weights.unet.half(), weights.vae.half())
    outputs(weights, torch.float16)
    assert set(attended) == {torch.float16}
    attended.clear()
    with upcast_attention(*networks):
        assert hooks(*networks)
        found = outputs(weights, torch.float16)
    # 15 transformers with two attentions each, the middle one among them; the VAE has one.
    assert set(attended) == {torch.float32} and len(attended) == 2 * 16 + 1
    assert not hooks(*networks)
    for rounded, right in zip(found, exact, strict=True):
        assert rounded.dtype == torch.float16
        # float16 keeps 11 bits; some sixty layers add up to less than a hundredth.
        assert (rounded.float() - right).abs().max() < 1e-2 * right.abs().max()
    outputs(weights, torch.float16)
    assert attended[-1] == torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_are_left_alone(attended: list[torch.dtype], dtype: torch.dtype) -> None:
    weights = r.build_weights(r.Layout(text_layers=0))
    networks = (weights.unet.to(dtype), weights.vae.to(dtype))
    plain = outputs(weights, dtype)
    with upcast_attention(*networks):
        assert not hooks(*networks)
        again = outputs(weights, dtype)
    assert set(attended) == {dtype}
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("dtype", HALVES)
def test_the_decoder_ends_in_float32(dtype: torch.dtype) -> None:
    vae = r.build_weights(r.Layout(text_layers=0)).vae.to(dtype)
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    with precise_output(vae), torch.no_grad():
        assert vae.decode(torch.zeros(1, 4, 8, 8, dtype=dtype)).sample.dtype == torch.float32
    assert not hooks(vae)
    after = vae.state_dict()
    assert all(after[k].dtype == dtype and torch.equal(after[k], v) for k, v in before.items())


def test_hooks_go_when_something_fails() -> None:
    weights = r.build_weights(r.Layout(text_layers=0))
    networks = (weights.unet.half(), weights.vae.half())
    with pytest.raises(KeyError), upcast_attention(*networks), precise_output(weights.vae):
        raise KeyError
    assert not hooks(*networks)
    with pytest.raises(KeyError):
        first_non_finite({"UNet": weights.unet}, lambda: {}["nothing"])
    assert not hooks(*networks)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_first_non_finite_names_the_module(value: float) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        first, second = nn.Linear(2, 2, bias=False), nn.Sequential(nn.Linear(2, 2, bias=False))
        for module in (first, second[0]):
            module.weight.fill_(1.0)
    networks = {"one": first, "two": second}

    def run() -> Tensor:
        return second(first(torch.ones(1, 2)))

    assert first_non_finite(networks, run) is None
    with torch.no_grad():
        second[0].weight[0, 0] = value
    assert first_non_finite(networks, run) == "two: 0"
    with torch.no_grad():
        first.weight[0, 0] = value
    assert first_non_finite(networks, run) == "one: "
    assert not hooks(first, second)


def bands() -> SubBands:
    generator = torch.Generator().manual_seed(1)
    return split_bands(torch.rand(1, 4, 64, 128, generator=generator) * 2.0 - 1.0, multiple=64)


@contextmanager
def engine(host: Host, taming: Taming, dtype: torch.dtype) -> Iterator[Any]:
    settings = SamplingSettings(steps=2)
    with (
        torch.inference_mode(),
        ready_engine(
            host, taming, device=torch.device("cpu"), dtype=dtype, settings=settings
        ) as calls,
    ):
        yield calls


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_near_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    results = {}
    for kind in (torch.float32, dtype):
        host, taming = load_model(tmp_path / str(kind))
        with engine(host, taming, kind) as (sample, decode):
            latent = sample(bands(), 0)
            results[kind] = (latent, decode(latent, bands()))
        assert not hooks(host.unet, host.vae)
    for found, right in zip(results[dtype], results[torch.float32], strict=True):
        assert torch.isfinite(found).all()
        # Two steps and a decode of random networks: bfloat16 keeps 8 bits, float16 11.
        limit = 0.1 if dtype == torch.bfloat16 else 0.02
        assert (found.float() - right.float()).abs().max() < limit * right.abs().max()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("part", "path", "named"),
    [
        ("unet", "up_blocks.1.attentions.0.proj_in", "UNet: up_blocks.1.attentions.0.proj_in"),
        ("unet taming", "unet_sft.middle_0.gamma", "UNet taming: unet_sft.middle_0.gamma"),
        ("vae", "decoder.mid_block.resnets.0.conv1", "VAE: decoder.mid_block.resnets.0.conv1"),
        ("decoder taming", "levels.2.shift.0", "decoder taming: levels.2.shift.0"),
    ],
)
def test_the_engine_names_the_module(
    tmp_path: Path, part: str, path: str, named: str, value: float
) -> None:
    host, taming = load_model(tmp_path)
    networks: dict[str, Any] = {
        "unet": host.unet, "vae": host.vae, "unet taming": taming.unet,
        "decoder taming": taming.decoder,
    }  # fmt: skip
    with torch.no_grad():
        networks[part].get_submodule(path).weight.view(-1)[0] = value
    with engine(host, taming, torch.float32) as (sample, decode):
        with pytest.raises(NonFiniteError) as caught:
            if part.startswith("unet"):
                sample(bands(), 0)
            else:
                decode(torch.ones(1, 4, 8, 16), bands())
        assert f"first in {named};" in str(caught.value)
        assert "--dtype bf16" in str(caught.value)
    assert not hooks(*networks.values())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_golden_half(case: str) -> None:
    g.load_golden("full")
    done = subprocess.run(
        [sys.executable, "-m", "helpers.golden_half", case],
        cwd=g.ROOT / "tests",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
