"""Finds real ComfyUI checkouts and gives their Python what the pack depends on.

Looked for in `$COMFYUI_PATH` (a list, separated like PATH), then where comfy-cli puts it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_USUAL = ("ComfyUI", "ComfyUI-0.33")
# Import names of the pack's dependencies that a ComfyUI may lack, and what installs them.
_NEEDED = {
    "rawpy": "rawpy>=0.28",
    "tifffile": "tifffile",
    "png": "pypng",
    "exifread": "exifread>=3.5",
}


@dataclass(frozen=True)
class ComfyHost:
    """One checkout.

    Attributes:
        path: Its folder.
        version: As in `comfyui_version.py`.
        python: The interpreter of its own environment.
    """

    path: Path
    version: str
    python: Path

    def environment(self) -> dict[str, str]:
        """Environment of its processes: the pack's dependencies, where it lacks them, added."""
        extra = _dependencies(self)
        cleaned = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return {**cleaned, **({"PYTHONPATH": str(extra)} if extra else {})}


def _python_of(path: Path) -> Path:
    for name in (".venv", "venv"):
        for relative in ("bin/python", "Scripts/python.exe"):
            if (path / name / relative).exists():
                return path / name / relative
    return Path(sys.executable)


def _host_at(path: Path) -> ComfyHost | None:
    version_file = path / "comfyui_version.py"
    if not (path / "main.py").is_file() or not version_file.is_file():
        return None
    found = re.search(r'__version__ = "([^"]+)"', version_file.read_text(encoding="utf-8"))
    return ComfyHost(path, found.group(1) if found else "unknown", _python_of(path))


@lru_cache(maxsize=1)
def find_hosts() -> tuple[ComfyHost, ...]:
    """All checkouts, without repeats; empty where there is none."""
    named = [Path(p) for p in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if p]
    usual = [Path.home() / "comfy" / name for name in _USUAL]
    places = dict.fromkeys(path.resolve() for path in (*named, *usual) if path.is_dir())
    return tuple(host for place in places if (host := _host_at(place)) is not None)


def find_tiled_diffusion() -> Path | None:
    """A checkout of the TiledDiffusion pack, in `$TILED_DIFFUSION_PATH` or beside the hosts."""
    named = os.environ.get("TILED_DIFFUSION_PATH")
    places = [Path(named)] if named else []
    places.append(Path.home() / "comfy" / "ComfyUI-TiledDiffusion")
    places += [host.path / "custom_nodes" / "ComfyUI-TiledDiffusion" for host in find_hosts()]
    return next((p for p in places if (p / "tiled_diffusion.py").is_file()), None)


@lru_cache(maxsize=8)
def _dependencies(host: ComfyHost) -> Path | None:
    """A folder beside our own environment with what the host's environment lacks."""
    probe = (
        "import importlib.util as u, sys; "
        f"print(*[n for n in {list(_NEEDED)} if u.find_spec(n) is None], "
        "f'{sys.version_info[0]}.{sys.version_info[1]}')"
    )
    *missing, version = subprocess.run(
        [host.python, "-c", probe], capture_output=True, text=True, check=True
    ).stdout.split()
    if not missing:
        return None
    folder = Path(sys.prefix) / "comfy-dependencies" / version
    wanted = [_NEEDED[name] for name in missing if not list(folder.glob(f"{name}*"))]
    if wanted:
        subprocess.run(
            [
                host.python, "-m", "pip", "install", "--quiet", "--no-deps", "--target",
                str(folder), *wanted,
            ],
            check=True,
        )  # fmt: skip
    return folder


def describe_hosts() -> str:
    """One line for the head of a test run."""
    hosts = find_hosts()
    if not hosts:
        return "ComfyUI: none found (set COMFYUI_PATH); its tests are skipped"
    return "ComfyUI: " + ", ".join(f"{host.version} at {host.path}" for host in hosts)
