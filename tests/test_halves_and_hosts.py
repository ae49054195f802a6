"""What belongs together: exported halves, hosts of a conversion, options of the two commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from helpers import released_layout as r
from safetensors.torch import save_file

from ldmsid_core.cli import main
from ldmsid_core.conversion.exporting import export_released
from ldmsid_core.conversion.importing import convert_released
from ldmsid_core.errors import CheckpointError, HostMismatchError
from ldmsid_core.hosts.families import prediction_type
from ldmsid_core.hosts.folder import read_folder
from ldmsid_core.hosts.host import load_host
from ldmsid_core.taming.base_sample import other_tensor, sample_of
from ldmsid_core.taming.checkpoint import read_taming_state, save_taming

TELLING = "output_blocks.11.1.transformer_blocks.0.norm1.bias"


@pytest.fixture(scope="module")
def weights() -> r.Weights:
    return r.build_weights()


@pytest.fixture(scope="module")
def exported(weights: r.Weights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A taming file and its two exported halves, and the second of another licence."""
    folder = tmp_path_factory.mktemp("exported")
    unet = r.save_lightning(folder / "unet.ckpt", r.released_unet_state(weights))
    decoder = r.save_lightning(folder / "decoder.ckpt", r.released_decoder_state(weights))
    taming = folder / "t.safetensors"
    convert_released(taming, unet=unet, decoder=decoder)
    first, second = export_released(taming, folder / "first")
    state, header = read_taming_state(taming)
    other = folder / "other.safetensors"
    save_taming(other, replace(header, licence="another"), state, dtype=torch.float16)
    _, third = export_released(other, folder / "second")
    return {"released": decoder, "taming": taming, "unet": first, "decoder": second, "odd": third}


def test_halves_of_two_files_are_refused(tmp_path: Path, exported: dict[str, Path]) -> None:
    output = tmp_path / "t.safetensors"
    for decoder in ("odd", "released"):
        with pytest.raises(CheckpointError, match="halves whose descriptions differ"):
            convert_released(output, unet=exported["unet"], decoder=exported[decoder])
    assert not output.exists()
    convert_released(output, unet=exported["unet"], decoder=exported["decoder"])
    assert output.read_bytes() == exported["taming"].read_bytes()


def test_a_prompt_that_claims_more_than_it_holds(tmp_path: Path, exported: dict[str, Path]) -> None:
    content = torch.load(exported["unet"], weights_only=True)
    content["prompt_embedding"] = torch.zeros(1).expand(10**6, 10**6)
    path = tmp_path / "unet.ckpt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="prompt_embedding claims"):
        convert_released(tmp_path / "t.safetensors", unet=path)


def test_a_unet_half_keeps_nothing_of_the_decoder(
    tmp_path: Path, weights: r.Weights, exported: dict[str, Path]
) -> None:
    state, header = read_taming_state(exported["taming"])
    sampled = replace(header, decoder_base_sample={"decoder.conv_in.weight": [0.5]})
    taming = tmp_path / "t.safetensors"
    save_taming(taming, sampled, state, dtype=torch.float16)
    unet, decoder = export_released(taming, tmp_path / "out")
    for half, kept in ((unet, {}), (decoder, sampled.decoder_base_sample)):
        name = "unet" if half == unet else "decoder"
        made = convert_released(tmp_path / f"{name}.safetensors", **{name: half})
        assert made.header.decoder_base_sample == kept


@pytest.mark.parametrize("scale", [torch.ones(2), torch.tensor(0.0), torch.tensor(float("nan"))])
def test_a_scale_that_is_none(tmp_path: Path, weights: r.Weights, scale: torch.Tensor) -> None:
    state = {**r.host_state(weights), "scale_factor": scale}
    with pytest.raises(CheckpointError, match="scale_factor as one number above 0"):
        load_host(r.save_single(tmp_path / "host.safetensors", state))


def test_an_exported_half_keeps_to_its_family(tmp_path: Path, exported: dict[str, Path]) -> None:
    wide = r.build_weights(r.Layout(context=128, text_layers=0))
    host = r.save_single(tmp_path / "wide.safetensors", r.host_state(wide))
    with pytest.raises(HostMismatchError, match="prompt width 64 and epsilon"):
        convert_released(tmp_path / "t.safetensors", unet=exported["unet"], host=host)


def test_only_second_versions_are_asked_for_velocity() -> None:
    bias = {TELLING: torch.linspace(-1.0, 1.0, 320)}
    for width, expected in ((768, "epsilon"), (1024, "v_prediction")):
        unet = {**bias, "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight":
                torch.zeros(4, width)}  # fmt: skip
        assert prediction_type(unet) == expected
    assert prediction_type({TELLING: 0.05 * bias[TELLING]}) == "epsilon"


def test_sample_of_tensors_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"decoder.{i}.weight": torch.randn(4, 3, generator=generator) for i in range(9)}
    sample = sample_of({**tensors, "decoder.0.bias": torch.zeros(4)})
    assert len(sample) == 4 and all(len(numbers) == 8 for numbers in sample.values())
    for dtype in (torch.float16, torch.bfloat16):
        rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        assert other_tensor(sample, rounded.get) is None
    name = list(sample)[-1]
    assert other_tensor(sample, {**tensors, name: tensors[name] + 0.02}.get) == name
    assert other_tensor(sample, {**tensors, name: tensors[name][:1]}.get) == name
    del tensors[name]
    assert other_tensor(sample, tensors.get) == name


@pytest.mark.parametrize("scale", ["null", "0", '"big"', "true"])
def test_folder_with_a_bad_latent_scale(tmp_path: Path, weights: r.Weights, scale: str) -> None:
    folder = r.save_folder(tmp_path / "sd", weights)
    config = folder / "vae" / "config.json"
    config.write_text(f'{{"scaling_factor": {scale}}}')
    with pytest.raises(CheckpointError, match="scaling_factor above 0"):
        read_folder(folder)


def test_folder_with_class_labels(tmp_path: Path, weights: r.Weights) -> None:
    folder = r.save_folder(tmp_path / "sd", weights)
    config = folder / "unet" / "config.json"
    text = config.read_text().replace('"class_embed_type": null', '"class_embed_type": "timestep"')
    assert "timestep" in text
    config.write_text(text)
    with pytest.raises(HostMismatchError, match="class_embed_type"):
        read_folder(folder)


@pytest.mark.parametrize(
    "extra", [["--dtype", "bf16"], ["--decoder-latent-scale", "scaled"], ["--host", "x"]]
)
def test_export_takes_no_options_of_the_import(
    tmp_path: Path, exported: dict[str, Path], extra: list[str]
) -> None:
    command = ["convert", "--to-released", str(exported["taming"]), "-o", str(tmp_path / "out")]
    found = CliRunner().invoke(main, [*command, *extra])
    assert found.exit_code == 1 and f"found {extra[0]} beside it" in found.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("extra", [["--ratio", "250"], ["--crop", "64"], ["--steps", "2"]])
def test_options_for_a_raw_need_one(exported: dict[str, Path], extra: list[str]) -> None:
    found = CliRunner().invoke(main, ["check", str(exported["taming"]), *extra])
    assert found.exit_code == 1 and f"Expected --raw with {extra[0]}" in found.output


def test_a_tensor_of_one_dimension_is_named(tmp_path: Path, weights: r.Weights) -> None:
    state = r.released_decoder_state(weights)
    key = "decoder.fusion_layer_3.pre_encode_L.conv1.weight"
    state[key] = state[key].flatten()
    path = tmp_path / "decoder.safetensors"
    save_file({k: v.contiguous().clone() for k, v in state.items()}, str(path))
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        convert_released(tmp_path / "t.safetensors", decoder=path)
