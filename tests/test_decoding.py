"""Exact decoding layer by layer against the host's own forward pass with taming attached."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from helpers import golden as g
from helpers import released_hosts as hosts
from helpers.decoders import (
    assert_near,
    build_decoder,
    frame_decoder,
    original_tree,
    random_frame,
)
from torch import Tensor, nn
from torch.nn import functional

from ldmsid_core.decoding.bands import HalfCache
from ldmsid_core.decoding.layers import STRIP, Layers, format_on, strip_on, strip_within
from ldmsid_core.decoding.modules import find_decoder
from ldmsid_core.decoding.norms import FrameNorms
from ldmsid_core.errors import HostMismatchError
from ldmsid_core.hosts.schedule import make_scheduler
from ldmsid_core.taming.attach import attach_decoder_taming, attach_unet_taming
from ldmsid_core.taming.fusion import DecoderTaming
from ldmsid_core.wavelet import SubBands, split_bands
from ldmsid_core.work import count_work

# Two float32 implementations, sums in another order, through some twenty layers.
SAME = 1e-4
# As for the golden vectors everywhere.
NETWORK = 2e-5


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture(scope="module")
def model() -> tuple[nn.Module, DecoderTaming]:
    return build_decoder()


Model = tuple[nn.Module, DecoderTaming]


def by_hooks(model: Model, latent: Tensor, bands: SubBands, strength: float = 1.0) -> Tensor:
    with attach_decoder_taming(*model, strength=strength) as decode:
        return decode(latent, bands)


@pytest.mark.parametrize("size", [(1, 9), (5, 1), (9, 13), (17, 11), (8, 16)])
def test_exact_is_the_hosts_own_decode_whatever_the_strip(
    model: Model, size: tuple[int, int]
) -> None:
    latent, bands = random_frame(*size)
    wanted = by_hooks(model, latent, bands)
    for strip in (1, 100, 333, 1 << 14):
        found = frame_decoder(*model, strip=strip).exact(latent, bands)
        assert found.dtype == torch.float32
        assert_near(found, wanted, SAME, f"{size} in strips of {strip}")


@pytest.mark.parametrize("strength", [0.25, 0.5, 2.0])
def test_strength(model: Model, strength: float) -> None:
    latent, bands = random_frame(9, 13)
    found = frame_decoder(*model, strength=strength).exact(latent, bands)
    assert_near(found, by_hooks(model, latent, bands, strength), SAME)
    assert not torch.allclose(found, by_hooks(model, latent, bands), atol=0.01)


def test_without_taming_it_is_the_plain_decode(model: Model) -> None:
    latent, bands = random_frame(9, 13)
    vae, taming = model
    wanted = vae.decode(latent).sample
    for plain in (frame_decoder(vae, None), frame_decoder(vae, taming, strength=0.0)):
        assert_near(plain.exact(latent, bands), wanted, SAME)
        assert not plain.network.is_tamed
    assert frame_decoder(vae, taming).network.is_tamed


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_original_layout_gives_the_same(model: Model, strength: float) -> None:
    latent, bands = random_frame(9, 13)
    vae, taming = model
    tree = original_tree(vae)
    found = frame_decoder(tree, taming, strength=strength, strip=200).exact(latent, bands)
    assert_near(found, by_hooks(model, latent, bands, strength), SAME)
    shapes = [
        [tuple(p.shape) for block in find_decoder(v).residuals() for p in block.conv1.parameters()]
        for v in (vae, tree)
    ]
    assert shapes[0] == shapes[1]


def test_other_decoders_are_refused(model: Model) -> None:
    tree = original_tree(model[0])
    del tree.decoder.mid.attn_1  # type: ignore[union-attr,operator]
    with pytest.raises(HostMismatchError, match=r"Stable Diffusion 1\.x or 2\.x, found another"):
        find_decoder(tree)
    tree = original_tree(model[0])
    del tree.decoder.up[3].upsample  # type: ignore[union-attr,operator,index]
    with pytest.raises(HostMismatchError, match="enlarges 8 times, found 4 times"):
        find_decoder(tree)


@pytest.fixture
def convolutions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Input channels of all convolutions that run."""
    seen: list[int] = []
    real = functional.conv2d

    def counted(x: Tensor, *rest: object, **named: object) -> Tensor:
        seen.append(x.shape[1])
        return real(x, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(functional, "conv2d", counted)
    return seen


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_second_decode_of_the_same_bands_needs_half(
    model: Model, strength: float, convolutions: list[int]
) -> None:
    first, bands = random_frame(5, 7)
    halves: HalfCache = {}
    counts, flops = [], []
    for latent in (first, first.flip(-1), 2.0 * first):
        wanted = by_hooks(model, latent, bands, strength)
        convolutions.clear()
        found = []
        decoder = frame_decoder(*model, strength=strength, strip=100)
        work = count_work(lambda: found.append(decoder.exact(latent, bands, halves)))  # noqa: B023
        counts.append(len(convolutions))
        flops.append(work.flops)
        assert_near(found[0], wanted, SAME)
        assert set(halves) == {(level, name) for level in (1, 2, 3) for name in ("low", "high")}
    assert counts[0] > counts[1] == counts[2]
    plain = count_work(lambda: frame_decoder(*model, strip=100).exact(first, bands)).flops
    assert flops[0] <= 1.01 * plain and flops[1] == flops[2] < 0.8 * plain


def test_halves_of_one_strength_serve_another(model: Model) -> None:
    latent, bands = random_frame(9, 13)
    halves: HalfCache = {}
    for strength in (1.0, 0.5, 2.0):
        decoder = frame_decoder(*model, strength=strength)
        found = decoder.exact(latent, bands, halves)
        assert_near(found, by_hooks(model, latent, bands, strength), SAME)


def test_nothing_is_hooked_or_changed(model: Model) -> None:
    vae, taming = model
    latent, bands = random_frame(8, 16)
    latent = latent.contiguous(memory_format=torch.channels_last)
    given = [latent, *bands.ll, *bands.detail]
    before = [x.clone() for x in given]
    kept = [copy.deepcopy(m.state_dict()) for m in model]
    decoder = frame_decoder(vae, taming)
    first = decoder.exact(latent, bands)
    assert torch.equal(decoder.exact(latent, bands), first)
    decoder.bounded(latent, bands, 64)
    for found, wanted in zip(given, before, strict=True):
        assert torch.equal(found, wanted)
    for module, state in zip(model, kept, strict=True):
        found = module.state_dict()
        assert list(found) == list(state)
        assert all(torch.equal(found[key], value) for key, value in state.items())
        for layer in module.modules():
            assert not layer._forward_hooks and not layer._forward_pre_hooks


class Stop(Exception):  # noqa: N818  an interruption is no error
    """What a host raises from a progress call."""


@pytest.mark.parametrize("mode", ["exact", "bounded"])
@pytest.mark.parametrize("strength", [1.0, 0.0])
def test_reported_parts_add_up_to_one(model: Model, mode: str, strength: float) -> None:
    parts: list[float] = []
    for size, strip in (((9, 13), 1 << 14), ((9, 13), 77), ((3, 70), 99)):
        parts.clear()
        decoder = frame_decoder(*model, strength=strength, strip=strip, report=parts.append)
        latent, bands = random_frame(*size)
        _ = decoder.exact(latent, bands) if mode == "exact" else decoder.bounded(latent, bands, 64)
        assert sum(parts) == pytest.approx(1.0, abs=1e-6)
        assert min(parts) > 0 and max(parts) < 0.2


@pytest.mark.parametrize("mode", ["exact", "bounded"])
def test_an_interruption_escapes_and_leaves_all_usable(model: Model, mode: str) -> None:
    latent, bands = random_frame(4, 70)

    def decode(report: object) -> Tensor:
        decoder = frame_decoder(*model, report=report)
        if mode == "exact":
            return decoder.exact(latent, bands)
        return decoder.bounded(latent, bands, 64)

    wanted = decode(lambda _part: None)
    for limit in (0.0, 0.6):
        done = [0.0]

        def stop(part: float, limit: float = limit, done: list[float] = done) -> None:
            done[0] += part
            if done[0] > limit:
                raise Stop

        with pytest.raises(Stop):
            decode(stop)
        assert done[0] < limit + 0.1
        assert torch.equal(decode(lambda _part: None), wanted)


@pytest.mark.parametrize("size", ["small", pytest.param("full", marks=pytest.mark.slow)])
def test_golden_decoder(size: str) -> None:
    vectors = g.load_golden(f"decoder_{size}")
    for name, case in vectors.cases.items():
        keys = g.manifest(f"ckpt_vae_{case['config']}")
        model = hosts.build_decoder(g.weights(vectors.tag, keys, case["variant"]))
        latents = vectors[f"{name}.in.z"]
        bands = split_bands(vectors[f"{name}.in.raw"], multiple=8)
        decoder = frame_decoder(*model, strip=500)
        found = [decoder.exact(z[None], bands.one(i)) for i, z in enumerate(latents)]
        g.assert_close(torch.cat(found), vectors[f"{name}.out.image"], NETWORK, f"{size} {name}")


def test_golden_pipeline() -> None:
    vectors, described = g.load_golden("pipeline"), g.load_golden("unet")
    for name, case in vectors.cases.items():
        config, variant = case["config"], case.get("variant", "unit")
        encoder = described.metadata["encoder_config"][config]
        unet_config = described.metadata["unet_config"][config]
        state = g.weights(vectors.tag, g.manifest(f"ckpt_unet_{config}"), variant)
        taming = hosts.build_taming(hosts.taming_config(encoder, unet_config, state), state)
        unet = hosts.build_unet(unet_config, state)
        keys = g.manifest(f"ckpt_vae_{config}")
        decoder = frame_decoder(*hosts.build_decoder(g.weights(vectors.tag, keys, variant)))
        bands = split_bands(vectors[f"{name}.in.raw"], multiple=8)
        latent, context = vectors[f"{name}.in.x_T"], vectors[f"{name}.in.context"]
        ddim = make_scheduler("ddim-released")
        ddim.set_timesteps(case["steps"])
        with attach_unet_taming(unet, taming) as predict:
            for step in ddim.timesteps:
                batch = step.expand(latent.shape[0])
                eps = predict(latent, batch, context, bands.structure_input)
                latent = ddim.step(eps, step, latent).prev_sample
        latent = latent / case["scale_factor"]
        found = [decoder.exact(z[None], bands.one(i)) for i, z in enumerate(latent)]
        g.assert_close(torch.cat(found), vectors[f"{name}.out.image"], NETWORK, name)


def test_strips_suit_the_device() -> None:
    assert strip_on(torch.device("cpu"), torch.bfloat16) == STRIP
    sizes = [strip_within(free, torch.bfloat16) for free in (10**9, 6 * 10**9, 2 * 10**10, 10**11)]
    assert sizes == [STRIP, 1 << 26, 1 << 28, 1 << 29]
    assert strip_within(2 * 10**10, torch.float32) == 1 << 27


def test_features_lie_as_suits_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    half, full, last = torch.bfloat16, torch.float32, torch.channels_last
    cuda = torch.device("cuda")
    assert format_on(torch.device("cpu"), half) == format_on(torch.device("cpu"), full) == last
    assert format_on(torch.device("mps"), half) == torch.contiguous_format
    monkeypatch.setattr(torch.version, "hip", None)
    assert (format_on(cuda, half), format_on(cuda, full)) == (last, torch.contiguous_format)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert format_on(cuda, half) == torch.contiguous_format


@pytest.mark.parametrize("strip", [1, 100, 1 << 20])
def test_a_layer_in_one_strip_is_not_copied(strip: int) -> None:
    made: list[Tensor] = []

    def compute(top: int, bottom: int) -> Tensor:
        made.append(torch.full((1, 2, bottom - top, 9), float(top)))
        return made[-1]

    layers, out = Layers(FrameNorms(), strip=strip), torch.zeros(1, 2, 7, 9)
    for run in (layers.fill, partial(layers.make, channels=2)):
        made.clear()
        found = run(out, compute=compute)
        assert torch.equal(found, torch.cat(made, dim=2))
        assert (found is made[0]) == (len(made) == 1) == (strip == 1 << 20)
