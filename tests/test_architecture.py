"""Who may import whom, file sizes, and what the repository must not say."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "ldmsid_core"
# Package -> packages of ours it may import, itself included; modules beside them by name.
ALLOWED = {
    "errors": set(),
    "finite": set(),
    "wavelet": {"errors"},
    "model_files": {"errors"},
    "sampling_grid": {"errors"},
    "band_views": {"pipeline", "raw", "taming", "wavelet"},
    "safetensors_file": {"errors", "finite", "output"},
    "raw": {"errors", "output", "raw"},
    "output": {"errors", "output", "raw"},
    "csv_table": {"errors"},
    "pickled_file": {"errors"},
    "weight_file": {"errors", "pickled_file"},
    "conversion": {
        "errors", "finite", "hosts", "output", "taming", "pickled_file", "weight_file",
        "conversion",
    },
    "taming": {"errors", "finite", "wavelet", "taming", "safetensors_file", "pickled_file"},
    "tiling": {"errors"},
    "memory": {"errors"},
    "crop": {"errors", "tiling"},
    "patchwork": {"tiling"},
    "shared_norms": set(),
    "frame_plan": {"errors", "tiling", "work", "decoding", "patchwork"},
    "decoding": {
        "errors", "wavelet", "taming", "tiling", "crop", "work", "memory", "decoding", "patchwork",
    },
    "work": {"errors", "tiling"},
    "pipeline": {"errors", "finite", "wavelet", "raw", "taming", "crop"},
    "enlarged": {"tiling"},
    "released_recipe": {"errors", "tiling", "wavelet", "pipeline"},
    "hosts": {
        "errors", "wavelet", "taming", "pipeline", "hosts", "safetensors_file", "sampling_grid",
        "weight_file", "tiling", "decoding", "memory", "work", "frame_plan", "crop",
        "enlarged", "finite", "patchwork", "shared_norms",
    },
    "evaluation": {
        "errors", "finite", "output", "raw", "weight_file", "csv_table", "evaluation",
    },
    "training": {
        "errors", "wavelet", "raw", "taming", "hosts", "output", "training", "model_files",
        "sampling_grid", "safetensors_file", "weight_file", "evaluation", "csv_table", "finite",
    },
}  # fmt: skip
OUTSIDE = {
    "diffusers": ("hosts", "training"),
    # The loader, and LibRaw's own development as a rival in evaluations.
    "rawpy": ("raw/loader.py", "raw/develop_libraw.py"),
    "click": ("cli",),
}
FILES = sorted(CORE.rglob("*.py"))


def _unit(path: Path) -> str:
    return path.relative_to(CORE).with_suffix("").parts[0]


def _own_imports(path: Path) -> set[str]:
    """First part below `ldmsid_core` of every relative import."""
    depth = len(path.relative_to(CORE).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = depth - node.level
            if above > 0:
                found.add(_unit(path))
            elif node.module:
                found.add(node.module.split(".")[0])
            else:
                found.update(alias.name for alias in node.names)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = (
                [node.module]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            assert not any(n and n.startswith("ldmsid_core") for n in names), path
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CORE)))
def test_arrows_go_down_only(path: Path) -> None:
    unit = _unit(path)
    if unit.startswith("cli") or unit in ("__init__", "__main__"):
        return
    assert _own_imports(path) <= ALLOWED[unit], path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CORE)))
def test_outside_packages_stay_where_they_belong(path: Path) -> None:
    where = path.relative_to(CORE).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        for name in names:
            allowed = OUTSIDE.get(name.split(".")[0])
            assert allowed is None or where.startswith(allowed), f"{where} imports {name}"


def test_files_stay_under_300_lines() -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for folder in ("ldmsid_core", "nodes", "tests", "tools", "benchmarks")
        for p in (ROOT / folder).rglob("*.py")
        if (n := len(p.read_text(encoding="utf-8").splitlines())) >= 300
    }
    assert not long


def test_the_way_of_comfyui_needs_neither_diffusers_nor_click() -> None:
    modules = "ldmsid_core.pipeline, ldmsid_core.raw.loader, ldmsid_core.output.writers"
    code = f"import sys, {modules}; print([m for m in ('diffusers', 'click') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
