"""Weight files: what is refused, what passes, which dtype comes back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldmsid_core.errors import CheckpointError
from ldmsid_core.safetensors_file import read_safetensors, write_safetensors

FLOATS = [torch.float32, torch.float16, torch.bfloat16]
BAD = [float("nan"), float("inf"), float("-inf")]


def with_one(value: float, dtype: torch.dtype, *, at: int) -> dict[str, Tensor]:
    """Sound tensors, and one with a single bad value."""
    tensor = torch.linspace(-3.0, 3.0, 60).to(dtype)
    tensor[at] = value
    return {"a.sound": torch.ones(5), "b.broken": tensor.reshape(3, 20), "c.sound": torch.ones(2)}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("at", [0, 31, 59])
def test_a_bad_value_is_refused_by_name(
    tmp_path: Path, dtype: torch.dtype, value: float, at: int
) -> None:
    state = with_one(value, dtype, at=at)
    written, stored = tmp_path / "written.safetensors", tmp_path / "stored.safetensors"
    with pytest.raises(CheckpointError, match=r"b\.broken holds NaN or infinity") as caught:
        write_safetensors(written, state, {}, overwrite=False)
    assert str(written) in str(caught.value)
    assert not list(tmp_path.iterdir())
    save_file(state, str(stored))
    for wanted in (torch.float32, None):
        with pytest.raises(CheckpointError, match=r"b\.broken holds NaN or infinity") as caught:
            read_safetensors(stored, dtype=wanted)
        assert str(stored) in str(caught.value)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_finite_values_pass(tmp_path: Path, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    state = {"a": torch.tensor([limits.min, 0.0, limits.max], dtype=dtype)}
    write_safetensors(tmp_path / "a.safetensors", state, {}, overwrite=False)
    found, _ = read_safetensors(tmp_path / "a.safetensors", dtype=None)
    assert torch.equal(found["a"], state["a"])


def test_whole_numbers_and_empty_tensors_pass(tmp_path: Path) -> None:
    state = {
        "whole": torch.tensor([-(2**31), 7, 2**31 - 1], dtype=torch.int32),
        "flags": torch.tensor([True, False]),
        "empty": torch.empty(0, 4),
        "empty_half": torch.empty(3, 0, dtype=torch.float16),
        "scalar": torch.tensor(2.5),
    }
    write_safetensors(tmp_path / "a.safetensors", state, {}, overwrite=False)
    found, _ = read_safetensors(tmp_path / "a.safetensors", dtype=None)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = {str(dtype): torch.linspace(-1.0, 1.0, 9).to(dtype) for dtype in FLOATS}
    write_safetensors(path, state, {}, overwrite=False)
    kept, _ = read_safetensors(path, dtype=None)
    assert {name: str(tensor.dtype) for name, tensor in kept.items()} == {n: n for n in state}
    full, _ = read_safetensors(path)
    for name, tensor in full.items():
        # float32 holds every value of the shorter formats.
        assert tensor.dtype == torch.float32 and torch.equal(tensor, state[name].float()), name
    half, _ = read_safetensors(path, dtype=torch.float16)
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}


def test_header_texts_survive(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    texts = {"ldmsid": '{"a": [1, "ä ☂"]}', "licence": "Apache-2.0", "empty": ""}
    write_safetensors(path, {"a": torch.ones(1)}, texts, overwrite=False)
    assert read_safetensors(path)[1] == texts
    save_file({"a": torch.ones(1)}, str(path))
    assert read_safetensors(path)[1] == {}


def test_strided_and_trained_tensors_are_written_as_they_look(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    grid = torch.arange(12.0).reshape(3, 4)
    state = {"turned": grid.T, "column": grid[:, 1], "trained": grid.clone().requires_grad_(True)}
    write_safetensors(path, state, {}, overwrite=False)
    stored = load_file(str(path))
    for name, tensor in state.items():
        assert torch.equal(stored[name], tensor), name


def test_a_file_has_the_permissions_of_every_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_safetensors(tmp_path / "w.safetensors", {"a": torch.ones(1)}, {}, overwrite=False)
    finally:
        os.umask(before)
    # safetensors itself would leave the file to its owner alone, 0600.
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o640
