"""The pack as a registry and a newcomer see it: metadata, texts, workflows, nothing unwanted."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.object_info import CORE_NODES, RECORDS
from PIL import Image

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[import-not-found, no-redef]

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RECORD: dict[str, Any] = json.loads((RECORDS / "0.33.0.json").read_text(encoding="utf-8"))
OURS = {name: entry for name, entry in RECORD.items() if name.startswith("LDMSID_")}
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


def ignored() -> list[str]:
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def is_ignored(path: Path) -> bool:
    where = path.relative_to(ROOT)
    return any(
        where.match(rule) or where.as_posix().startswith(rule) for rule in ignored() if rule != "/"
    )


SHIPPED = [
    path
    for path in [ROOT / "__init__.py", *sorted((ROOT / "nodes").rglob("*.py")),
                 *sorted((ROOT / "ldmsid_core").rglob("*.py"))]
    if not is_ignored(path)
]  # fmt: skip


def inputs_of(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry["input"].get("required", {}), **entry["input"].get("optional", {})}


def test_requirements_equal_the_project() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert lines == PROJECT["project"]["dependencies"]
    assert not any(re.match(r"torch|numpy[=<>]", line) for line in lines)


def test_registry_metadata() -> None:
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9._-]{0,99}", project["name"])
    assert "comfyui" not in project["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert comfy["PublisherId"] and comfy["DisplayName"] and "web" not in comfy
    assert comfy["requires-comfyui"] == ">=0.3.64"
    assert project["urls"]["Repository"].startswith("https://")
    assert "Operating System :: OS Independent" in project["classifiers"]
    with Image.open(ROOT / "docs" / "icon.png") as icon:
        assert icon.width == icon.height <= 400


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_shipped_code_does_nothing_a_scanner_fears(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    text.encode("cp1252")  # Windows' own code page reads it
    tree = ast.parse(text)
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] not in {
                "subprocess", "socket", "urllib", "requests", "http", "ctypes", "pip", "importlib",
            }, f"{path} imports {name}"  # fmt: skip
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile", "__import__", "print"}
    assert not re.search(r"environ\s*\[|putenv|environ\.(update|setdefault)", text)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_shipped_code_only_defines_at_import(path: Path) -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef,
               ast.Assign, ast.AnnAssign)  # fmt: skip
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        assert is_text or is_guarded or isinstance(node, allowed), f"{path}:{node.lineno}"


def reached_from_nodes() -> set[Path]:
    """Every module of ours that the pack imports, however indirectly."""
    seen: set[Path] = set()
    waiting = [ROOT / "__init__.py"]
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            place = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            waiting += [place.with_suffix(".py"), place / "__init__.py"]
            waiting += [place / f"{alias.name}.py" for alias in node.names]
    return seen


def test_the_archive_holds_everything_the_nodes_import() -> None:
    reached = reached_from_nodes()
    assert ROOT / "ldmsid_core" / "taming" / "sft.py" in reached
    assert not [p for p in reached if is_ignored(p)]
    banned = {"diffusers", "click", "tqdm", "transformers", "comfy_kitchen"}
    for path in reached:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                module = getattr(node, "module", None) or node.names[0].name
                assert module.split(".")[0] not in banned, f"{path} imports {module}"


def test_one_way_to_be_loaded() -> None:
    text = (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert "comfy_entrypoint" in text and "NODE_CLASS_MAPPINGS" not in text
    assert 'WEB_DIRECTORY = "./web"' in text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_locales_name_every_part_of_every_node(language: str) -> None:
    path = ROOT / "locales" / language / "nodeDefs.json"
    texts = json.loads(path.read_text(encoding="utf-8"))
    assert set(texts) == set(OURS)
    for name, entry in OURS.items():
        own = texts[name]
        assert set(own["inputs"]) == set(inputs_of(entry)), name
        assert set(own["outputs"]) == {str(i) for i in range(len(entry["output"]))}, name
        assert own["display_name"] and own["description"]
        for part in [*own["inputs"].values(), *own["outputs"].values()]:
            assert part["name"] and part["tooltip"], name


def test_english_texts_are_the_schemas_own() -> None:
    texts = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    for name, entry in OURS.items():
        own = texts[name]
        assert own["display_name"] == entry["display_name"]
        assert own["description"] == entry["description"]
        for key, spec in inputs_of(entry).items():
            assert own["inputs"][key]["tooltip"] == spec[1]["tooltip"], (name, key)
        for number, tooltip in enumerate(entry.get("output_tooltips") or []):
            assert own["outputs"][str(number)]["tooltip"] == tooltip, (name, number)


def test_a_help_page_for_every_node() -> None:
    docs = ROOT / "web" / "docs"
    texts = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert {p.stem for p in docs.glob("*.md")} == set(OURS)
    assert {p.parent.name for p in docs.glob("*/zh.md")} == set(OURS)
    for name, entry in OURS.items():
        page = (docs / f"{name}.md").read_text(encoding="utf-8")
        for key in inputs_of(entry):
            assert texts[name]["inputs"][key]["name"].lower() in page.lower(), (name, key)


def test_both_hosts_show_the_same_nodes() -> None:
    old = json.loads((RECORDS / "0.3.64.json").read_text(encoding="utf-8"))
    for name, entry in OURS.items():
        for key in ("input_order", "output", "output_name", "display_name", "description"):
            assert old[name][key] == entry[key], (name, key)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_fit_the_schemas(path: Path) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    assert workflow["version"] == 0.4 and path.with_suffix(".jpg").is_file()
    assert (ROOT / "tests" / "workflows" / path.name).is_file()
    kinds = {node["type"] for node in workflow["nodes"]}
    assert "MarkdownNote" in kinds, "a note that explains"
    for node in workflow["nodes"]:
        if node["type"] in OURS:
            assert node["properties"]["cnr_id"] == PROJECT["project"]["name"]
            assert node["properties"]["ver"] == PROJECT["project"]["version"]
            assert len(node.get("widgets_values") or []) == widget_count(OURS[node["type"]])
        elif node["type"] in CORE_NODES:
            assert node["properties"]["cnr_id"] == "comfy-core"
        if "control_after_generate" in str(RECORD.get(node["type"])):
            assert "fixed" in node["widgets_values"] and "randomize" not in node["widgets_values"]


APPENDED = {
    "LDMSID_SplitBands": ["crop"],
    "LDMSID_TamedSampler": ["tile", "overlap", "start", "vae"],
    "LDMSID_TamedDecode": ["mode", "tile"],
}


@pytest.mark.parametrize("name", APPENDED)
def test_what_was_appended_is_last_and_optional(name: str) -> None:
    """So graphs of an earlier version, with fewer values and inputs, still run with defaults."""
    entry = OURS[name]
    assert entry["input_order"]["optional"] == APPENDED[name]
    for kind, options in entry["input"]["optional"].values():
        assert kind == "VAE" or "default" in options


def widget_count(entry: dict[str, Any]) -> int:
    count = 0
    for kind, options in inputs_of(entry).values():
        if kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO") or isinstance(kind, list):
            count += 2 if options.get("control_after_generate") else 1
    return count


def test_the_sample_is_small() -> None:
    assert (ROOT / "ldmsid_core" / "assets" / "sample_dark.dng").stat().st_size <= 2_000_000
