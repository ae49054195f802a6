"""A small server that the real ComfyUI frontend takes for ComfyUI: no torch, no sampling.

It serves an installed frontend, this pack's `web/` folder, recorded node descriptions, locales and
workflows. It keeps uploads and prompts for a test to look at, and answers a prompt with the
results that the test put into `results`.
"""

from __future__ import annotations

import asyncio
import copy
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import WSMsgType, web

from .host_answers import EXPECTED_LOADERS, QUIET, merged_locales, picture, stub_node
from .object_info import PACK, SAMPLE, set_options

ROOT = Path(__file__).resolve().parents[2]
_TYPES = {".js": "text/javascript", ".md": "text/plain", ".json": "application/json"}


def _inside(folder: Path, tail: str) -> web.FileResponse:
    """A file below a folder, never as HTML.

    Raises:
        HTTPNotFound: If there is none.
    """
    path = (folder / tail).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise web.HTTPNotFound
    kind = _TYPES.get(path.suffix)
    return web.FileResponse(path, headers={"Content-Type": kind} if kind else None)


class FrontendHost:
    """The server, in a thread of its own while the context is open.

    Args:
        static: The `static` folder of an installed frontend.
        object_info: What the nodes are, as `load_record` gives it.
        settings: The user's settings.
        workflows: Folder of the workflow templates.
    """

    def __init__(
        self,
        static: Path,
        object_info: dict[str, Any],
        *,
        settings: dict[str, Any] | None = None,
        workflows: Path = ROOT / "workflows",
    ) -> None:
        stubs = {name: stub_node(name) for name in EXPECTED_LOADERS}
        self.object_info = {**stubs, **copy.deepcopy(object_info)}
        self.static, self.workflows = static, workflows
        self.settings = dict(settings or {})
        self.prompts: list[dict[str, Any]] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.pictures: dict[str, bytes] = {}
        self.thumbnails: list[str] = []
        self.thumbnail = picture((96, 64), "teal")
        self.thumbnail_status = 200
        self.upload_status = 200
        self.url = ""
        self._sockets: list[web.WebSocketResponse] = []

    def __enter__(self) -> FrontendHost:
        self._temporary = tempfile.TemporaryDirectory()
        self.input_folder = Path(self._temporary.name)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._wait(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wait(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._temporary.cleanup()

    @property
    def uploads(self) -> list[str]:
        """Names of the uploaded files."""
        return sorted(path.name for path in self.input_folder.iterdir())

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        routes = app.router
        for path, answer in QUIET.items():
            routes.add_get(path, _fixed(answer))
        for path in ("/api/queue", "/api/history", "/api/interrupt", "/api/free"):
            routes.add_post(path, _fixed({}))
        routes.add_get("/ws", self._socket)
        routes.add_get("/api/extensions", self._extensions)
        routes.add_get("/api/object_info", self._nodes)
        routes.add_get("/api/i18n", self._locales)
        routes.add_get("/api/settings", self._read_settings)
        routes.add_get("/api/settings/{id}", self._read_settings)
        routes.add_post("/api/settings", self._write_settings)
        routes.add_post("/api/settings/{id}", self._write_settings)
        routes.add_post("/api/prompt", self._queue)
        routes.add_post("/api/upload/image", self._upload)
        routes.add_get("/api/view", self._view)
        for prefix in ("", "/api"):  # A real host mounts a pack's own routes twice.
            routes.add_get(f"{prefix}/ldmsid/thumbnail", self._thumbnail)
        routes.add_get("/api/experiment/models/checkpoints", self._checkpoints)
        routes.add_get("/api/workflow_templates", self._templates)
        routes.add_get(f"/api/workflow_templates/{PACK}/{{tail}}", self._template)
        routes.add_get(f"/extensions/{PACK}/{{tail:.*}}", self._web)
        routes.add_get("/{tail:.*}", self._static)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _static(self, request: web.Request) -> web.StreamResponse:
        return _inside(self.static, request.match_info["tail"] or "index.html")

    async def _web(self, request: web.Request) -> web.StreamResponse:
        return _inside(ROOT / "web", request.match_info["tail"])

    async def _extensions(self, _request: web.Request) -> web.Response:
        scripts = sorted((ROOT / "web").rglob("*.js"))
        names = [script.relative_to(ROOT / "web").as_posix() for script in scripts]
        return web.json_response([f"/extensions/{PACK}/{name}" for name in names])

    async def _nodes(self, _request: web.Request) -> web.Response:
        entry = self.object_info["LDMSID_LoadRaw"]["input"]["required"]["raw_file"]
        set_options(entry, [*self.uploads, SAMPLE])
        return web.json_response(self.object_info)

    async def _checkpoints(self, _request: web.Request) -> web.Response:
        fields = self.object_info["CheckpointLoaderSimple"]["input"]["required"]
        return web.json_response([{"name": n, "pathIndex": 0} for n in fields["ckpt_name"][0]])

    async def _locales(self, _request: web.Request) -> web.Response:
        return web.json_response({"en": {"nodeDefs": {}}, **merged_locales(ROOT / "locales")})

    async def _read_settings(self, request: web.Request) -> web.Response:
        one = request.match_info.get("id")
        return web.json_response(self.settings.get(one) if one else self.settings)

    async def _write_settings(self, request: web.Request) -> web.Response:
        one, value = request.match_info.get("id"), await request.json()
        self.settings.update({one: value} if one else value)
        return web.json_response({})

    async def _templates(self, _request: web.Request) -> web.Response:
        names = sorted(path.stem for path in self.workflows.glob("*.json"))
        return web.json_response({PACK: names})

    async def _template(self, request: web.Request) -> web.StreamResponse:
        return _inside(self.workflows, request.match_info["tail"])

    async def _thumbnail(self, request: web.Request) -> web.Response:
        self.thumbnails.append(request.query["file"])
        if self.thumbnail_status != 200:
            return web.Response(status=self.thumbnail_status, text="no picture")
        return web.Response(body=self.thumbnail, content_type="image/jpeg")

    async def _view(self, request: web.Request) -> web.Response:
        body = self.pictures.get(request.query["filename"])
        if body is None:
            raise web.HTTPNotFound
        return web.Response(body=body, content_type="image/png")

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        if self.upload_status != 200:
            return web.Response(status=self.upload_status)
        part = form["image"]
        assert isinstance(part, web.FileField)
        name = Path(part.filename).name
        (self.input_folder / name).write_bytes(part.file.read())
        return web.json_response({"name": name, "subfolder": "", "type": form["type"]})

    async def _queue(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.prompts.append(body)
        number = len(self.prompts)
        answer = {"prompt_id": f"prompt-{number}", "number": number, "node_errors": {}}
        # After the answer, as on a real host: the page must know the id before events name it.
        self._loop.call_later(
            0.05, lambda: asyncio.ensure_future(self._play(f"prompt-{number}", body["prompt"]))
        )
        return web.json_response(answer)

    async def _play(self, prompt_id: str, prompt: dict[str, Any]) -> None:
        about = {"prompt_id": prompt_id, "timestamp": 0}
        await self._send("execution_start", about)
        for node in (name for name in self.results if name in prompt):
            where = {"node": node, "display_node": node, "prompt_id": prompt_id}
            await self._send("executing", where)
            await self._send("executed", {**where, "output": self.results[node]})
        await self._send("executing", {"node": None, "prompt_id": prompt_id})
        await self._send("execution_success", about)

    async def _send(self, kind: str, data: dict[str, Any]) -> None:
        for socket in [socket for socket in self._sockets if not socket.closed]:
            await socket.send_json({"type": kind, "data": data})

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets.append(socket)
        status = {"exec_info": {"queue_remaining": 0}}
        await socket.send_json({"type": "status", "data": {"status": status, "sid": "test"}})
        async for message in socket:
            if message.type is WSMsgType.ERROR:
                break
        return socket


def _fixed(answer: Any) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(_request: web.Request) -> web.Response:
        return web.json_response(answer)

    return handler
