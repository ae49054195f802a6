"""How every node is described: schemas and inputs without the keywords an older host lacks."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from comfy_api.v0_0_2 import io

from ..ldmsid_core.errors import ConfigError

CATEGORY = "LDM-SID"
# What hosts older than the newest supported one do not know; anything else unknown is a mistake.
_NEWER = {"search_aliases", "advanced"}
RAW = io.Custom("LDMSID_RAW")
BANDS = io.Custom("LDMSID_BANDS")
TAMING = io.Custom("LDMSID_TAMING")


def known_schema_fields() -> set[str]:
    """Keywords of `io.Schema` on this host."""
    return {field.name for field in dataclasses.fields(io.Schema)}


def schema(node_id: str, display_name: str, **values: Any) -> io.Schema:
    """A schema of this pack's category, without keywords that the host does not know."""
    known = known_schema_fields()
    ready = {key: value for key, value in values.items() if key in known or key not in _NEWER}
    return io.Schema(node_id=node_id, display_name=display_name, category=CATEGORY, **ready)


def field_input(kind: Any, name: str, *, tooltip: str, **values: Any) -> Any:
    """An input or widget with a tooltip, without keywords that the host does not know.

    Widgets that a later version appends are optional: graphs of an earlier one lack them.
    """
    known = inspect.signature(kind.Input.__init__).parameters
    ready = {key: value for key, value in values.items() if key in known or key not in _NEWER}
    return kind.Input(name, tooltip=tooltip, **ready)


def choice_of(value: str, choices: list[str], what: str) -> str:
    """The value itself, if it is a choice; older hosts do not check that themselves.

    Raises:
        ConfigError: If it is none.
    """
    if value not in choices:
        raise ConfigError(
            f"Expected {what} among {', '.join(choices)}, found {value!r}; choose one of them."
        )
    return value
