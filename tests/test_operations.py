"""Taming modules built from layers of a runtime's own, as ComfyUI hands them in."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from helpers.tiny_model import DECODER, TAMING, TAMING_HEADER, build_modules
from torch import Tensor, nn

from ldmsid_core.errors import CheckpointError
from ldmsid_core.taming.checkpoint import Taming, load_taming, save_taming, taming_state
from ldmsid_core.taming.fusion import DecoderTaming
from ldmsid_core.taming.unet_taming import UNetTaming

KINDS = ("Conv2d", "Linear", "GroupNorm")


def recording_operations() -> tuple[Any, list[nn.Module]]:
    """A namespace like `torch.nn` whose layers note themselves down."""
    built: list[nn.Module] = []

    def recording(plain: type[nn.Module]) -> type[nn.Module]:
        class Recorded(plain):  # type: ignore[valid-type,misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                built.append(self)

        return Recorded

    return SimpleNamespace(**{kind: recording(getattr(nn, kind)) for kind in KINDS}), built


class LateLinear(nn.Linear):
    """Has neither weight nor bias until a state dict is loaded into it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for name in ("weight", "bias"):
            if prefix + name in state_dict:
                stored = state_dict[prefix + name]
                setattr(self, name, nn.Parameter(stored, requires_grad=False))
            else:
                missing_keys.append(prefix + name)


class LateConv2d(nn.Conv2d):
    """The same of a convolution, with torch's own loading of what is there by then."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight = self.bias = None  # type: ignore[assignment]

    _load_from_state_dict = LateLinear._load_from_state_dict


LATE = SimpleNamespace(Conv2d=LateConv2d, Linear=LateLinear, GroupNorm=nn.GroupNorm)


def with_parameters(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if list(m.parameters(recurse=False))]


@pytest.mark.parametrize("kind", ["released", "identity"])
def test_every_layer_of_unet_taming_is_the_runtimes(kind: Literal["released", "identity"]) -> None:
    operations, built = recording_operations()
    with torch.random.fork_rng(devices=[]):
        taming = UNetTaming(replace(TAMING, kind=kind), operations=operations)
        plain = UNetTaming(replace(TAMING, kind=kind))
    assert {id(m) for m in with_parameters(taming)} == {id(m) for m in built}
    found = Counter(type(m).__bases__[0].__name__ for m in built)
    assert found == Counter(type(m).__name__ for m in with_parameters(plain))
    assert set(found) == set(KINDS)
    assert list(taming.state_dict()) == list(plain.state_dict())


def test_every_layer_of_decoder_taming_is_the_runtimes() -> None:
    operations, built = recording_operations()
    with torch.random.fork_rng(devices=[]):
        taming = DecoderTaming(DECODER, operations=operations)
        plain = DecoderTaming(DECODER)
    assert {id(m) for m in with_parameters(taming)} == {id(m) for m in built}
    found = Counter(type(m).__bases__[0].__name__ for m in built)
    assert found == Counter(type(m).__name__ for m in with_parameters(plain))
    assert set(found) == {"Conv2d", "GroupNorm"}
    assert list(taming.state_dict()) == list(plain.state_dict())


def test_identity_layers_of_a_runtime_start_as_no_change() -> None:
    operations, _ = recording_operations()
    with torch.random.fork_rng(devices=[]):
        taming = UNetTaming(replace(TAMING, kind="identity"), operations=operations)
    h = torch.linspace(-2.0, 2.0, 32 * 16).reshape(1, 32, 4, 4)
    assert torch.equal(taming.modulate(taming.sites[0], h, [h]), h)


@pytest.fixture
def half_precision_file(tmp_path: Path) -> Path:
    _, _, unet, decoder = build_modules()
    path = tmp_path / "t.safetensors"
    state = taming_state(unet, decoder, torch.zeros(77, 16))
    save_taming(path, TAMING_HEADER, state, dtype=torch.float16)
    return path


def outputs(taming: Taming) -> list[Tensor]:
    """What both halves compute in float32 for fixed inputs."""
    assert taming.unet is not None and taming.decoder is not None
    unet, decoder = taming.unet.float(), taming.decoder.float()
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    structure = unet.structure_encoder(draw(2, 4, 16, 8), torch.tensor([10, 900]))
    found = list(structure)
    for site in unet.sites:
        h = draw(2, site.channels, *structure[site.level].shape[-2:])
        found.append(unet.modulate(site, h, structure))
    for level in (3, 2, 1):
        found.append(decoder.fusion(level)(draw(1, 32, 8, 4), draw(1, 4, 8, 4), draw(1, 12, 8, 4)))
    return found


def tensors_of(taming: Taming) -> dict[str, Tensor]:
    return taming_state(taming.unet, taming.decoder, taming.prompt_embedding)


@pytest.mark.parametrize("late", [False, True])
def test_loading_keeps_the_stored_dtype_and_computes_the_same(
    half_precision_file: Path, late: bool
) -> None:
    operations, built = (LATE, []) if late else recording_operations()
    kept = load_taming(half_precision_file, operations=operations, dtype=None)
    plain = load_taming(half_precision_file)
    assert {t.dtype for t in tensors_of(kept).values()} == {torch.float16}
    assert {t.dtype for t in tensors_of(plain).values()} == {torch.float32}
    assert tensors_of(kept).keys() == tensors_of(plain).keys()
    assert kept.unet is not None and kept.decoder is not None
    if not late:
        layers = with_parameters(kept.unet) + with_parameters(kept.decoder)
        assert {id(m) for m in layers} == {id(m) for m in built}
    for half in (kept.unet, kept.decoder):
        assert not half.training
        assert all(not p.requires_grad and not p.is_meta for p in half.parameters())
    # float16 values are float32 values, so not a bit differs.
    for found, wanted in zip(outputs(kept), outputs(plain), strict=True):
        assert torch.equal(found, wanted)


def test_another_dtype_is_cast_to(half_precision_file: Path) -> None:
    taming = load_taming(half_precision_file, dtype=torch.bfloat16)
    assert {t.dtype for t in tensors_of(taming).values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("key", "words"),
    [("structure_encoder.time.0.weight", "of shape"), ("decoder.1.scale.0.bias", "of shape")],
)
def test_late_layers_do_not_soften_the_check_of_shapes(
    tmp_path: Path, key: str, words: str
) -> None:
    _, _, unet, decoder = build_modules()
    state = taming_state(unet, decoder, None)
    path = tmp_path / "t.safetensors"
    save_taming(path, TAMING_HEADER, {**state, key: torch.zeros(3)}, dtype=torch.float16)
    with pytest.raises(CheckpointError, match=words):
        load_taming(path, operations=LATE, dtype=None)
    del state[key]
    save_taming(path, TAMING_HEADER, state, dtype=torch.float16, overwrite=True)
    with pytest.raises(CheckpointError, match="missing 1"):
        load_taming(path, operations=LATE, dtype=None)
