"""The pack in the real frontend: bundled workflows, upload, thumbnail, slider, help, languages."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import browser as b
from helpers.host_answers import picture
from helpers.object_info import OUR_PREFIX, PACK, SAMPLE, load_record, with_taming_file

if TYPE_CHECKING:
    from helpers.frontend_host import FrontendHost
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[1]
SCREENSHOTS = ROOT / "out" / "screenshots"
WORKFLOWS = sorted(path.stem for path in (ROOT / "tests" / "workflows").glob("*.json"))
LOAD_RAW, COMPARE = 1, 7  # In the workflow enhance_raw.
_NODE = "(app.rootGraph ?? app.graph).getNodeById({})"
_RAW_WIDGET = _NODE.format(LOAD_RAW) + ".widgets.find((w) => w.name === '{}')"
COMBO = _RAW_WIDGET.format("raw_file")
THUMBNAIL = _RAW_WIDGET.format("thumbnail") + ".element"
# Where a point of the graph is in the window.
_TO_WINDOW = """
  const { ds, canvas } = app.canvas, place = canvas.getBoundingClientRect();
  const at = (x, y) => [
    place.left + (x + ds.offset[0]) * ds.scale, place.top + (y + ds.offset[1]) * ds.scale,
  ];
"""
_DROP = f"""async ([id, name]) => {{
  const node = {_NODE.format("id")};
  {_TO_WINDOW}
  const [clientX, clientY] = at(node.pos[0] + node.size[0] / 2, node.pos[1] + 10);
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(["bytes"], name));
  for (const kind of ["dragenter", "dragover", "drop"]) {{
    const init = {{ dataTransfer, clientX, clientY, bubbles: true, cancelable: true }};
    canvas.dispatchEvent(new DragEvent(kind, init));
  }}
}}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if reason := b.missing_reason():
        pytest.skip(reason)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with b.chromium() as browser:
        yield browser


@pytest.fixture(params=b.FRONTENDS)
def version(request: pytest.FixtureRequest) -> str:
    if reason := b.missing_reason(request.param):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def host(version: str) -> Iterator[FrontendHost]:
    from helpers.frontend_host import FrontendHost

    nodes = with_taming_file(load_record(b.FRONTENDS[version]))
    with FrontendHost(b.frontend_folder(version), nodes) as server:
        yield server


@pytest.fixture
def page(chromium: Browser, host: FrontendHost) -> Iterator[Page]:
    with b.open_page(chromium, host.url) as opened:
        yield opened


@pytest.fixture
def raw_page(page: Page) -> Page:
    """A page that shows the workflow enhance_raw."""
    b.load_workflow(page, workflow("enhance_raw"))
    b.show_whole_graph(page)
    return page


def workflow(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))


def api_twin(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "tests" / "workflows" / f"{name}.json").read_text("utf-8"))


def shoot(page: Page, version: str, name: str) -> None:
    page.screenshot(path=SCREENSHOTS / f"{name}_{version}.png")


def wait_for(page: Page, condition: str) -> None:
    page.wait_for_function(f"() => {condition}", timeout=10_000)


def wait_for_toast(page: Page, text: str) -> None:
    """Wait until a message with this text shows."""
    page.locator(b.TOASTS).filter(has_text=text).first.wait_for(timeout=10_000)


def click_widget(page: Page, node: int, name: str) -> None:
    """Click a widget that is drawn on the canvas."""
    where = page.evaluate(
        f"""([id, name]) => {{
          const node = {_NODE.format("id")}, w = node.widgets.find((w) => w.name === name);
          {_TO_WINDOW}
          return at(node.pos[0] + node.size[0] / 2, node.pos[1] + w.last_y + 10);
        }}""",
        [node, name],
    )
    page.mouse.click(*where)


def test_the_workflows_load_cleanly_and_are_their_api_graphs(page: Page, version: str) -> None:
    script = """() => Object.fromEntries((app.rootGraph ?? app.graph).nodes.map(
      (n) => [n.id, (n.widgets ?? []).filter((w) => w.serialize !== false).length]))"""
    assert WORKFLOWS
    for name in WORKFLOWS:
        saved = workflow(name)
        assert b.load_workflow(page, saved) == b.Loaded(missing=[], errors=[], toasts=[]), name
        assert page.locator(".p-dialog").count() == 0, name
        assert b.without_titles(b.prompt_of(page)) == api_twin(name), name
        lengths = {str(n["id"]): len(n.get("widgets_values", [])) for n in saved["nodes"]}
        assert page.evaluate(script) == lengths, name
        b.show_whole_graph(page)
        shoot(page, version, f"workflow_{name}")


def test_a_workflow_of_an_earlier_version_gets_defaults(page: Page) -> None:
    saved = workflow("enhance_raw")
    appended = {"LDMSID_SplitBands": 1, "LDMSID_TamedSampler": 3, "LDMSID_TamedDecode": 2}
    for node in saved["nodes"]:
        if node["type"] in appended:
            count = appended[node["type"]]
            node["widgets_values"] = node["widgets_values"][:-count]
            last = [slot for slot in node["inputs"] if slot["name"] == "vae" and not slot["link"]]
            widgets = [slot for slot in node["inputs"] if "widget" in slot][-count:]
            node["inputs"] = [slot for slot in node["inputs"] if slot not in last + widgets]
    assert b.load_workflow(page, saved) == b.Loaded(missing=[], errors=[], toasts=[])
    assert b.without_titles(b.prompt_of(page)) == api_twin("enhance_raw")


def test_a_broken_workflow_is_noticed(page: Page) -> None:
    """Shows that the test above would fail: a node that nobody has, and a value of a wrong kind."""
    broken = workflow("split_bands_explained")
    broken["nodes"][0]["type"] = "LDMSID_Nothing"
    broken["nodes"][1]["mode"] = "none"
    found = b.load_workflow(page, broken)
    assert "LDMSID_Nothing" in found.missing + found.errors
    wait_for_toast(page, "Invalid workflow")


def test_run_sends_the_api_graph(raw_page: Page, host: FrontendHost) -> None:
    raw_page.get_by_test_id("queue-button").get_by_text("Run").click()
    deadline = time.monotonic() + 10
    while not host.prompts and time.monotonic() < deadline:
        raw_page.wait_for_timeout(50)
    (sent,) = host.prompts
    assert b.without_titles(sent["prompt"]) == api_twin("enhance_raw")
    assert sent["extra_data"]["extra_pnginfo"]["workflow"]["id"] == workflow("enhance_raw")["id"]


def test_the_button_uploads_a_raw_and_shows_it(
    raw_page: Page, host: FrontendHost, version: str
) -> None:
    wait_for(raw_page, f"{THUMBNAIL}.style.display === 'block'")
    with raw_page.expect_file_chooser() as chooser:
        click_widget(raw_page, LOAD_RAW, "upload_raw")
    assert ".arw" in str(chooser.value.element.get_attribute("accept"))
    chooser.value.set_files({"name": "night.ARW", "mimeType": "", "buffer": b"raw"})
    wait_for(raw_page, f"{COMBO}.value === 'night.ARW'")
    assert host.uploads == ["night.ARW"]
    assert raw_page.evaluate(f"{COMBO}.options.values") == ["night.ARW", SAMPLE]
    assert b.prompt_of(raw_page)[str(LOAD_RAW)]["inputs"] == {"raw_file": "night.ARW"}
    wait_for(raw_page, f"{THUMBNAIL}.src.includes('night.ARW') && {THUMBNAIL}.naturalWidth > 0")
    wait_for(raw_page, f"{THUMBNAIL}.complete && {THUMBNAIL}.style.display === 'block'")
    assert host.thumbnails[-1] == "night.ARW"
    shoot(raw_page, version, "upload")


def test_a_dropped_raw_is_uploaded_and_chosen(raw_page: Page, host: FrontendHost) -> None:
    raw_page.evaluate(_DROP, [LOAD_RAW, "dropped.ARW"])
    wait_for(raw_page, f"{COMBO}.value === 'dropped.ARW'")
    assert host.uploads == ["dropped.ARW"]


def test_another_kind_of_file_is_refused(raw_page: Page, host: FrontendHost, version: str) -> None:
    raw_page.evaluate(_DROP, [LOAD_RAW, "notes.txt"])
    wait_for_toast(raw_page, "Expected a camera RAW")
    assert host.uploads == []
    assert raw_page.evaluate(f"{COMBO}.value") == SAMPLE
    shoot(raw_page, version, "refused")


def test_a_file_over_the_limit_is_explained(
    raw_page: Page, host: FrontendHost, version: str
) -> None:
    host.upload_status = 413
    raw_page.evaluate(_DROP, [LOAD_RAW, "large.DNG"])
    wait_for_toast(raw_page, "--max-upload-size")
    assert raw_page.evaluate(f"{COMBO}.value") == SAMPLE
    shoot(raw_page, version, "too_large")


def test_the_thumbnail_hides_where_there_is_none(raw_page: Page, host: FrontendHost) -> None:
    wait_for(raw_page, f"{THUMBNAIL}.style.display === 'block'")
    host.thumbnail_status = 422
    raw_page.evaluate(f"{COMBO}.callback({COMBO}.value)")
    wait_for(raw_page, f"{THUMBNAIL}.style.display === 'none'")
    host.thumbnail_status = 200
    raw_page.evaluate(f"{COMBO}.callback({COMBO}.value)")
    wait_for(raw_page, f"{THUMBNAIL}.style.display === 'block'")


def test_the_slider_follows_the_pointer(page: Page, host: FrontendHost, version: str) -> None:
    host.pictures = {
        "before.png": picture((320, 200), "maroon", "PNG"),
        "after.png": picture((160, 100), "gold", "PNG"),
    }
    pair = [
        {"filename": name, "subfolder": "", "type": "temp"} for name in ("before.png", "after.png")
    ]
    host.results = {str(COMPARE): {"ldmsid_compare": pair}}
    outputs = b.run_and_wait(page, workflow("enhance_raw"), COMPARE)
    assert outputs[str(COMPARE)]["ldmsid_compare"] == pair
    b.show_whole_graph(page)
    slider = page.locator(".ldmsid-compare")
    upper = slider.locator("img").last
    assert "before.png" in str(upper.get_attribute("src"))
    box = slider.bounding_box()
    assert box is not None
    for share in (0.25, 0.8):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        clip = upper.evaluate("(e) => e.style.clipPath")
        found = re.fullmatch(r"inset\(0(?:px)? ([\d.]+)% 0(?:px)? 0(?:px)?\)", clip)
        assert found is not None, clip
        # The pointer's place is rounded to whole pixels of a box some 200 wide.
        assert float(found[1]) == pytest.approx(100 * (1 - share), abs=1)
    shoot(page, version, "slider")


def test_every_node_has_a_help_page(host: FrontendHost) -> None:
    for name in (node for node in host.object_info if node.startswith(OUR_PREFIX)):
        with urllib.request.urlopen(f"{host.url}/extensions/{PACK}/docs/{name}.md") as answer:
            assert "html" not in answer.headers["Content-Type"]
            assert len(answer.read()) > 100, name


def test_the_help_page_shows_in_the_frontend(raw_page: Page, version: str) -> None:
    text = (ROOT / "web" / "docs" / "LDMSID_ExposeRaw.md").read_text("utf-8")
    heading = next(line for line in text.splitlines() if line.startswith("#")).strip("# ")
    raw_page.evaluate(f"app.canvas.selectNode({_NODE.format(2)})")
    raw_page.get_by_test_id("info-button").click()
    raw_page.locator(".node-help-content").get_by_role("heading", name=heading).first.wait_for()
    shoot(raw_page, version, "help")


def test_chinese_titles(chromium: Browser, host: FrontendHost, version: str) -> None:
    texts = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))
    with b.open_page(chromium, host.url, settings={"Comfy.Locale": "zh"}) as page:
        b.load_workflow(page, workflow("enhance_raw"))
        titles = page.evaluate(
            """() => Object.fromEntries((app.rootGraph ?? app.graph).nodes
              .filter((n) => n.type.startsWith("LDMSID_")).map((n) => [n.type, n.title]))"""
        )
        b.show_whole_graph(page)
        shoot(page, version, "chinese")
        assert b.without_titles(b.prompt_of(page)) == api_twin("enhance_raw")
    assert titles == {name: texts[name]["display_name"] for name in titles}
    assert len(titles) == 8
