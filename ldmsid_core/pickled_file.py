"""PyTorch and Lightning checkpoints read without running anything that they hold.

PyTorch's own restricted unpickler reads the tensors, memory-mapped. Lightning names callback
classes in its checkpoints; those become inert stand-ins. Whatever else a file asks for is refused
and named.
"""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError

PICKLED_ENDINGS = (".ckpt", ".pt", ".pth", ".bin")
# Named in checkpoints, never needed: callbacks of Lightning and of latent diffusion's trainer, and
# what their settings are made of.
_INERT_PREFIXES = (
    "pytorch_lightning.callbacks.",
    "lightning.pytorch.callbacks.",
    "pytorch_lightning.utilities.",
    "omegaconf.",
)
_INERT_NAMES = {
    "main.SetupCallback", "main.ImageLogger", "main.CUDACallback",
    "numpy.dtype", "numpy.ndarray", "typing.Any",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core")
      for name in ("scalar", "_reconstruct")),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__")
      for name in ("dict", "list", "int", "float", "str", "bool", "tuple")),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath",
                                     "PureWindowsPath")),
}  # fmt: skip
_DICTIONARY_NAMES = {
    "collections.defaultdict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
}
_MAX_DESCRIPTION_BYTES = 64 * 2**20
# What a damaged description makes the unpickler raise.
_DAMAGE = (
    RuntimeError, ValueError, TypeError, LookupError, EOFError, OSError, AttributeError,
    OverflowError, struct.error, pickle.UnpicklingError,
)  # fmt: skip


class _Inert:
    """Stands for a class that a checkpoint names; keeps nothing and does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Ignore what the real class would have been given."""

    def __setstate__(self, _state: Any) -> None:
        """Ignore the state."""

    def __hash__(self) -> int:
        return id(self)


class _PlainDictionary:
    """Stands for a kind of dictionary: what it makes is a plain, empty one."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
        return {}


def _check_archive(path: Path) -> None:
    """Refuse an archive that would grow when it is read, or that is none.

    PyTorch stores its entries uncompressed, so the sizes inside add up to no more than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(
            f"Expected a PyTorch checkpoint (PyTorch 1.6 or newer), but {path} is damaged, "
            f"truncated or of another kind ({error}); download it again."
        ) from error
    packed = next((e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED), None)
    total = sum(entry.file_size for entry in entries)
    described = sum(e.file_size for e in entries if not _is_storage(e.filename))
    if packed is not None or total > path.stat().st_size or described > _MAX_DESCRIPTION_BYTES:
        what = (
            f"{packed} is compressed" if packed else f"{total} bytes claimed, {described} of them "
            "not tensors"
        )  # fmt: skip
        raise CheckpointError(
            f"Expected a PyTorch checkpoint whose entries are stored as they are, but {path} "
            f"would grow when read ({what}); it was not written by PyTorch and is refused."
        )


def _is_storage(name: str) -> bool:
    return "/data/" in name


def _inert_classes(path: Path) -> list[Any]:
    """Stand-ins for the harmless names of a file.

    Raises:
        CheckpointError: If it asks for anything else.
    """
    try:
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    refused = [
        name
        for name in wanted
        if name not in _INERT_NAMES | _DICTIONARY_NAMES and not name.startswith(_INERT_PREFIXES)
    ]
    if refused:
        raise CheckpointError(
            f"Expected tensors and settings alone, but {path} asks to run "
            f"{', '.join(refused[:3])}; it may be malicious and was not opened. Fetch the file "
            "from its authors."
        )
    return [(_stand_in(name), name) for name in wanted]


def _stand_in(name: str) -> type:
    kind = _PlainDictionary if name in _DICTIONARY_NAMES else _Inert
    return type(name.rsplit(".", 1)[-1], (kind,), {})


def _damaged(path: Path, error: BaseException) -> CheckpointError:
    # PyTorch's own texts go on to advise loading the file without protection.
    first = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
    if isinstance(error, pickle.UnpicklingError):
        first = "its description cannot be read"
    return CheckpointError(
        f"Expected a PyTorch checkpoint, but {path} is damaged or of another kind ({first}); "
        "download it again."
    )


def read_pickled(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, memory-mapped: nothing is read before it is used.

    Args:
        path: A zip-format PyTorch file: a state dict, or one under `state_dict`.

    Returns:
        The tensors by name, and what lies beside `state_dict`.

    Raises:
        CheckpointError: If the file is missing, damaged, asks to run code, would grow when read,
            or holds no tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"Expected a weight file, but {path} does not exist; check it.")
    _check_archive(path)
    try:
        with (
            torch.serialization.safe_globals(_inert_classes(path)),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _DAMAGE as error:
        if isinstance(error, CheckpointError):
            raise
        raise _damaged(path, error) from error
    beside: dict[str, Any] = {}
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        beside = {k: v for k, v in content.items() if isinstance(k, str) and k != "state_dict"}
        content = content["state_dict"]
    return _tensors_of(content, path), beside


def _tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"Expected named tensors in {path}, found {type(content).__name__}; choose a "
            "checkpoint."
        )
    found = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not found:
        raise CheckpointError(f"Expected named tensors in {path}, found none; choose a checkpoint.")
    for name, tensor in found.items():
        check_plain(name, tensor, path)
    return found


def check_plain(name: str, tensor: Tensor, path: Path) -> None:
    """Refuse a tensor that is not plain numbers, or claims more of them than are stored.

    Raises:
        CheckpointError: Which names tensor and file.
    """
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise CheckpointError(
            f"{path}: expected {name} as a plain tensor, found a {tensor.layout} one on "
            f"{tensor.device}; choose another file."
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path}: {name} claims {tuple(tensor.shape)} but holds less; the file is refused."
        )
