"""Every check of `comfy_checks` inside every real ComfyUI found, in a process of its own.

What concerns files, binding and decoding is listed there; the names below are read from it.
"""

from __future__ import annotations

import ast
import json
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.comfy_hosts import ROOT, ComfyHost, find_hosts, find_tiled_diffusion
from helpers.golden import golden_folder
from helpers.tiled_results import tiled_results
from safetensors.torch import save_file

from ldmsid_core.hosts.engine import ready_engine
from ldmsid_core.hosts.host import load_host
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.model_files import EMBEDDED, SAMPLE_RAW
from ldmsid_core.pipeline import enhance
from ldmsid_core.raw.loader import load_raw
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.wavelet import SubBands

pytestmark = pytest.mark.comfy
CHECKS = Path(__file__).parent / "comfy_checks"
MODULES = (
    "checks_memory", "checks_files", "checks_binding", "checks_guidance", "checks_packs",
    "checks_decode", "checks_base", "checks_tiles", "checks_norms", "checks_crop",
    "checks_released",
)  # fmt: skip
# Gigabytes of weights: in a process of its own.
FULL_MODULES = ("checks_released_full",)
HOSTS = find_hosts()


def check_names(module: str) -> list[str]:
    """The checks of a module, without importing it here."""
    tree = ast.parse((CHECKS / f"{module}.py").read_text(encoding="utf-8"))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [name for name in functions if name.startswith("check_")]


NAMES = [name for module in MODULES for name in check_names(module)]
FULL_NAMES = [name for module in FULL_MODULES for name in check_names(module)]


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latent and picture of the sample by the command line's engine: float32, seed 5, 6 steps."""
    raw, host, taming = load_raw(SAMPLE_RAW), load_host(EMBEDDED.host), load_taming(EMBEDDED.taming)
    found: dict[str, torch.Tensor] = {}
    with ready_engine(
        host, taming, device=torch.device("cpu"), dtype=torch.float32,
        settings=SamplingSettings(steps=6),
    ) as (sample, decode):  # fmt: skip

        def keep(bands: SubBands, seed: int) -> torch.Tensor:
            unscaled = sample(bands, seed)
            found["latent"] = (unscaled * host.header.latent_scale).clone()
            return unscaled

        found["image"] = enhance(
            raw, taming.header.input_recipe, exposure_ratio=250.0, seed=5,
            sample=keep, decode=decode,
        ).image.clone()  # fmt: skip
    found |= tiled_results()
    path = tmp_path_factory.mktemp("expected") / "sample.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, str(path))
    return path


@lru_cache(maxsize=8)
def _verdicts(
    host: ComfyHost, base: Path, settings: str, modules: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Run all checks of some modules in a host once; verdict by name."""
    pack = base / "custom_nodes" / "x-y_1.0"
    pack.parent.mkdir(parents=True, exist_ok=True)
    if not pack.exists():
        pack.symlink_to(ROOT, target_is_directory=True)
    done = subprocess.run(
        [host.python, CHECKS / "runner.py", host.path, pack, base, *modules],
        input=settings, capture_output=True, text=True, env=host.environment(), cwd=base,
        timeout=1800,
    )  # fmt: skip
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith('{"verdict"'):
            verdict = json.loads(line)["verdict"]
            found[verdict["name"]] = verdict
    if set(found) != {name for module in modules for name in check_names(module)}:
        pytest.fail(f"ComfyUI {host.version} stopped early:\n{done.stderr[-3000:]}")
    return found


@pytest.fixture(scope="session")
def base_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base directory for each host."""
    return {host.version: tmp_path_factory.mktemp(f"comfy-{host.version}") for host in HOSTS}


def _check(host: ComfyHost, base: Path, name: str, modules: tuple[str, ...], **more: str) -> None:
    """One check's verdict; the first asked for runs all of them."""
    tiler, golden = find_tiled_diffusion(), golden_folder()
    settings = {
        "tiled_diffusion": str(tiler) if tiler else None,
        "golden": str(golden) if golden.is_dir() else None,
        **more,
    }
    verdict = _verdicts(host, base, json.dumps(settings), modules)[name]
    if verdict["ok"] is None:
        pytest.skip(verdict["why"])
    assert verdict["ok"], verdict["why"]


@pytest.mark.skipif(not HOSTS, reason="no ComfyUI found: set COMFYUI_PATH")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("host", HOSTS or [None], ids=lambda h: h.version if h else "none")
def test_check(host: ComfyHost, name: str, expected: Path, base_folders: dict[str, Path]) -> None:
    _check(host, base_folders[host.version], name, MODULES, expected=str(expected))


@pytest.mark.slow
@pytest.mark.skipif(not HOSTS, reason="no ComfyUI found: set COMFYUI_PATH")
@pytest.mark.parametrize("name", FULL_NAMES)
@pytest.mark.parametrize("host", HOSTS or [None], ids=lambda h: h.version if h else "none")
def test_full_size(host: ComfyHost, name: str, base_folders: dict[str, Path]) -> None:
    _check(host, base_folders[host.version], name, FULL_MODULES)
