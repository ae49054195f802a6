"""Rewrite the record of one ComfyUI version from a running host that has the pack.

Usage: python tools/record_object_info.py http://127.0.0.1:8188 0.3.64
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.object_info import OUR_PREFIX, RECORDS, normalise, record_text


def main() -> None:
    """Fetch, normalise, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", help="address of the host, for example http://127.0.0.1:8188")
    parser.add_argument("version", help="its version, which names the file")
    arguments = parser.parse_args()
    with urllib.request.urlopen(f"{arguments.url}/object_info") as answer:
        record = normalise(json.load(answer))
    if not any(name.startswith(OUR_PREFIX) for name in record):
        parser.error(f"Expected {arguments.url} to have this pack's nodes, found none of them.")
    path = RECORDS / f"{arguments.version}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record_text(record), "utf-8")
    sys.stdout.write(f"{path.name}: {len(record)} nodes\n")


if __name__ == "__main__":
    main()
