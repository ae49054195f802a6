"""The small picture on `Load RAW`: GET /ldmsid/thumbnail?file=NAME, for ComfyUI's folders alone."""

from __future__ import annotations

import asyncio
import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from aiohttp import web
from PIL import Image
from server import PromptServer

from ..ldmsid_core.errors import LdmSidError
from ..ldmsid_core.raw.develop import develop_amplified
from ..ldmsid_core.raw.exposure import auto_exposure_ratio
from ..ldmsid_core.raw.loader import load_embedded_preview, load_raw
from ..ldmsid_core.raw.packed_raw import apply_orientation
from .files import fingerprint, resolve_raw

ROUTE = "/ldmsid/thumbnail"
_MAX_SIDE = 512


def thumbnail(path: Path) -> Image.Image:
    """The camera's own small picture; where there is none, the file pushed to be seen.

    Raises:
        UnsupportedRawError: If the file is no RAW.
    """
    found = load_embedded_preview(path, max_side=_MAX_SIDE)
    if found is not None:
        return found
    raw = load_raw(path)
    developed = develop_amplified(raw, exposure_ratio=auto_exposure_ratio(raw))
    upright = apply_orientation(developed, raw.orientation)[0].permute(1, 2, 0)
    picture = Image.fromarray((upright.numpy() * 255.0).round().astype(np.uint8))
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return picture


@lru_cache(maxsize=64)
def _jpeg(path: Path, _fingerprint: str) -> bytes:
    stream = io.BytesIO()
    thumbnail(path).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _small_picture(name: str) -> bytes:
    """The JPEG of a choice, made once for each state of the file."""
    path = resolve_raw(name)
    return _jpeg(path, fingerprint(path))


async def serve_thumbnail(request: web.Request) -> web.Response:
    """A JPEG, or 422 with the reason in words."""
    name = request.rel_url.query.get("file", "")
    try:
        body = await asyncio.get_running_loop().run_in_executor(None, _small_picture, name)
    except (LdmSidError, OSError) as error:
        return web.Response(status=422, text=str(error))
    return web.Response(body=body, content_type="image/jpeg")


def register_thumbnail_route() -> None:
    """Add the route to ComfyUI's server."""
    PromptServer.instance.routes.get(ROUTE)(serve_thumbnail)
