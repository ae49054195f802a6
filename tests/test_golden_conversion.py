"""Converted recipe weights reproduce the reference vectors, whatever folder holds them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import golden as g
from helpers import golden_conversion as c
from helpers import released_hosts as hosts

from ldmsid_core.hosts.schedule import make_scheduler
from ldmsid_core.taming.attach import attach_unet_taming
from ldmsid_core.taming.released import ENCODER_PREFIX
from ldmsid_core.wavelet import split_bands

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated.*")


@pytest.fixture(autouse=True)
def _no_grad_and_no_trace_of_initial_weights() -> object:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        yield


def test_golden_converted_unet(tmp_path: Path) -> None:
    vectors = g.load_golden("unet")
    for name, case in vectors.cases.items():
        size = case["config"]
        keys = g.manifest(f"ckpt_unet_{size}")
        state = g.weights(vectors.tag, keys, case["variant"])
        if case["variant"] == "smallres":  # the reference's encoder kept the unit weights there
            mine = {k: v for k, v in keys.items() if k.startswith(ENCODER_PREFIX)}
            state.update(g.weights(vectors.tag, mine, "unit"))
        heads = c.encoder_heads(vectors.metadata["encoder_config"][size])
        taming = c.convert_states(tmp_path, unet=state, heads=heads)
        assert taming.unet is not None
        unet = hosts.build_unet(vectors.metadata["unet_config"][size], state)
        with attach_unet_taming(unet, taming.unet) as predict:
            found = predict(
                vectors[f"{name}.in.x"],
                vectors[f"{name}.in.t"],
                vectors[f"{name}.in.context"],
                vectors[f"{name}.in.struct_x"],
            )
        g.assert_close(found, vectors[f"{name}.out.eps"], c.TOLERANCE, name)


def test_golden_converted_pipeline(tmp_path: Path) -> None:
    """UNet, sampler and decoder; the decoder's base comes from the file, not from the host."""
    vectors, described = g.load_golden("pipeline"), g.load_golden("unet")
    for name, case in vectors.cases.items():
        size, variant = case["config"], case.get("variant", "unit")
        state = g.weights(vectors.tag, g.manifest(f"ckpt_unet_{size}"), variant)
        decoder_keys = g.manifest(f"ckpt_vae_{size}")
        taming = c.convert_states(
            tmp_path,
            unet=state,
            decoder=g.weights(vectors.tag, decoder_keys, variant),
            heads=c.encoder_heads(described.metadata["encoder_config"][size]),
        )
        assert taming.unet is not None
        unet = hosts.build_unet(described.metadata["unet_config"][size], state)
        latent, raw = vectors[f"{name}.in.x_T"], vectors[f"{name}.in.raw"]
        ddim = make_scheduler("ddim-released")
        ddim.set_timesteps(case["steps"])
        with attach_unet_taming(unet, taming.unet) as predict:
            for index, step in enumerate(ddim.timesteps):
                eps = predict(
                    latent,
                    step.expand(len(latent)),
                    vectors[f"{name}.in.context"],
                    split_bands(raw, multiple=8).structure_input,
                )
                g.assert_close(eps, vectors[f"{name}.out.eps"][index], c.TOLERANCE, f"eps {index}")
                latent = ddim.step(eps, step, latent).prev_sample
        other = g.weights(f"another {vectors.tag}", decoder_keys, variant)
        z = latent / case["scale_factor"]
        image = c.decode_with_base(taming, other, z, raw)
        g.assert_close(image, vectors[f"{name}.out.image"], c.TOLERANCE, "image")


@pytest.mark.slow
@pytest.mark.parametrize("part", c.CASES)
def test_golden_converted_full(part: str) -> None:
    g.load_golden("full")
    done = subprocess.run(
        [sys.executable, "-m", "helpers.golden_conversion", part],
        cwd=g.ROOT / "tests",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
