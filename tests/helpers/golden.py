"""Access to a folder of reference vectors: recipe, cases, configurations, comparison."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]


def golden_folder() -> Path:
    """The folder named by `LDMSID_GOLDEN`, or the usual place beside the repository."""
    return Path(os.environ.get("LDMSID_GOLDEN", ROOT.parent / "shared" / "golden"))


@dataclass(frozen=True)
class Golden:
    """One vector file: tag, cases, constructor arguments and tensors."""

    tag: str
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        """Case name -> its description; files without cases have one per tensor prefix."""
        if "cases" in self.metadata:
            return dict(self.metadata["cases"])
        return {name.split(".")[0]: {} for name in self.tensors}


def load_golden(name: str) -> Golden:
    """A vector file of the folder; skips the test where there is none."""
    path = golden_folder() / "vectors" / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"no reference vectors at {path}: set LDMSID_GOLDEN")
    with safe_open(str(path), "pt") as stored:
        raw = dict(stored.metadata())
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    metadata = {k: json.loads(v) if v[:1] in "{[" else v for k, v in raw.items()}
    return Golden(raw["tag"], metadata, tensors)


def recipe() -> ModuleType:
    """The weight recipe of the folder, imported as a module."""
    path = golden_folder() / "recipe.py"
    if not path.exists():
        pytest.skip(f"no weight recipe at {path}: set LDMSID_GOLDEN")
    spec = importlib.util.spec_from_file_location("golden_recipe", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifest(name: str) -> dict[str, list[int]]:
    """Key -> shape of a released checkpoint."""
    path = golden_folder() / "manifests" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no key list at {path}: set LDMSID_GOLDEN")
    return dict(json.loads(path.read_text()))


def weights(tag: str, keys: dict[str, list[int]], variant: str) -> dict[str, Tensor]:
    """Recipe weights of a manifest as tensors, without copies."""
    made = recipe().state_dict(tag, keys, variant)
    return {key: torch.from_numpy(value) for key, value in made.items()}


def assert_close(found: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    """Largest difference within `tolerance` of the largest reference value."""
    assert found.shape == wanted.shape, what
    error = (found.double() - wanted.double()).abs().max() / wanted.double().abs().max()
    assert error <= tolerance, f"{what}: {float(error):.3g} of max, allowed {tolerance}"
