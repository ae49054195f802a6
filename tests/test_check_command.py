"""`ldmsid check` on the embedded model: what a file holds, and which latents its decoder takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from helpers import released_layout as r
from helpers.tiny_model import write_model

from ldmsid_core.cli import main
from ldmsid_core.cli_check import residual_variation, verdict
from ldmsid_core.model_files import EMBEDDED, SAMPLE_RAW
from ldmsid_core.safetensors_file import read_safetensors, write_safetensors
from ldmsid_core.wavelet import split_bands
from ldmsid_core.weight_file import sha256_of

RUN = (
    "--raw",
    SAMPLE_RAW,
    "--ratio",
    250,
    "--crop",
    256,
    "--steps",
    4,
    "--dtype",
    "fp32",
    "--quiet",
)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, arguments)], catch_exceptions=False)


def recast(source: Path, path: Path, key: str, factor: float = 1.0, **changes: object) -> Path:
    """A copy with other values in its header, and a first VAE layer that takes other latents."""
    state, metadata = read_safetensors(source, dtype=None)
    name = "vae.post_quant_conv.weight"
    state.update({name: state[name] * factor} if factor != 1.0 else {})
    text = json.dumps({**json.loads(metadata[key]), **changes})
    write_safetensors(path, state, {key: text}, overwrite=False)
    return path


@pytest.fixture
def mislabelled(tmp_path: Path) -> Path:
    """The embedded taming, its header saying the other latent scale."""
    path = tmp_path / "scaled.safetensors"
    return recast(EMBEDDED.taming, path, "ldmsid", decoder_latent_scale="scaled")


def rescaled(folder: Path, latent_scale: float, factor: float, says: str) -> list[object]:
    """The embedded model with another latent scale, whose decoder wants latents / factor."""
    host = recast(
        EMBEDDED.host, folder / f"{says}_host.safetensors", "ldmsid_host", factor,
        latent_scale=latent_scale,
    )  # fmt: skip
    taming = recast(
        EMBEDDED.taming, folder / f"{says}.safetensors", "ldmsid",
        latent_scale=latent_scale, decoder_latent_scale=says,
    )  # fmt: skip
    return [taming, "--host", host]


def test_verdicts_on_a_model_that_shows_its_scale(tmp_path: Path) -> None:
    """The embedded decoder hardly minds weak latents, so the wrong ones here are ten times strong.

    Eight times the decoder's first weights and eight times the latent scale is the same model:
    unscaled latents are right. A tenth of the scale alone makes scaled ones (nearly) right.
    """
    for scale, factor, right in ((1.2251745 * 8, 8.0, "unscaled"), (0.12251745, 1.0, "scaled")):
        residuals = []
        for says in ("unscaled", "scaled"):
            folder = tmp_path / right
            folder.mkdir(exist_ok=True)
            model = rescaled(folder, scale, factor, says)
            found = json.loads(call(*model, *RUN, "--crop", 128, "--json").stdout)
            residuals.append([found[f"residual, {name}"] for name in ("unscaled", "scaled")])
            if says == right:
                assert found["verdict"] == f"{right} reconstructs, as the file says"
            else:
                assert found["verdict"].startswith(
                    f"{right} reconstructs, but the file says {says}"
                )
                assert found["verdict"].endswith(f"--decoder-latent-scale {right}")
        assert residuals[0] == pytest.approx(residuals[1], abs=1e-3)


def test_the_embedded_model_is_never_called_wrong() -> None:
    """Its latent scale is near 1, so both decodes may be alike; then nobody should decide."""
    found = json.loads(call(EMBEDDED.taming, *RUN, "--json").stdout)
    assert found["host"].endswith("(tiny): fits")
    assert found["decoder latent scale"] == "unscaled" and "convert again" not in found["verdict"]
    assert max(found["residual, unscaled"], found["residual, scaled"]) < 0.5


def test_without_a_raw(mislabelled: Path) -> None:
    found = json.loads(call(mislabelled, "--json").stdout)
    assert found["decoder latent scale"] == "scaled" and "verdict" not in found
    assert found["sha256"] == sha256_of(mislabelled)
    assert found["UNet taming"] > 0 and found["decoder taming"] > 0
    lines = call(EMBEDDED.taming).stdout.splitlines()
    assert any(line.startswith("host family") and line.endswith("tiny") for line in lines)


def test_a_stable_diffusion_taming_is_described_without_its_host(tmp_path: Path) -> None:
    files = write_model(tmp_path, host_family="sd21-base")
    found = json.loads(call(files.taming, "--json").stdout)
    assert found["host"] == "not checked: give --host"
    fitting = write_model(tmp_path)
    found = json.loads(call(fitting.taming, "--host", fitting.host, "--json").stdout)
    assert found["host"] == "host.safetensors (test): fits"


def test_wrong_host_and_files(tmp_path: Path) -> None:
    weights = r.build_weights(r.Layout(text_layers=0))
    host = r.save_single(tmp_path / "sd.safetensors", r.host_state(weights))
    for arguments, words in (
        ((EMBEDDED.taming, "--host", host), ("trained for host family tiny", "sd.safetensors")),
        ((tmp_path / "none.safetensors",), ("none.safetensors", "does not exist")),
        ((host,), ("sd.safetensors", "Expected a taming checkpoint")),
        ((EMBEDDED.taming, *RUN, "--ratio", "bright"), ("--ratio", "bright")),
        ((EMBEDDED.taming, "--raw", host), ("sd.safetensors",)),
    ):
        result = call(*arguments)
        assert result.exit_code == 1
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert all(word in result.stderr for word in words), result.stderr


def test_verdict() -> None:
    assert "undecided" in verdict({"unscaled": 0.51, "scaled": 0.5}, "scaled")
    assert (
        verdict({"unscaled": 0.9, "scaled": 0.5}, "scaled")
        == "scaled reconstructs, as the file says"
    )
    assert "--decoder-latent-scale scaled" in verdict({"unscaled": 0.9, "scaled": 0.5}, "unscaled")


def test_residual_of_a_perfect_and_of_an_unrelated_picture() -> None:
    """The toned low band itself leaves nothing; a picture without structure leaves all of it."""
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(1, 1, 8, 16, generator=generator)
    planes = low.repeat_interleave(8, -1).repeat_interleave(8, -2).expand(1, 4, 64, 128)
    bands = split_bands(planes * 2.0 - 1.0, multiple=8)
    toned = planes[:, :3] ** (1.0 / 2.2) * 2.0 - 1.0
    # float32 through three wavelet levels and back.
    assert residual_variation(toned, bands) < 1e-4
    assert residual_variation(toned * 0.3, bands) < 1e-4
    assert residual_variation(torch.zeros_like(toned), bands) == pytest.approx(1.0)
    assert residual_variation(-toned, bands) == pytest.approx(1.0)
