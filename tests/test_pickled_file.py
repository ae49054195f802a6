"""PyTorch checkpoints: read without running what they hold, mapped into memory, errors named."""

from __future__ import annotations

import builtins
import contextlib
import os
import pickle
import struct
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers.released_layout import save_lightning

from ldmsid_core.errors import CheckpointError
from ldmsid_core.pickled_file import read_pickled
from ldmsid_core.weight_file import read_weights, sha256_of


class _Asks:
    """Pickles into a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _repacked(source: Path, path: Path, **changes: Any) -> Path:
    """A copy of a checkpoint with another compression or other entries."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                content = changes.get("pickle", content) + changes.get("padding", b"")
            kind = changes.get("compression", zipfile.ZIP_STORED)
            new.writestr(entry.filename, content, compress_type=kind)
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.ckpt"
    torch.save({"state_dict": {"a": torch.arange(6.0).reshape(2, 3)}}, path)
    return path


def test_lightning_callbacks_as_keys(tmp_path: Path) -> None:
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}
    path = save_lightning(tmp_path / "released.ckpt", state, note="text")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    found, beside = read_pickled(path)
    assert set(found) == set(state)
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in state.items())
    assert beside["epoch"] == 100 and beside["note"] == "text" and "state_dict" not in beside
    assert set(read_weights(path)) == set(state)


def test_settings_of_every_kind_are_read_past(tmp_path: Path) -> None:
    """What Lightning and omegaconf put beside the tensors, none of it needed."""
    beside = {
        "factory": defaultdict(dict, a=1),
        "types": [dict, list, int, float, str, bool, tuple],
        "any": Any,
        "path": PurePosixPath("a/b"),
        "score": np.float64(0.5),
        "array": np.arange(3.0),
    }
    with _lightning_class("pytorch_lightning.utilities.parsing.AttributeDict", dict) as kind:
        beside["hyper_parameters"] = kind(learning_rate=5e-5)
        path = tmp_path / "settings.ckpt"
        torch.save({"state_dict": {"a": torch.ones(2)}, **beside}, path)
    tensors, _ = read_pickled(path)
    assert torch.equal(tensors["a"], torch.ones(2))


@contextlib.contextmanager
def _lightning_class(name: str, base: type) -> Iterator[type]:
    """A class under a module's name that is importable while it is pickled."""
    module, _, short = name.rpartition(".")
    made = type(short, (base,), {"__module__": module})
    parts = module.split(".")
    with pytest.MonkeyPatch.context() as patch:
        for end in range(1, len(parts) + 1):
            patch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(parts[end - 1]))
        setattr(sys.modules[module], short, made)
        yield made


def test_bare_state_dict_parameters_and_views(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"t": whole.t(), "part": whole[1:, :2], "p": torch.nn.Parameter(whole), "step": 3}
    torch.save(state, tmp_path / "a.pt")
    found, beside = read_pickled(tmp_path / "a.pt")
    assert set(found) == {"t", "part", "p"} and not beside
    assert torch.equal(found["t"], whole.t()) and torch.equal(found["part"], whole[1:, :2])


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (eval, "eval"), (builtins.getattr, "getattr"), (open, "open")],
)
def test_code_is_refused_and_not_run(
    tmp_path: Path, function: Any, name: str, protocol: int
) -> None:
    touched = tmp_path / "touched"
    argument = f"touch {touched}" if name == "system" else f"open({str(touched)!r}, 'w')"
    arguments = (str(touched), "w") if name == "open" else (argument,)
    if name == "getattr":
        arguments = (_Asks(os.system, f"touch {touched}"), "real")  # type: ignore[assignment]
    path = tmp_path / "bad.ckpt"
    content = {"state_dict": {"a": torch.ones(2)}, "callbacks": _Asks(function, *arguments)}
    torch.save(content, path, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"bad\.ckpt") as caught:
        read_pickled(path)
    if protocol == 2:  # what torch writes; with another the reader stops before any name
        assert name in str(caught.value) and "malicious" in str(caught.value)
    assert not touched.exists()


def test_a_name_inside_the_allowed_modules_gives_no_code(tmp_path: Path) -> None:
    """`os.system` reached through a dotted name of a harmless module stays an inert class."""
    touched = tmp_path / "touched"
    path = torch_file_with(
        tmp_path, b"\x80\x02cpytorch_lightning.callbacks.base\nos.system\n"
        + b"X" + struct.pack("<I", len(f"touch {touched}")) + f"touch {touched}".encode()
        + b"\x85R.",
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="named tensors"):
        read_pickled(path)
    assert not touched.exists()


def torch_file_with(folder: Path, description: bytes) -> Path:
    source = folder / "source.ckpt"
    torch.save({"a": torch.ones(2)}, source)
    return _repacked(source, folder / "made.ckpt", pickle=description)


def test_zip_bombs(tmp_path: Path, plain: Path) -> None:
    deflated = _repacked(plain, tmp_path / "deflated.ckpt", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed"):
        read_pickled(deflated)
    giant = _repacked(plain, tmp_path / "giant.ckpt", padding=bytes(65 * 2**20))
    with pytest.raises(CheckpointError, match="not tensors"):
        read_pickled(giant)
    claims = bytearray(plain.read_bytes())
    end = claims.rfind(b"PK\x01\x02")  # the last entry of the directory says it is 2 GB
    claims[end + 24 : end + 28] = struct.pack("<I", 2**31)
    (tmp_path / "claims.ckpt").write_bytes(claims)
    with pytest.raises(CheckpointError, match="bytes claimed"):
        read_pickled(tmp_path / "claims.ckpt")


def test_damaged_files(tmp_path: Path, plain: Path) -> None:
    whole = plain.read_bytes()
    contents = {
        "half": whole[: len(whole) // 2],
        "tail": whole[: len(whole) - 30],
        "empty": b"",
        "text": b"<html>404</html>",
        "legacy": b"",
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(content)
        if name == "legacy":
            torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
        with pytest.raises(CheckpointError, match=f"{name}.ckpt") as caught:
            read_pickled(path)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("description", [b"", b"\x80\x02", b"\x80\x02}q\x00(", b"\xff" * 40, b"."])
def test_damaged_descriptions(tmp_path: Path, description: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"made\.ckpt"):
        read_pickled(torch_file_with(tmp_path, description))


def test_missing_entry_of_a_tensor(tmp_path: Path, plain: Path) -> None:
    path = tmp_path / "lost.ckpt"
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            if "/data/" not in entry.filename:
                new.writestr(entry.filename, old.read(entry))
    with pytest.raises(CheckpointError, match=r"lost\.ckpt"):
        read_pickled(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1, 8).expand(100_000, 8),
        torch.ones(1).expand(2**40),
        torch.eye(4).to_sparse(),
        torch.empty(4, device="meta"),
    ],
    ids=["stride 0", "a terabyte", "sparse", "meta"],
)
def test_tensors_that_are_none(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"state_dict": {"odd": tensor}}, tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match="odd"):
        read_pickled(tmp_path / "odd.ckpt")


def test_storage_shorter_than_claimed(tmp_path: Path, plain: Path) -> None:
    with zipfile.ZipFile(plain) as archive:
        entry = next(e for e in archive.namelist() if e.endswith("data.pkl"))
        description = archive.read(entry)
    longer = description.replace(b"K\x02K\x03\x86", b"K\x02K\x7f\x86")  # the size (2, 3)
    assert longer != description
    with pytest.raises(CheckpointError, match=r"more\.ckpt"):
        read_pickled(_repacked(plain, tmp_path / "more.ckpt", pickle=longer))


def test_no_tensors(tmp_path: Path) -> None:
    for content in ([1, 2], {"a": 1}, {"state_dict": {}}, torch.ones(2), None):
        torch.save(content, tmp_path / "none.ckpt")
        with pytest.raises(CheckpointError, match="named tensors"):
            read_pickled(tmp_path / "none.ckpt")


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.ckpt"):
        with pytest.raises(CheckpointError, match="does not exist"):
            read_pickled(path)
    with pytest.raises(CheckpointError, match=r"ends in \.safetensors"):
        read_weights(tmp_path / "photo.png")
    (tmp_path / "bad.safetensors").write_bytes(bytes(100))
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        read_weights(tmp_path / "bad.safetensors")


def test_sha256(plain: Path) -> None:
    import hashlib

    assert sha256_of(plain) == hashlib.sha256(plain.read_bytes()).hexdigest()


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc")
@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_weights_are_mapped_not_copied(tmp_path: Path, ending: str) -> None:
    size = 100 * 2**20
    path = tmp_path / f"big{ending}"
    if ending == ".ckpt":
        torch.save({"state_dict": {"w": torch.ones(size // 4)}}, path)
    else:
        from safetensors.torch import save_file

        save_file({"w": torch.ones(size // 4)}, str(path))
    before = _anonymous_bytes()
    found = read_weights(path)
    assert float(found["w"].sum()) == size // 4
    # A copy would take all 100 MiB; the reader itself takes a few.
    assert _anonymous_bytes() - before < size // 4
