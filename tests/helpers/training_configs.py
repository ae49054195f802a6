"""Training configurations cut down to seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).resolve().parents[2] / "ldmsid_core" / "training" / "configs"


def tiny_values(*, steps: int = 2, batch: int = 1, **changes: Any) -> dict[str, Any]:
    """The embedded model's configuration with few, small steps."""
    values = json.loads((CONFIGS / "tiny.json").read_text())
    for stage in values["stages"]:
        stage.update(steps=steps, batch=batch, crop=64, warmup=1)
    values["pool"].update(window=2, side=96, encoded=8)
    values["generation"] = {"window": 2, "group": 1, "renew_every": 1, "steps": 1}
    return {**values, **changes}


def taming_values(host: str, **changes: Any) -> dict[str, Any]:
    """The two taming stages alone, for a given host of the embedded model's widths."""
    values = tiny_values(host=host)
    values.pop("prediction_type")  # the host's own counts
    values["stages"] = [values["stages"][3], values["stages"][4]]
    return {**values, **changes}
