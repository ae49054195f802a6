"""The pack on a real ComfyUI server: every bundled workflow to its end, errors, interrupt, web."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from helpers.comfy_hosts import ROOT, ComfyHost, find_hosts
from helpers.comfy_server import PACK_FOLDER, ComfyServer, comfy_server, error_of
from helpers.object_info import RECORDS, normalise
from helpers.raws import write_test_dng
from helpers.standin import write_standin
from numpy.typing import NDArray
from PIL import Image

from ldmsid_core.model_files import SAMPLE_RAW

pytestmark = pytest.mark.comfy
HOSTS = find_hosts()
GRAPHS = {p.stem: p for p in sorted((ROOT / "tests" / "workflows").glob("*.json"))}
SD21 = "enhance_raw_sd21"
Pixels = NDArray[np.float64]


def graph(name: str) -> dict[str, Any]:
    """A bundled workflow in API form."""
    found: dict[str, Any] = json.loads(GRAPHS[name].read_text(encoding="utf-8"))
    return found


def changed(name: str, class_type: str, **inputs: Any) -> dict[str, Any]:
    """A bundled workflow with other widget values on the nodes of one class."""
    found = copy.deepcopy(graph(name))
    for node in found.values():
        if node["class_type"] == class_type:
            node["inputs"] |= inputs
    return found


def pixels(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float64)


def psnr(a: Pixels, b: Pixels) -> float:
    return float(10 * np.log10(255.0**2 / max(1e-9, ((a - b) ** 2).mean())))


@pytest.fixture(scope="module", params=HOSTS or [None], ids=lambda h: h.version if h else "none")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    host: ComfyHost | None = request.param
    if host is None:
        pytest.skip("no ComfyUI found: set COMFYUI_PATH")
    with comfy_server(host, tmp_path_factory.mktemp(f"server-{host.version}")) as running:
        yield running


@pytest.fixture(scope="module")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    """The sample enhanced by the command line with the workflow's settings, in float32."""
    out = tmp_path_factory.mktemp("command-line")
    subprocess.run(
        [
            sys.executable, "-P", "-c", "from ldmsid_core.cli import main; main()", "enhance",
            str(SAMPLE_RAW), "-o", str(out), "--dtype", "fp32", "--quiet",
        ],
        check=True,
    )  # fmt: skip
    return pixels(out / "sample_dark.png")


@pytest.fixture(scope="module")
def enhanced(server: ComfyServer) -> Path:
    """Result of the first bundled workflow."""
    outputs = server.run(graph("enhance_raw"), workflow={"marker": 7})
    assert len(outputs["7"]["ldmsid_compare"]) == 2
    return server.file(outputs["8"]["images"][0])


def test_pack_loads_and_is_listed(server: ComfyServer) -> None:
    log = server.log.read_text(errors="replace")
    assert PACK_FOLDER in log and "IMPORT FAILED" not in log
    for path in ("/models/ldmsid", "/extensions", "/i18n", "/workflow_templates"):
        server.get(path)
    assert set(server.get("/workflow_templates")[PACK_FOLDER]) == set(GRAPHS)
    for name in GRAPHS:
        place = f"/api/workflow_templates/{PACK_FOLDER}/{name}"
        assert server.get(f"{place}.json")["nodes"] and server.request(f"{place}.jpg")
    assert f"/extensions/{PACK_FOLDER}/js/load_raw.js" in server.get("/extensions")
    assert b"Load RAW" in server.request(f"/extensions/{PACK_FOLDER}/docs/LDMSID_LoadRaw.md")
    assert "LDMSID_LoadRaw" in server.get("/i18n")["zh"]["nodeDefs"]


def test_object_info_is_what_the_browser_tests_use(server: ComfyServer) -> None:
    record = RECORDS / f"{server.host.version}.json"
    if not record.exists():
        pytest.skip(f"no record of ComfyUI {server.host.version}")
    found = normalise(server.get("/object_info"))
    expected = json.loads(record.read_text(encoding="utf-8"))
    assert found == expected, "run tools/record_object_info.py"


def test_first_workflow_equals_the_command_line(
    server: ComfyServer, enhanced: Path, command_line: Pixels
) -> None:
    difference = np.abs(pixels(enhanced) - command_line)
    # Equal to 1e-4 before rounding to 8 bits: a value on the edge may fall to either side.
    assert difference.max() <= 1.0 and difference.mean() < 0.01


def test_graph_of_an_earlier_version_runs(server: ComfyServer) -> None:
    old = changed("enhance_raw", "LDMSID_TamedSampler", steps=1)
    appended = {"crop", "tile", "overlap", "start", "mode"}
    for node in old.values():
        if node["class_type"] in ("LDMSID_SplitBands", "LDMSID_TamedSampler", "LDMSID_TamedDecode"):
            node["inputs"] = {k: v for k, v in node["inputs"].items() if k not in appended}
    assert server.run(old)["8"]["images"]


def test_graph_is_inside_the_picture(server: ComfyServer, enhanced: Path) -> None:
    with Image.open(enhanced) as picture:
        texts: dict[str, str] = picture.text  # type: ignore[attr-defined]
        kept = json.loads(texts["prompt"])
        for node in kept.values():
            node.pop("is_changed", None)  # the host's own note of our fingerprint
        assert kept == graph("enhance_raw")
        assert str(server.base) not in texts["prompt"], "a folder of the user's is in the picture"
        assert json.loads(texts["workflow"]) == {"marker": 7}
        assert picture.getexif()[0x0110] and picture.info["icc_profile"]


@pytest.mark.parametrize("name", [n for n in GRAPHS if n not in (SD21, "enhance_raw")])
def test_workflow_runs(server: ComfyServer, name: str, command_line: Pixels) -> None:
    outputs = server.run(graph(name))
    pictures = [entry for out in outputs.values() for entry in out.get("images", [])]
    assert pictures and all(server.file(entry).is_file() for entry in pictures)
    if name == "enhance_raw_ksampler":
        # The host's own schedule rounds its steps differently.
        assert psnr(pixels(server.file(pictures[0])), command_line) >= 30.0
    if name == "compare_untamed":
        shown = [server.file(entry) for entry in outputs["10"]["ldmsid_compare"]]
        assert psnr(pixels(shown[1]), command_line) >= 30.0 > psnr(pixels(shown[0]), command_line)


def test_stable_diffusion_workflow_runs(server: ComfyServer) -> None:
    write_standin(server.host, server.base)
    # A frame of 64 x 64 packed pixels: the VAE is Stable Diffusion's own, too slow for more.
    write_test_dng(server.base / "input" / "small.dng", height=128, width=128)
    small = changed(SD21, "LDMSID_LoadRaw", raw_file="small.dng")
    for node in small.values():
        if node["class_type"] == "LDMSID_TamedSampler":
            node["inputs"]["steps"] = 2
    outputs = server.run(small)
    picture = pixels(server.file(outputs["9"]["images"][0]))
    assert picture.shape == (64, 64, 3) and picture.std() > 0


def test_wrong_model_is_one_clear_message_on_the_node(server: ComfyServer) -> None:
    write_standin(server.host, server.base)
    mixed = graph(SD21)
    mixed["5"]["inputs"]["taming_file"] = "[embedded] tiny"
    ended = server.wait(server.queue(mixed))
    message = error_of(ended)
    assert message.startswith("LDMSID_TamedSampler") and "tiny" in message and "SD20" in message


def test_bad_files_are_one_clear_message(server: ComfyServer) -> None:
    (server.base / "input" / "broken.nef").write_bytes(b"II*\0" + bytes(500))
    broken = changed("split_bands_explained", "LDMSID_LoadRaw", raw_file="broken.nef")
    message = error_of(server.wait(server.queue(broken)))
    assert message.startswith("LDMSID_LoadRaw") and "broken.nef" in message
    secret = write_secret(server)
    for name, why in (("gone.nef", "not in"), ("../secret.dng", "outside"), (secret, "outside")):
        missing = changed("split_bands_explained", "LDMSID_LoadRaw", raw_file=name)
        code, text = server.refused("/prompt", {"prompt": missing})
        assert code == 400 and name in text and why in text
    assert server.get("/system_stats")["system"]


def test_upload_and_its_limit(server: ComfyServer) -> None:
    def body(content: bytes) -> tuple[bytes, str]:
        edge = uuid.uuid4().hex
        head = (
            f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="up.ARW"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        return head.encode() + content + f"\r\n--{edge}--\r\n".encode(), (
            f"multipart/form-data; boundary={edge}"
        )

    data, kind = body(SAMPLE_RAW.read_bytes())
    assert json.loads(server.request("/upload/image", data, kind))["name"] == "up.ARW"
    assert server.request("/ldmsid/thumbnail?file=up.ARW")[:3] == b"\xff\xd8\xff"
    options = server.get("/object_info/LDMSID_LoadRaw")
    assert "up.ARW" in json.dumps(options)
    code, _ = server.refused("/upload/image", *body(bytes(101 << 20)))
    assert code == 413


def write_secret(server: ComfyServer) -> str:
    """A whole RAW beside the input folder, which no name may reach."""
    write_test_dng(server.base / "secret.dng", height=128, width=128, overwrite=True)
    return str(server.base / "secret.dng")


def test_thumbnails_stay_in_the_folders(server: ComfyServer) -> None:
    absolute = write_secret(server)
    link = server.base / "input" / "link.dng"
    link.unlink(missing_ok=True)
    link.symlink_to(absolute)
    for name in ("../secret.dng", absolute, "link.dng", "../secret.dng [output]"):
        code, text = server.refused(f"/ldmsid/thumbnail?file={quote(name)}", None)
        assert code == 422 and "outside" in text, name
    for name in ("gone.ARW", ""):
        assert server.refused(f"/ldmsid/thumbnail?file={quote(name)}", None)[0] == 422


def test_interrupt_then_the_next_run_is_right(server: ComfyServer, enhanced: Path) -> None:
    long_run = changed("enhance_raw", "LDMSID_TamedSampler", steps=1000, seed=1)
    queued = server.queue(long_run)
    end = time.monotonic() + 120
    while "/1000 [" not in server.log.read_text(errors="replace"):  # the sampler's own progress
        assert time.monotonic() < end, "the sampler did not start"
        time.sleep(0.2)
    started = time.monotonic()
    server.request("/interrupt", {})
    ended = server.wait(queued, timeout_s=30)
    assert error_of(ended) == "interrupted" and time.monotonic() - started < 20
    again = server.run(changed("enhance_raw", "LDMSID_SaveImage", filename_prefix="after/run"))
    assert np.array_equal(pixels(server.file(again["8"]["images"][0])), pixels(enhanced))


def test_an_edited_file_is_read_again(server: ComfyServer) -> None:
    path = server.base / "input" / "edited.dng"
    write_test_dng(path, height=128, width=128)
    shown = changed("split_bands_explained", "LDMSID_LoadRaw", raw_file="edited.dng")
    first = server.file(server.run(shown)["4"]["images"][0]).read_bytes()
    path.unlink()
    write_test_dng(path, height=128, width=192)
    assert server.file(server.run(shown)["4"]["images"][0]).read_bytes() != first
