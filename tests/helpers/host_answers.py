"""What a ComfyUI server answers to questions that no test is about."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

SYSTEM = {
    "system": {
        "os": "posix",
        "ram_total": 1,
        "ram_free": 1,
        "comfyui_version": "0",
        "python_version": "3",
        "pytorch_version": "2",
        "embedded_python": False,
        "argv": ["main.py"],
    },
    "devices": [],
}
QUIET: dict[str, Any] = {  # Asked for by panels; an empty answer is enough.
    "/api/global_subgraphs": {},
    "/api/experiment/models": [{"name": "checkpoints", "folders": []}],
    "/internal/files/input": [],
    "/internal/logs/raw": {"entries": [], "size": {"cols": 80, "rows": 24}},
    "/internal/folder_paths": {},
    "/templates/index.json": [],
    "/api/userdata": [],
    "/api/queue": {"queue_running": [], "queue_pending": []},
    "/api/history": {},
    "/api/features": {"supports_preview_metadata": True, "max_upload_size": 104857600},
    "/api/users": {"storage": "server", "migrated": True},
    "/api/prompt": {"exec_info": {"queue_remaining": 0}},
    "/api/system_stats": SYSTEM,
    "/api/jobs": {
        "jobs": [],
        "pagination": {"offset": 0, "limit": 64, "total": 0, "has_more": False},
    },
}
# Older frontends look up these nodes before they show any file list of a loader.
EXPECTED_LOADERS = (
    "ImageOnlyCheckpointLoader",
    "LoraLoader",
    "VAELoader",
    "ControlNetLoader",
    "UNETLoader",
    "UpscaleModelLoader",
    "StyleModelLoader",
    "GLIGENLoader",
)


def stub_node(name: str) -> dict[str, Any]:
    """A node of which only the name matters."""
    return {
        "input": {"required": {}},
        "input_order": {"required": []},
        "output": [],
        "output_is_list": [],
        "output_name": [],
        "name": name,
        "display_name": name,
        "description": "",
        "category": "loaders",
        "output_node": False,
        "python_module": "nodes",
    }


def picture(size: tuple[int, int], colour: str, kind: str = "JPEG") -> bytes:
    """The bytes of a plain picture."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def merged_locales(folder: Path) -> dict[str, dict[str, Any]]:
    """Language -> part -> texts, as ComfyUI makes it from a pack's `locales/<lang>/*.json`."""
    return {
        language.name: {
            part.stem: json.loads(part.read_text("utf-8"))
            for part in sorted(language.glob("*.json"))
        }
        for language in sorted(folder.glob("*/"))
    }
