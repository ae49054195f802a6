"""The real frontend in headless Chromium: open it, load a workflow, run it, read what shows.

Works on any base URL, a `FrontendHost` as well as a real ComfyUI.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FloatRect, Page

# Oldest and newest supported frontend -> the recorded host whose nodes it shows.
FRONTENDS = {"1.27.10": "0.3.64", "1.58.1": "0.33.0"}
SETTINGS: dict[str, Any] = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": False,
    "Comfy.Canvas.NavigationMode": "legacy",
    "Comfy.Canvas.LeftMouseClickBehavior": "panning",
    "Comfy.Canvas.MouseWheelScroll": "zoom",
    "Comfy.Validation.Workflows": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
}
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The page may talk to this machine only.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
_READY = (
    "() => window.app?.extensionManager?.spinner === false"
    " && !document.querySelector('#splash-loader')"
)
_LOAD = """async (text) => {
  window.ldmsidMissing = null;
  if (!window.ldmsidWatch) {
    window.ldmsidWatch = true;
    app.registerExtension({
      name: "ldmsid.test_watch",
      afterConfigureGraph(missing) { window.ldmsidMissing = missing.map((m) => m.type ?? m); },
    });
  }
  await app.loadGraphData(JSON.parse(text));
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const nodes = (app.rootGraph ?? app.graph).nodes;
  const errors = nodes.filter((n) => n.has_errors).map((n) => n.type);
  return JSON.stringify({ missing: window.ldmsidMissing, errors });
}"""
_OUTPUT = "async () => JSON.stringify((await app.graphToPrompt()).output)"
_RUN = """async () => {
  const { api } = window.comfyAPI.api;
  window.ldmsidRun = { outputs: {}, done: false, error: null };
  const run = window.ldmsidRun;
  api.addEventListener("executed", ({ detail }) => { run.outputs[detail.node] = detail.output; });
  api.addEventListener("execution_success", () => { run.done = true; });
  api.addEventListener("execution_error", ({ detail }) => {
    run.error = `${detail.node_type}: ${detail.exception_message}`;
  });
  await app.queuePrompt(0, 1);
}"""
_PICTURES = """(id) => {
  const node = (app.rootGraph ?? app.graph).getNodeById(Number(id));
  const own = (node?.widgets ?? []).map((w) => w.element)
    .filter((e) => e?.classList?.contains("ldmsid-compare"))
    .flatMap((e) => [...e.querySelectorAll("img")]);
  const pictures = [...(node?.imgs ?? []), ...own];
  return pictures.length > 0 && pictures.every((p) => p.complete && p.naturalWidth > 0);
}"""
_FIT = """() => {
  const graph = app.rootGraph ?? app.graph;
  const items = [...graph.nodes, ...graph.groups];
  const boxes = items.map((item) => item.boundingRect ?? item._bounding);
  const left = Math.min(...boxes.map((b) => b[0])), top = Math.min(...boxes.map((b) => b[1]));
  const right = Math.max(...boxes.map((b) => b[0] + b[2]));
  const bottom = Math.max(...boxes.map((b) => b[1] + b[3]));
  const { ds, canvas } = app.canvas, edge = 200;
  ds.scale = Math.min(
    (canvas.clientWidth - edge) / (right - left), (canvas.clientHeight - edge) / (bottom - top), 1
  );
  ds.offset[0] = canvas.clientWidth / 2 / ds.scale - (left + right) / 2;
  ds.offset[1] = canvas.clientHeight / 2 / ds.scale - (top + bottom) / 2;
  app.canvas.setDirty(true, true);
  const place = canvas.getBoundingClientRect(), margin = 20;
  return {
    x: place.left + (left + ds.offset[0]) * ds.scale - margin,
    y: place.top + (top + ds.offset[1]) * ds.scale - margin,
    width: (right - left) * ds.scale + 2 * margin,
    height: (bottom - top) * ds.scale + 2 * margin,
  };
}"""
# The elements of a message: two generations of older frontends, then the newest.
TOASTS = ".p-toast-message, [data-sonner-toast], [data-testid='toast-viewport'] > li"


@dataclass
class Loaded:
    """What the frontend found while loading a workflow."""

    missing: list[str]
    errors: list[str]
    toasts: list[str] = field(default_factory=list)


def frontend_folder(version: str) -> Path:
    """Where `tools/install_frontends.sh` puts the static files of a frontend."""
    return Path(sys.prefix) / "frontends" / version / "comfyui_frontend_package" / "static"


def chromium_path() -> str | None:
    """The system's Chromium."""
    usual = Path("/usr/bin/chromium")
    return str(usual) if usual.is_file() else shutil.which("chromium")


def missing_reason(version: str | None = None) -> str | None:
    """Why browser tests cannot run here; None if they can.

    Args:
        version: A frontend that must be installed; None where a real host serves its own.
    """
    for module in ("playwright", "aiohttp"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install {module}"
    if chromium_path() is None:
        return "no Chromium: run tools/install_chromium.sh"
    if version is not None and not frontend_folder(version).is_dir():
        return f"no frontend {version}: run tools/install_frontends.sh"
    return None


def describe_frontends() -> list[str]:
    """Lines for pytest's header: which frontends the browser tests use."""
    lines = []
    for version, host in FRONTENDS.items():
        reason = missing_reason(version)
        nodes = f"with the nodes of ComfyUI {host}" if reason is None else f"skipped, {reason}"
        lines.append(f"frontend {version}: {nodes}")
    return lines


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser that reaches this machine only."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path(), headless=True, args=_ARGUMENTS
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(
    browser: Browser,
    url: str,
    *,
    settings: dict[str, Any] | None = None,
    size: tuple[int, int] = (1600, 900),
) -> Iterator[Page]:
    """The frontend of a host in a fresh context, ready and with an empty graph.

    Args:
        browser: From `chromium`.
        url: The host's address.
        settings: More settings, over `SETTINGS`; they are written to the host before it loads.
        size: Of the window, in CSS pixels.

    Yields:
        The page; its uncaught errors fail an assertion when the context ends.
    """
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    try:
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        context.request.post(f"{url}/api/settings", data={**SETTINGS, **(settings or {})})
        page.goto(url)
        page.wait_for_function(_READY, timeout=60_000)
        page.evaluate("() => (app.rootGraph ?? app.graph).clear()")
        yield page
        assert not errors, f"uncaught errors in the page: {errors}"
    finally:
        context.close()


def load_workflow(page: Page, workflow: dict[str, Any]) -> Loaded:
    """Load a workflow of the UI format; what is wrong with it, if anything."""
    found = json.loads(page.evaluate(_LOAD, json.dumps(workflow)))
    return Loaded(found["missing"], found["errors"], toasts(page))


def toasts(page: Page) -> list[str]:
    """The texts of the messages that the page shows."""
    return page.locator(TOASTS).all_inner_texts()


def prompt_of(page: Page) -> dict[str, Any]:
    """The API graph that the Run button would send."""
    return json.loads(page.evaluate(_OUTPUT))


def settle(page: Page) -> None:
    """Wait until the canvas is drawn, so that widgets know where they are."""
    page.evaluate("() => new Promise((d) => requestAnimationFrame(() => requestAnimationFrame(d)))")


def show_whole_graph(page: Page) -> FloatRect:
    """Move the view so that every node and group is in it; where they are in the window."""
    box = page.evaluate(_FIT)
    settle(page)
    return box


def without_titles(prompt: dict[str, Any]) -> dict[str, Any]:
    """An API graph without what only names its nodes."""
    return {
        name: {key: value for key, value in node.items() if key != "_meta"}
        for name, node in prompt.items()
    }


def run_and_wait(
    page: Page, workflow: dict[str, Any], node: int, *, timeout_s: float = 120
) -> dict[str, Any]:
    """Load a workflow, run it, and wait for the pictures of one node.

    Args:
        page: From `open_page`.
        workflow: UI format.
        node: Id of the node whose pictures must show.
        timeout_s: For the run, in seconds.

    Returns:
        Node id -> what the host reported for it.

    Raises:
        RuntimeError: If the host reports an error.
    """
    load_workflow(page, workflow)
    page.evaluate(_RUN)
    page.wait_for_function(
        "() => window.ldmsidRun.done || window.ldmsidRun.error", timeout=timeout_s * 1000
    )
    run = json.loads(page.evaluate("() => JSON.stringify(window.ldmsidRun)"))
    if run["error"]:
        raise RuntimeError(f"Expected the workflow to run, but {run['error']}")
    page.wait_for_function(_PICTURES, arg=node, timeout=30_000)
    return run["outputs"]
