"""Make the pictures of the workflow templates by running their graphs on a host.

Usage: python tools/make_workflow_pictures.py http://127.0.0.1:8188 DIR

Writes `DIR/<name>.png` for every workflow that runs without a download; then
`make_workflows.py --pictures DIR` makes the templates' pictures from them.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
_GAP = 8
_LINE = 4
Pictures = list[Image.Image]


def split_in_the_middle(pictures: Pictures) -> Image.Image:
    """The left half of the first and the right half of the second, with a line between."""
    right = pictures[1].copy()
    left = pictures[0].resize(right.size, Image.Resampling.LANCZOS)
    middle = right.width // 2
    right.paste(left.crop((0, 0, middle, right.height)), (0, 0))
    right.paste("white", (middle - _LINE // 2, 0, middle + _LINE // 2, right.height))
    return right


def side_by_side(pictures: Pictures) -> Image.Image:
    """All pictures from left to right, scaled to the height of the tallest."""
    height = max(picture.height for picture in pictures)
    scaled = [p.resize((round(p.width * height / p.height), height)) for p in pictures]
    width = sum(picture.width for picture in scaled) + _GAP * (len(scaled) - 1)
    sheet = Image.new("RGB", (width, height), "white")
    x = 0
    for picture in scaled:
        sheet.paste(picture, (x, 0))
        x += picture.width + _GAP
    return sheet


# Workflow -> the nodes whose pictures are taken, and how they are put together.
RECIPES: dict[str, tuple[tuple[str, ...], Callable[[Pictures], Image.Image]]] = {
    "enhance_raw": (("7",), split_in_the_middle),
    "enhance_raw_ksampler": (("9",), side_by_side),
    "compare_untamed": (("10",), side_by_side),
    "split_bands_explained": (("5", "6"), side_by_side),
}


def ask(url: str, body: dict[str, Any] | None = None) -> bytes:
    """The body of a host's answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def run(url: str, graph: dict[str, Any], timeout_s: float = 600) -> dict[str, Any]:
    """Run an API graph; node id -> what the node reported.

    Raises:
        RuntimeError: If it fails or takes too long.
    """
    name = json.loads(ask(f"{url}/prompt", {"prompt": graph}))["prompt_id"]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        entry = json.loads(ask(f"{url}/history/{name}")).get(name)
        if entry is not None:
            if entry["status"]["status_str"] != "success":
                raise RuntimeError(f"Expected the graph to run, found {entry['status']}")
            return entry["outputs"]
        time.sleep(0.5)
    raise RuntimeError(f"Expected a result within {timeout_s:.0f} s, found none")


def pictures_of(url: str, output: dict[str, Any]) -> Pictures:
    """The pictures that one node reported."""
    places = output.get("ldmsid_compare") or output["images"]
    return [
        Image.open(io.BytesIO(ask(f"{url}/view?{urllib.parse.urlencode(place)}"))).convert("RGB")
        for place in places
    ]


def main() -> None:
    """Run the graphs and write their pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", help="address of a host that has the pack")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, (nodes, compose) in RECIPES.items():
        graph = json.loads((ROOT / "tests" / "workflows" / f"{name}.json").read_text("utf-8"))
        outputs = run(arguments.url, graph)
        taken = [p for node in nodes for p in pictures_of(arguments.url, outputs[node])]
        compose(taken).save(arguments.folder / f"{name}.png")
        sys.stdout.write(f"{name}: {len(taken)} pictures of {taken[0].size}\n")


if __name__ == "__main__":
    main()
