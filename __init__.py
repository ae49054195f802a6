"""LDM-SID as a ComfyUI node pack; nothing is imported before ComfyUI asks for the nodes."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """The extension object that ComfyUI loads."""
    from .nodes import LdmSidExtension

    return LdmSidExtension()
