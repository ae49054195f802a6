"""Make the bundled workflows from their API graphs with the newest supported frontend.

Usage: python tools/make_workflows.py [--pictures DIR] [NAME ...]

The graph comes from `tests/workflows/<name>.json`, its looks from `workflow_layouts`; the result
is `workflows/<name>.json`. With `--pictures`, `DIR/<name>.png` becomes the template's picture;
a template that has none gets a picture of its graph. Screenshots go to `out/screenshots`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from helpers import browser
from helpers.frontend_host import FrontendHost
from helpers.object_info import OUR_PREFIX, load_record, with_taming_file
from workflow_layouts import LAYOUTS, LORA, SD21, SD21_URL, Layout

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
FRONTEND, HOST = "1.58.1", "0.3.64"
PICTURE_WIDTH = 512
NODE_WIDTH, NOTE_WIDTH = 290, 400
TITLE, GAP_X, GAP_Y, PAD, GROUP_TITLE = 30, 50, 30, 20, 40
_MIN_SIZES = {
    "LDMSID_LoadRaw": (NODE_WIDTH, 330),
    "LDMSID_CompareImages": (460, 400),
    "LDMSID_SaveImage": (460, 330),
}
_BYPASSED = 4
_LOAD_API = """async ([api, name]) => {
  await app.loadApiJson(api, name);
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  for (const node of (app.rootGraph ?? app.graph).nodes) {
    for (const w of node.widgets ?? []) if (w.name === "control_after_generate") w.value = "fixed";
    node.setSize(node.computeSize());
  }
  return JSON.stringify((await app.graphToPrompt()).workflow);
}"""
_EXPORT = "async () => JSON.stringify((await app.graphToPrompt()).workflow)"


def with_lora_slot(api: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """The API graph with a LoRA loader where the layout wants one."""
    if layout.lora is None:
        return api
    api = json.loads(json.dumps(api))
    target = api[str(layout.lora_before)]["inputs"]
    loader = {"model": target["model"], "lora_name": LORA, "strength_model": 1.0}
    target["model"] = [str(layout.lora), 0]
    api[str(layout.lora)] = {"class_type": "LoraLoaderModelOnly", "inputs": loader}
    return api


def place_group(
    nodes: dict[int, dict[str, Any]], columns: tuple[tuple[int, ...], ...], x: int, y: int
) -> tuple[int, int]:
    """Set the nodes' positions from the top left corner of their group; its size."""
    left, bottom = x + PAD, y
    for column in columns:
        top = y + GROUP_TITLE
        for name in column:
            node = nodes[name]
            node["pos"] = [left, top + TITLE]
            top += TITLE + node["size"][1] + GAP_Y
        left += max(nodes[name]["size"][0] for name in column) + GAP_X
        bottom = max(bottom, top - GAP_Y)
    return left - GAP_X + PAD - x, bottom + PAD - y


def arrange(workflow: dict[str, Any], layout: Layout) -> None:
    """Give every node its place and size, and make the groups and notes."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for name, node in nodes.items():
        small = layout.sizes.get(name) or _MIN_SIZES.get(node["type"], (NODE_WIDTH, 0))
        node["size"] = [max(round(a), b) for a, b in zip(node["size"], small, strict=True)]
    groups = workflow["groups"] = []
    x = NOTE_WIDTH + GAP_X
    for column in layout.columns:
        y = wide = 0
        for group in column:
            width, height = place_group(nodes, group.columns, x, y)
            groups.append(
                {
                    "id": len(groups) + 1,
                    "title": group.title,
                    "bounding": [x, y, width, height],
                    "color": group.colour,
                    "font_size": 24,
                    "flags": {},
                }
            )
            y, wide = y + height + GAP_Y, max(wide, width)
        x += wide + GAP_X
    add_notes(workflow, layout)


def add_notes(workflow: dict[str, Any], layout: Layout) -> None:
    """Put the notes at the left of the graph."""
    y = TITLE
    for note in layout.notes:
        workflow["last_node_id"] += 1
        workflow["nodes"].append(
            {
                "id": workflow["last_node_id"],
                "type": "MarkdownNote",
                "title": note.title,
                "pos": [0, y],
                "size": [NOTE_WIDTH, note.height],
                "flags": {},
                "order": 0,
                "mode": 0,
                "inputs": [],
                "outputs": [],
                "properties": {},
                "widgets_values": [note.text],
                "color": "#432",
                "bgcolor": "#653",
            }
        )
        y += note.height + TITLE + GAP_Y


def describe(workflow: dict[str, Any], layout: Layout, version: str) -> None:
    """Titles, where each node comes from, what it needs, and the bypassed slot."""
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        ours = node["type"].startswith(OUR_PREFIX)
        node["properties"] |= {
            "cnr_id": "ldmsid" if ours else "comfy-core",
            "ver": version if ours else HOST,
        }
        if node["type"] == "CheckpointLoaderSimple":
            model = {"name": SD21, "url": SD21_URL, "directory": "checkpoints"}
            node["properties"]["models"] = [model]
        if node["id"] in layout.titles:
            node["title"] = layout.titles[node["id"]]
        if node["id"] == layout.lora:
            node["mode"] = _BYPASSED


def make(page: Page, name: str, version: str) -> dict[str, Any]:
    """One workflow, as the frontend exports it.

    Raises:
        RuntimeError: If it does not load cleanly or does not give the API graph back.
    """
    layout = LAYOUTS[name]
    api = json.loads((ROOT / "tests" / "workflows" / f"{name}.json").read_text("utf-8"))
    workflow = json.loads(page.evaluate(_LOAD_API, [with_lora_slot(api, layout), name]))
    arrange(workflow, layout)
    describe(workflow, layout, version)
    loaded = browser.load_workflow(page, workflow)
    if loaded.missing or loaded.errors or loaded.toasts:
        raise RuntimeError(f"Expected {name} to load without a message, found {loaded}")
    if browser.without_titles(browser.prompt_of(page)) != api:
        raise RuntimeError(f"Expected {name} to give its API graph back, found another one")
    made = json.loads(page.evaluate(_EXPORT))
    # The export holds the viewport and the frontend's version, which differ from run to run.
    return {**made, "id": layout.uuid, "revision": 0, "extra": {}}


def make_picture(source: Path, target: Path) -> None:
    """A template's picture from a larger one."""
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    height = round(picture.height * PICTURE_WIDTH / picture.width)
    picture.resize((PICTURE_WIDTH, height), Image.Resampling.LANCZOS).save(target, quality=85)


def project_version() -> str:
    """The version in `pyproject.toml`; an installed package's may be an older one."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    assert found is not None
    return found[1]


def main() -> None:
    """Make the workflows that were named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--pictures", type=Path, help="folder of <name>.png")
    arguments = parser.parse_args()
    version = project_version()
    screenshots = ROOT / "out" / "screenshots"
    screenshots.mkdir(parents=True, exist_ok=True)
    static = browser.frontend_folder(FRONTEND)
    nodes = with_taming_file(load_record(HOST))
    with FrontendHost(static, nodes) as host, browser.chromium() as chromium:
        for name in arguments.names or LAYOUTS:
            screenshot = screenshots / f"workflow_{name}.png"
            with browser.open_page(chromium, host.url, size=(2000, 1125)) as page:
                workflow = make(page, name, version)
                browser.show_whole_graph(page)
                page.screenshot(path=screenshot)
            target = ROOT / "workflows" / f"{name}.json"
            target.parent.mkdir(exist_ok=True)
            text = json.dumps(workflow, indent=2, ensure_ascii=False)
            target.write_text(text + "\n", "utf-8")
            picture = target.with_suffix(".jpg")
            given = arguments.pictures and arguments.pictures / f"{name}.png"
            if given and given.is_file():
                make_picture(given, picture)
            elif not picture.exists():
                make_picture(screenshot, picture)
            sys.stdout.write(f"{target.name}: {len(workflow['nodes'])} nodes\n")


if __name__ == "__main__":
    main()
