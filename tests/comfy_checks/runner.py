"""Runs checks inside a real ComfyUI's Python and prints one JSON line for each.

Usage: runner.py HOST PACK BASE MODULE... with settings as JSON on standard input. Not a test file:
`test_comfy_checks.py` starts it in a process of its own, once for each host.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def start_host(host: str, base: str) -> None:
    """Make the host importable, on the CPU, with its folders under `base`."""
    sys.path.insert(0, host)
    sys.argv = ["main.py", "--cpu", "--base-directory", base]
    import comfy.options

    comfy.options.enable_args_parsing()
    from comfy.cli_args import args

    args.cpu = True
    # The host's own package `utils`, before its comfy/utils.py can hide it.
    importlib.import_module("utils.extra_config")
    import folder_paths

    for name in ("input", "output", "temp"):
        (Path(base) / name).mkdir(exist_ok=True)
    folder_paths.set_input_directory(str(Path(base) / "input"))
    folder_paths.set_output_directory(str(Path(base) / "output"))
    folder_paths.set_temp_directory(str(Path(base) / "temp"))


def load_pack(folder: str) -> ModuleType:
    """Import a pack under the name that ComfyUI gives it."""
    name = folder.replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, str(Path(folder) / "__init__.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def start_server() -> None:
    """The server object that packs add their routes to; nothing listens."""
    import server

    server.PromptServer(asyncio.new_event_loop())


class Pack:
    """The loaded pack: node classes by id, and its modules by their short name."""

    def __init__(self, folder: str, settings: dict[str, Any]) -> None:
        """Import the pack and ask it for its nodes."""
        self.folder = folder
        self.settings = settings
        self.module = load_pack(folder)
        extension = asyncio.new_event_loop().run_until_complete(self.module.comfy_entrypoint())
        nodes = asyncio.new_event_loop().run_until_complete(extension.get_node_list())
        self.nodes = {node.GET_SCHEMA().node_id: node for node in nodes}

    def part(self, name: str) -> ModuleType:
        """A module of the pack, such as `nodes.files`."""
        return importlib.import_module(f"{self.module.__name__}.{name}")

    def run(self, node_id: str, **inputs: Any) -> tuple[Any, ...]:
        """Outputs of a node, executed as the host does, under inference mode."""
        return tuple(self.execute(node_id, **inputs).result or ())

    def execute(self, node_id: str, hidden: Any = None, **inputs: Any) -> Any:
        """The whole `NodeOutput` of a node.

        Args:
            node_id: Which node.
            hidden: What the host would put there: prompt and extra_pnginfo.
            inputs: Of the node.
        """
        import torch

        node: Any = self.nodes[node_id]
        if hidden is not None:
            node = type(node.__name__, (node,), {"hidden": hidden})
        with torch.inference_mode():
            return node.execute(**inputs)


def run_checks(pack: Pack, module: ModuleType) -> None:
    """Run every `check_*` function and print its verdict."""
    import torch

    checks: dict[str, Callable[[Pack], None]] = {
        name: value for name, value in vars(module).items() if name.startswith("check_")
    }
    for name, check in checks.items():
        try:
            with torch.inference_mode():
                check(pack)
            verdict = {"name": name, "ok": True}
        except CheckSkippedError as reason:
            verdict = {"name": name, "ok": None, "why": str(reason)}
        except BaseException:  # noqa: BLE001  the host's interrupt is no Exception on newer ones
            verdict = {"name": name, "ok": False, "why": traceback.format_exc()}
        print("\n" + json.dumps({"verdict": verdict}), flush=True)  # noqa: T201


class CheckSkippedError(Exception):
    """A check that cannot run here, with the reason."""


def main() -> None:
    """Start the host, load the pack, run the modules named on the command line."""
    host, folder, base, *names = sys.argv[1:]
    settings = json.load(sys.stdin)
    sys.path.insert(0, str(Path(__file__).parent))
    start_host(host, base)
    logging.basicConfig(level=logging.WARNING)
    start_server()
    pack = Pack(folder, settings)
    for name in names:
        run_checks(pack, importlib.import_module(name))


if __name__ == "__main__":
    sys.modules["runner"] = sys.modules["__main__"]
    main()
