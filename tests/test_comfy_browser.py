"""A newcomer's first minutes: the real frontend of a real ComfyUI, template, Run, look, reload."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.browser import (
    chromium,
    missing_reason,
    open_page,
    prompt_of,
    run_and_wait,
    settle,
    show_whole_graph,
    without_titles,
)
from helpers.comfy_hosts import ROOT, ComfyHost, find_hosts
from helpers.comfy_server import PACK_FOLDER, ComfyServer, comfy_server

pytestmark = [pytest.mark.comfy, pytest.mark.browser]
HOSTS = find_hosts()
SCREENSHOTS = ROOT / "out" / "screenshots"
_DROP = """async ([bytes, name]) => {
  const data = Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0));
  await app.handleFile(new File([data], name, { type: "image/png" }));
  await new Promise((done) => setTimeout(done, 1500));
}"""


@pytest.fixture(scope="module", params=HOSTS or [None], ids=lambda h: h.version if h else "none")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    host: ComfyHost | None = request.param
    if host is None:
        pytest.skip("no ComfyUI found: set COMFYUI_PATH")
    if (reason := missing_reason()) is not None:
        pytest.skip(reason)
    with comfy_server(host, tmp_path_factory.mktemp(f"browser-{host.version}")) as running:
        yield running


def template(server: ComfyServer, name: str) -> dict[str, Any]:
    """A workflow as the template browser fetches it."""
    found: dict[str, Any] = server.get(f"/api/workflow_templates/{PACK_FOLDER}/{name}.json")
    return found


def test_first_workflow_in_the_real_frontend(server: ComfyServer) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    workflow = template(server, "enhance_raw")
    with chromium() as browser, open_page(browser, server.url) as page:
        compare = next(n["id"] for n in workflow["nodes"] if n["type"] == "LDMSID_CompareImages")
        outputs = run_and_wait(page, workflow, compare)
        saved = next(out["images"][0] for out in outputs.values() if "images" in out)
        show_whole_graph(page)
        page.wait_for_timeout(1000)
        settle(page)
        version = server.host.version
        page.screenshot(path=str(SCREENSHOTS / f"first_run_{version}.png"))
        # The saved photograph, dropped on an empty graph, gives the graph back.
        page.evaluate("() => (app.rootGraph ?? app.graph).clear()")
        data = base64.b64encode(server.file(saved).read_bytes()).decode()
        page.evaluate(_DROP, [data, saved["filename"]])
        twin = json.loads((ROOT / "tests" / "workflows" / "enhance_raw.json").read_text())
        assert without_titles(prompt_of(page)) == twin
