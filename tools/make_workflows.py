"""Make the bundled workflows from their API graphs with the newest supported frontend.

Usage: python tools/make_workflows.py [--pictures DIR] [NAME ...]

The graph comes from `tests/workflows/<name>.json`, its looks from `workflow_layouts`; the result
is `workflows/<name>.json`. With `--pictures`, `DIR/<name>.png` becomes the template's picture;
a template that has none gets a picture of its graph. Screenshots go to `out/screenshots`.
"""

from __future__ import annotations

import argparse
import io
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
from workflow_layouts import LAYOUTS, LORA, SD21, SD21_URL, Group, Layout, Note

from ldmsid_core.model_files import SAMPLE_RAW
from ldmsid_core.raw.develop import develop_amplified
from ldmsid_core.raw.exposure import auto_exposure_ratio
from ldmsid_core.raw.loader import load_raw

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
FRONTEND, HOST = "1.58.1", "0.3.64"
PICTURE_WIDTH = 512
NODE_WIDTH = 290
TITLE, GAP_X, GAP_Y, PAD, GROUP_TITLE = 30, 50, 30, 20, 40
FOOT = 40  # The newest look of nodes is that much taller than the classic one.
_MIN_SIZES = {
    # Room for the preview that grows while sampling runs.
    "LDMSID_TamedSampler": (NODE_WIDTH, 430),
    "KSampler": (NODE_WIDTH, 430),
    "LDMSID_LoadRaw": (NODE_WIDTH, 330),
    "LDMSID_CompareImages": (420, 370),
    "LDMSID_SaveImage": (420, 310),
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
    return left - GAP_X + PAD - x, bottom + FOOT - y


def arrange(workflow: dict[str, Any], layout: Layout) -> None:
    """Give every node its place and size, and make the groups and notes."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for name, node in nodes.items():
        small = layout.sizes.get(name) or _MIN_SIZES.get(node["type"], (NODE_WIDTH, 0))
        node["size"] = [max(round(a), b) for a, b in zip(node["size"], small, strict=True)]
    x = 0
    for column in layout.columns:
        y = wide = 0
        for item in column:
            if isinstance(item, Note):
                width, height = item.width, item.height + TITLE
                add_note(workflow, item, x, y + TITLE)
            else:
                width, height = place_group(nodes, item.columns, x, y)
                add_group(workflow, item, [x, y, width, height])
            y, wide = y + height + GAP_Y, max(wide, width)
        x += wide + GAP_X


def add_group(workflow: dict[str, Any], group: Group, box: list[int]) -> None:
    """Draw a titled box."""
    workflow["groups"].append(
        {
            "id": len(workflow["groups"]) + 1,
            "title": group.title,
            "bounding": box,
            "color": group.colour,
            "font_size": 24,
            "flags": {},
        }
    )


def add_note(workflow: dict[str, Any], note: Note, x: int, y: int) -> None:
    """Put a note at a place."""
    workflow["last_node_id"] += 1
    workflow["nodes"].append(
        {
            "id": workflow["last_node_id"],
            "type": "MarkdownNote",
            "title": note.title,
            "pos": [x, y],
            "size": [note.width, note.height],
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
    for node in made["nodes"]:
        node.pop("widgets_values_named", None)  # Older frontends know the list alone: one truth.
        for slot in (*node.get("inputs", []), *node.get("outputs", [])):
            slot.pop("localized_name", None)  # Each reader's own language fills it in.
    # The export holds the viewport and the frontend's version, which differ from run to run.
    return {**made, "id": layout.uuid, "revision": 0, "extra": {}}


def make_picture(source: Path, target: Path) -> None:
    """A template's picture from a larger one."""
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    height = round(picture.height * PICTURE_WIDTH / picture.width)
    picture.resize((PICTURE_WIDTH, height), Image.Resampling.LANCZOS).save(target, quality=85)


def sample_thumbnail() -> bytes:
    """What the pack's own route shows for the packaged sample."""
    raw = load_raw(SAMPLE_RAW)
    planes = develop_amplified(raw, exposure_ratio=auto_exposure_ratio(raw))
    levels = (planes[0].permute(1, 2, 0).numpy() * 255.0).round().astype("uint8")
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "JPEG", quality=85)
    return stream.getvalue()


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
        host.thumbnail = sample_thumbnail()
        for name in arguments.names or LAYOUTS:
            screenshot = screenshots / f"workflow_{name}.png"
            with browser.open_page(chromium, host.url, size=(2000, 1125)) as page:
                workflow = make(page, name, version)
                page.screenshot(path=screenshot, clip=browser.show_whole_graph(page))
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
