"""What a host tells its frontend about nodes: recorded, and cleaned of what one machine has."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).resolve().parents[1] / "data" / "object_info"
PACK = "comfyui-ldmsid"
OUR_PREFIX = "LDMSID_"
SAMPLE = "[sample] dark"
EMBEDDED = "[embedded] tiny"
SD21_TAMING = "ldm-isp-sd21.safetensors"
CORE_NODES = (
    "CLIPTextEncode",
    "CheckpointLoaderSimple",
    "KSampler",
    "LoraLoaderModelOnly",
    "PreviewImage",
    "SaveImage",
    "VAEDecode",
)
# Lists that depend on the files of a machine, and what the bundled workflows name in them.
FILE_LISTS = {
    ("LDMSID_LoadRaw", "raw_file"): [SAMPLE],
    ("LDMSID_LoadTaming", "taming_file"): [EMBEDDED],
    ("CheckpointLoaderSimple", "ckpt_name"): ["v2-1_512-ema-pruned.safetensors"],
    ("LoraLoaderModelOnly", "lora_name"): ["your_lora.safetensors"],
}


def set_options(spec: list[Any], options: list[str]) -> None:
    """Replace the choices of a combo's specification, in its old or its new notation."""
    if isinstance(spec[0], list):
        spec[0] = list(options)
    else:
        spec[1]["options"] = list(options)


def normalise(object_info: dict[str, Any]) -> dict[str, Any]:
    """The entries of our nodes and of `CORE_NODES`, the same on every machine.

    Args:
        object_info: As a host answers at `/object_info`; not changed.

    Returns:
        A copy, sorted by name, with fixed file lists and our pack in its usual folder.
    """
    record = {}
    for name in sorted(object_info):
        if not name.startswith(OUR_PREFIX) and name not in CORE_NODES:
            continue
        entry = record[name] = copy.deepcopy(object_info[name])
        if name.startswith(OUR_PREFIX):
            entry["python_module"] = f"custom_nodes.{PACK}"
    for (name, field), options in FILE_LISTS.items():
        if name in record:
            set_options(record[name]["input"]["required"][field], options)
    return record


def record_text(record: dict[str, Any]) -> str:
    """The text of a record's file."""
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def recorded_versions() -> list[str]:
    """Versions of ComfyUI that have a record, in the order of their file names."""
    return sorted(path.stem for path in RECORDS.glob("*.json"))


def load_record(version: str) -> dict[str, Any]:
    """A record with its inputs in the host's order, which the sorted file does not keep."""
    record = json.loads((RECORDS / f"{version}.json").read_text("utf-8"))
    for entry in record.values():
        for kind, names in entry["input_order"].items():
            fields = entry["input"][kind]
            entry["input"][kind] = {name: fields[name] for name in names}
    return record


def with_taming_file(record: dict[str, Any]) -> dict[str, Any]:
    """A copy of a record where the taming file for Stable Diffusion 2.1 is in its folder."""
    record = copy.deepcopy(record)
    fields = record["LDMSID_LoadTaming"]["input"]["required"]
    set_options(fields["taming_file"], [SD21_TAMING, EMBEDDED])
    return record
