"""Parity with the reference vectors of the released implementation, whatever folder holds them.

Run another folder of the same form with `LDMSID_GOLDEN=... pytest tests -k golden`.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from helpers import golden as g
from helpers import released_hosts as hosts
from helpers.golden_full import CASES as FULL_CASES
from helpers.golden_units import constructor_arguments, residual_dual

from ldmsid_core.hosts.schedule import make_scheduler
from ldmsid_core.output.writers import quantise
from ldmsid_core.pipeline import to_unit_range
from ldmsid_core.raw.cfa import cfa_from_pattern, to_packed_order
from ldmsid_core.raw.packing import network_planes, normalise, pack_bayer
from ldmsid_core.taming import released
from ldmsid_core.taming.attach import attach_decoder_taming, attach_unet_taming
from ldmsid_core.taming.blocks import SelfAttention, timestep_embedding
from ldmsid_core.taming.fusion import BandFusion
from ldmsid_core.taming.sft import SftLayer
from ldmsid_core.taming.structure_encoder import StructureEncoder
from ldmsid_core.wavelet import haar_dwt2, split_bands

# Two float32 implementations of the same formulas differ by about 5e-6 of the largest value.
NETWORK = 2e-5
# Sums of four numbers: one float32 rounding.
EXACT = 1e-6
# The last bit of exp differs between CPUs (PyTorch uses MKL's): one bit of a frequency near 0.42
# turns an angle of 420 by 3e-5.
EMBEDDING = 1e-4
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated.*")


@pytest.fixture(autouse=True)
def _no_grad_and_no_trace_of_initial_weights() -> object:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        yield


def test_golden_recipe() -> None:
    vectors = g.load_golden("recipe")
    made = g.recipe()
    for name, wanted in vectors.tensors.items():
        kind, key = name.split(".", 1)
        call = made.param if kind == "param" else made.data
        found = torch.from_numpy(call(vectors.tag, key, tuple(wanted.shape)))
        assert torch.equal(found, wanted), name


def test_golden_dwt() -> None:
    vectors = g.load_golden("dwt")
    for name in {key.split(".")[0] for key in vectors.tensors}:
        x = vectors[f"{name}.in.x"]
        if f"{name}.out.y" in vectors.tensors:
            found = torch.cat(haar_dwt2(x), dim=1)
            g.assert_close(found, vectors[f"{name}.out.y"], EXACT, name)
            continue
        bands = split_bands(x, multiple=8)
        for index, size in enumerate((2, 4, 8)):
            ll, detail = vectors[f"{name}.out.x_LL_x{size}"], vectors[f"{name}.out.x_H_x{size}"]
            g.assert_close(bands.ll[index], ll, EXACT, f"{name} ll {size}")
            g.assert_close(bands.detail[index], detail, EXACT, f"{name} H {size}")


def test_golden_raw_synth() -> None:
    vectors = g.load_golden("raw_synth")
    for name, case in vectors.cases.items():
        pattern = torch.tensor(case["raw_pattern"])
        cfa = cfa_from_pattern(pattern.numpy(), "RGBG", file_name=name)
        mosaic = vectors[f"{name}.in.bayer"][None].float()
        black = to_packed_order(case["black_level_per_channel"], pattern.numpy(), cfa)
        packed = normalise(
            pack_bayer(mosaic, cfa=cfa), black_level=black, white_level=case["white_level"]
        )
        g.assert_close(packed[0], vectors[f"{name}.out.packed"], EXACT, name)
        prefix = f"{name}.out.input_x"
        for key in [k for k in vectors.tensors if k.startswith(prefix)]:
            found = network_planes(packed, exposure_ratio=float(key[len(prefix) :]))
            g.assert_close(found, vectors[key], EXACT, key)


def test_golden_units() -> None:
    vectors = g.load_golden("units")
    checked = 0
    for name, case in vectors.cases.items():
        state = g.weights(vectors.tag, case["manifest"], case["variant"])
        ctor, prefix = constructor_arguments(case["ctor"]), f"{case['module']}."
        kind = case["module"].split(".")[-1]
        if kind == "sft":
            hidden = state[f"{prefix}mlp_shared.0.bias"].shape[0]
            sft = SftLayer(
                ctor["norm_nc"], features=ctor["label_nc"], hidden=hidden, normalise=True
            )
            hosts.load_renamed(sft, state, released.sft_names(prefix))
            found = sft(vectors[f"{name}.in.x"], vectors[f"{name}.in.cond"])
        elif kind == "encattn":
            attention = SelfAttention(ctor["channels"], heads=ctor["num_heads"])
            hosts.load_renamed(attention, state, released.attention_names(prefix))
            found = attention(vectors[f"{name}.in.x"])
        elif kind == "fuse":
            low, high = vectors[f"{name}.in.L"], vectors[f"{name}.in.H"]
            fusion = BandFusion(
                ctor["out_ch"], ll_channels=low.shape[1], detail_channels=high.shape[1]
            )
            hosts.load_renamed(fusion, state, released.fusion_names(prefix))
            found = fusion(vectors[f"{name}.in.dec"], low, high)
        elif kind == "resdual":
            found = residual_dual(ctor, case, vectors, name, state)
        else:
            continue
        g.assert_close(found, vectors[f"{name}.out.y"], NETWORK, name)
        checked += 1
    assert checked


def _encoder(tag: str, config: dict[str, object], name: str, variant: str) -> StructureEncoder:
    state = g.weights(tag, g.manifest(f"ckpt_unet_{name}"), variant)
    unet = {"model_channels": 32, "channel_mult": config["channel_mult"], "num_res_blocks": 1}
    full = hosts.taming_config(config, unet, state)
    with torch.device("meta"):
        encoder = StructureEncoder(full.encoder)
    ours = "structure_encoder."
    names = {
        k: v[len(ours) :] for k, v in released.encoder_names(full).items() if v.startswith(ours)
    }
    hosts.load_renamed(encoder, state, names)
    return encoder


def test_golden_encoder() -> None:
    vectors = g.load_golden("encoder")
    for name, case in vectors.cases.items():
        config = vectors.metadata["config"][case["config"]]
        encoder = _encoder(vectors.tag, config, case["config"], case["variant"])
        found = encoder(vectors[f"{name}.in.x"], vectors[f"{name}.in.t"])
        for feature, size in zip(found, case["out_order"], strict=True):
            g.assert_close(feature, vectors[f"{name}.out.{size}"], NETWORK, f"{name} {size}")


def test_golden_unet() -> None:
    vectors = g.load_golden("unet")
    for name, case in vectors.cases.items():
        encoder = vectors.metadata["encoder_config"][case["config"]]
        unet_config = vectors.metadata["unet_config"][case["config"]]
        keys = g.manifest(f"ckpt_unet_{case['config']}")
        state = g.weights(vectors.tag, keys, case["variant"])
        if case["variant"] == "smallres":  # the reference's encoder kept the unit weights there
            mine = {k: v for k, v in keys.items() if k.startswith(released.ENCODER_PREFIX)}
            state.update(g.weights(vectors.tag, mine, "unit"))
        taming = hosts.build_taming(hosts.taming_config(encoder, unet_config, state), state)
        unet = hosts.build_unet(unet_config, state)
        with attach_unet_taming(unet, taming) as predict:
            found = predict(
                vectors[f"{name}.in.x"],
                vectors[f"{name}.in.t"],
                vectors[f"{name}.in.context"],
                vectors[f"{name}.in.struct_x"],
            )
        g.assert_close(found, vectors[f"{name}.out.eps"], NETWORK, name)


@pytest.mark.parametrize("size", ["small", "full"])
def test_golden_decoder(size: str) -> None:
    vectors = g.load_golden(f"decoder_{size}")
    for name, case in vectors.cases.items():
        keys = g.manifest(f"ckpt_vae_{case['config']}")
        vae, taming = hosts.build_decoder(g.weights(vectors.tag, keys, case["variant"]))
        with attach_decoder_taming(vae, taming) as decode:
            found = decode(
                vectors[f"{name}.in.z"], split_bands(vectors[f"{name}.in.raw"], multiple=8)
            )
        g.assert_close(found, vectors[f"{name}.out.image"], NETWORK, f"{size} {name}")


def test_golden_schedule() -> None:
    vectors = g.load_golden("schedule")
    ddim = make_scheduler("ddim-released")
    wanted = vectors["alphas_cumprod"]
    g.assert_close(ddim.alphas_cumprod, wanted, EXACT, "alphas_cumprod")
    for key, value in vectors.tensors.items():
        head = key.split(".")[0]
        if head.startswith("ddim"):
            ddim.set_timesteps(int(head[4:]))
            assert torch.equal(ddim.timesteps, value), key
        elif key.startswith("temb.") and key != "temb.t":
            found = timestep_embedding(vectors["temb.t"], int(key[5:]))
            g.assert_close(found, value, EMBEDDING, key)
        elif key.endswith("ori_timesteps"):
            _check_ddpm(vectors, head)


def _check_ddpm(vectors: g.Golden, head: str) -> None:
    """One step of the ancestral sampler from an impulse in x and in eps, and its variance."""
    ddpm = make_scheduler("ddpm-released")
    ddpm.set_timesteps(int(head[4:]))
    assert torch.equal(ddpm.timesteps.flip(0), vectors[f"{head}.ori_timesteps"]), head
    part = {k.split(".", 1)[1]: v for k, v in vectors.tensors.items() if k.startswith(head + ".")}
    coef1, coef2 = part["posterior_mean_coef1"], part["posterior_mean_coef2"]
    recip, recipm1 = part["sqrt_recip_alphas_cumprod"], part["sqrt_recipm1_alphas_cumprod"]
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    from_x, from_eps, log_variance = [], [], []
    for step in ddpm.timesteps.flip(0):
        noise = torch.randn(1, 1, generator=torch.Generator().manual_seed(0))
        added = noise * ddpm._get_variance(step) ** 0.5 if step > 0 else zero
        for sample, eps, into in ((one, zero, from_x), (zero, one, from_eps)):
            generator = torch.Generator().manual_seed(0)
            into.append(ddpm.step(eps, step, sample, generator=generator).prev_sample - added)
        log_variance.append(torch.as_tensor(ddpm._get_variance(step)).log().reshape(1))
    g.assert_close(torch.cat(from_x)[:, 0], coef1 * recip + coef2, NETWORK, f"{head} x")
    g.assert_close(torch.cat(from_eps)[:, 0], -coef1 * recipm1, NETWORK, f"{head} eps")
    wanted = part["posterior_log_variance_clipped"]
    g.assert_close(torch.cat(log_variance)[1:], wanted[1:], NETWORK, f"{head} variance")


def test_golden_pipeline() -> None:
    vectors = g.load_golden("pipeline")
    described = g.load_golden("unet")
    for name, case in vectors.cases.items():
        config, variant = case["config"], case.get("variant", "unit")
        encoder = described.metadata["encoder_config"][config]
        unet_config = described.metadata["unet_config"][config]
        state = g.weights(vectors.tag, g.manifest(f"ckpt_unet_{config}"), variant)
        taming = hosts.build_taming(hosts.taming_config(encoder, unet_config, state), state)
        unet = hosts.build_unet(unet_config, state)
        vae, decoder = hosts.build_decoder(
            g.weights(vectors.tag, g.manifest(f"ckpt_vae_{config}"), variant)
        )
        bands = split_bands(vectors[f"{name}.in.raw"], multiple=8)
        latent, context = vectors[f"{name}.in.x_T"], vectors[f"{name}.in.context"]
        ddim = make_scheduler("ddim-released")
        ddim.set_timesteps(case["steps"])
        assert torch.equal(ddim.timesteps, vectors[f"{name}.out.timesteps"])
        with attach_unet_taming(unet, taming) as predict:
            for index, step in enumerate(ddim.timesteps):
                batch = step.expand(latent.shape[0])
                eps = predict(latent, batch, context, bands.structure_input)
                g.assert_close(eps, vectors[f"{name}.out.eps"][index], NETWORK, f"eps {index}")
                latent = ddim.step(eps, step, latent).prev_sample
                wanted = vectors[f"{name}.out.latents"][index]
                g.assert_close(latent, wanted, NETWORK, f"latent {index}")
        with attach_decoder_taming(vae, decoder) as decode:
            image = decode(latent / case["scale_factor"], bands)
        g.assert_close(image, vectors[f"{name}.out.image"], NETWORK, "image")
        for found, wanted in zip(image, vectors[f"{name}.out.rgb_u8"], strict=True):
            cut = quantise(to_unit_range(found[None]), bits=8, rounding="released")
            difference = (torch.from_numpy(cut).int() - wanted.int()).abs()
            assert difference.max() <= 1 and (difference > 0).float().mean() <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("part", FULL_CASES)
def test_golden_full(part: str) -> None:
    g.load_golden("full")
    done = subprocess.run(
        [sys.executable, "-m", "helpers.golden_full", part],
        cwd=g.ROOT / "tests",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
