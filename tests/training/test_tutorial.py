"""The tutorial's settings are settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from helpers.training_configs import CONFIGS

from ldmsid_core.training.config import parse_training_config

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"


def test_what_the_tutorial_puts_into_a_configuration_is_accepted() -> None:
    snippets = re.findall(r"```json\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)
    own: list[dict[str, Any]] = [json.loads("{" + snippet + "}") for snippet in snippets]
    paper = json.loads((CONFIGS / "paper_sd21.json").read_text(encoding="utf-8"))
    own[1]["darkness"]["cameras"] = ["d850"]  # the reader's own profile is not here
    pairs, photographs = (parse_training_config({**paper, **s}, source="t") for s in own)
    assert (pairs.data.kind, pairs.data.white_balance) == ("pairs", "none")
    assert photographs.data.kind == "photographs" and photographs.clip == (-1.0, 2.0)
    assert photographs.darkness.sensor == "Canon EOS R6"
