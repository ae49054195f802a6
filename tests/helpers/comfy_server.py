"""A real ComfyUI server with the pack, in a process of its own, and what a client asks of it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.comfy_hosts import ROOT, ComfyHost

PACK_FOLDER = "x-y_1.0"
_START_S = 180


@dataclass(frozen=True)
class ComfyServer:
    """A running server.

    Attributes:
        host: Which ComfyUI.
        url: Its address.
        base: Its base directory with input, output, temp, models, custom_nodes.
        log: What it printed.
    """

    host: ComfyHost
    url: str
    base: Path
    log: Path

    def request(self, path: str, data: Any = None, kind: str = "application/json") -> bytes:
        """GET, or POST with data; raises `urllib.error.HTTPError` as the server says."""
        body = data if isinstance(data, bytes) or data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            self.url + path, data=body, headers={"Content-Type": kind} if body else {}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            found: bytes = answer.read()
        return found

    def get(self, path: str) -> Any:
        """A JSON answer."""
        return json.loads(self.request(path))

    def refused(self, path: str, data: Any, kind: str = "application/json") -> tuple[int, str]:
        """Status and text of an answer that is no success."""
        try:
            self.request(path, data, kind)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        raise AssertionError(f"{path} accepted what it should refuse")

    def queue(self, graph: dict[str, Any], workflow: Any = None) -> str:
        """Id of a queued API graph."""
        extra = {} if workflow is None else {"extra_pnginfo": {"workflow": workflow}}
        answer = self.request("/prompt", {"prompt": graph, "extra_data": extra})
        found: str = json.loads(answer)["prompt_id"]
        return found

    def wait(self, prompt_id: str, timeout_s: float = 300) -> dict[str, Any]:
        """The history entry of a run that has ended, however it ended."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                found: dict[str, Any] = history[prompt_id]
                return found
            time.sleep(0.2)
        raise TimeoutError(f"{prompt_id} still runs after {timeout_s} s; see {self.log}")

    def run(self, graph: dict[str, Any], workflow: Any = None) -> dict[str, Any]:
        """Outputs of a graph that must succeed, by node id."""
        ended = self.wait(self.queue(graph, workflow))
        assert ended["status"]["status_str"] == "success", error_of(ended)
        outputs: dict[str, Any] = ended["outputs"]
        return outputs

    def file(self, entry: dict[str, str]) -> Path:
        """Where a reported picture lies."""
        return self.base / entry["type"] / entry["subfolder"] / entry["filename"]


def error_of(ended: dict[str, Any]) -> str:
    """Node and message of a run that failed."""
    for kind, detail in ended["status"]["messages"]:
        if kind == "execution_error":
            return f"{detail['node_type']}: {detail['exception_message']}"
        if kind == "execution_interrupted":
            return "interrupted"
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def comfy_server(host: ComfyHost, base: Path) -> Iterator[ComfyServer]:
    """Start a server with the pack under `base` and stop it at the end."""
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    (base / "custom_nodes" / PACK_FOLDER).symlink_to(ROOT, target_is_directory=True)
    port, log = _free_port(), base / "server.log"
    command = [
        str(host.python), str(host.path / "main.py"), "--cpu", "--base-directory", str(base),
        "--database-url", f"sqlite:///{base}/comfy.db", "--listen", "127.0.0.1",
        "--port", str(port), "--disable-auto-launch", "--preview-method", "auto",
    ]  # fmt: skip
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, cwd=host.path, env=host.environment()
        )
    server = ComfyServer(host, f"http://127.0.0.1:{port}", base, log)
    try:
        _await_start(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def _await_start(server: ComfyServer, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            server.request("/system_stats")
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    tail = server.log.read_text(errors="replace")[-3000:]
    raise RuntimeError(f"ComfyUI {server.host.version} did not start:\n{tail}")
