"""Files: what Load RAW and Load taming accept, what Save photograph writes, and the pack itself."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from runner import Pack
from scene import raises

SAMPLE = "[sample] dark"
IDS = {
    "LDMSID_LoadRaw", "LDMSID_ExposeRaw", "LDMSID_SplitBands", "LDMSID_LoadEmbedded",
    "LDMSID_LoadTaming", "LDMSID_ApplyTaming", "LDMSID_TamedSampler", "LDMSID_TamedDecode",
    "LDMSID_CompareImages", "LDMSID_SaveImage",
}  # fmt: skip


def folder(kind: str) -> Path:
    """ComfyUI's input, output or temp folder."""
    import folder_paths

    return Path(getattr(folder_paths, f"get_{kind}_directory")())


def put_sample(pack: Pack, name: str, kind: str = "input") -> Path:
    """A copy of the packaged sample under another name."""
    source = pack.part("ldmsid_core.model_files").SAMPLE_RAW
    path = folder(kind) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)
    return path


def check_first_importing_the_pack_changes_nothing_of_the_host(pack: Pack) -> None:
    import comfy.conds
    import comfy.latent_formats
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops
    import comfy.sample
    import comfy.samplers
    import comfy.sd

    modules = [
        comfy.conds, comfy.latent_formats, comfy.model_base, comfy.model_management,
        comfy.model_patcher, comfy.ops, comfy.sample, comfy.samplers, comfy.sd,
    ]  # fmt: skip

    def attributes() -> dict[str, int]:
        found = {f"{m.__name__}.{k}": id(v) for m in modules for k, v in vars(m).items()}
        classes = [v for m in modules for v in vars(m).values() if isinstance(v, type)]
        return found | {f"{c}.{k}": id(v) for c in classes for k, v in list(vars(c).items())}

    threads = torch.get_num_threads()
    before = attributes()
    Pack(pack.folder, {})
    assert attributes() == before and torch.get_num_threads() == threads


def check_ids_and_entrypoint(pack: Pack) -> None:
    assert set(pack.nodes) == IDS
    assert not hasattr(pack.module, "NODE_CLASS_MAPPINGS")
    assert Path(pack.folder).name == "x-y_1.0"


def check_every_input_has_a_tooltip_and_every_output_a_name(pack: Pack) -> None:
    for node_id, node in pack.nodes.items():
        schema = node.GET_SCHEMA()
        assert schema.category == "LDM-SID" and schema.display_name and schema.description
        for part in (schema.inputs or []) + (schema.outputs or []):
            assert part.tooltip and len(part.tooltip) > 5, (node_id, part.id)


def check_only_newer_keywords_may_be_dropped(pack: Pack) -> None:
    from comfy_api.v0_0_2 import io

    part = pack.part("nodes.schema")
    raises("TypeError", lambda: part.field_input(io.Float, "x", tooltip="t", defualt=1.0))
    raises("TypeError", lambda: part.schema("X", "x", search_alias=["y"]))
    assert part.schema("X", "x", search_aliases=["y"]).node_id == "X"
    assert part.field_input(io.Float, "x", tooltip="t", advanced=True).id == "x"


def check_raw_list(pack: Pack) -> None:
    files = pack.part("nodes.files")
    assert files.raw_choices()[-1] == SAMPLE
    put_sample(pack, "night/B.ARW")
    put_sample(pack, "a.dng")
    (folder("input") / "picture.png").write_bytes(b"x")
    assert files.raw_choices() == ["a.dng", "night/B.ARW", SAMPLE]
    put_sample(pack, "c.dng", "output")
    raw, picture, info = pack.run("LDMSID_LoadRaw", raw_file="c.dng [output]")
    assert json.loads(info)["file_name"] == "c.dng" and picture.shape == (1, 448, 448, 3)
    assert raw.planes.shape == (1, 4, 448, 448) and json.loads(info)["iso"] == 1600


def check_paths_outside_are_refused(pack: Pack) -> None:
    node: Any = pack.nodes["LDMSID_LoadRaw"]
    outside = folder("input").parent / "secret.dng"
    shutil.copyfile(put_sample(pack, "a.dng"), outside)
    link = folder("input") / "link.dng"
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    away = folder("input").parent / "archive"
    away.mkdir(exist_ok=True)
    shutil.copyfile(outside, away / "b.dng")
    (folder("input") / "linked").unlink(missing_ok=True)
    (folder("input") / "linked").symlink_to(away, target_is_directory=True)
    listed = pack.part("nodes.files").raw_choices()
    assert not {"link.dng", "linked/b.dng"} & set(listed), "the list offers what is refused"
    for name in ("../secret.dng", str(outside), "link.dng", "../../x.ARW [output]"):
        message = node.validate_inputs(raw_file=name)
        assert isinstance(message, str) and name in message and "outside" in message, message
        raises(
            "UnsupportedRawError", lambda n=name: pack.run("LDMSID_LoadRaw", raw_file=n), "outside"
        )
    link.unlink()
    (folder("input") / "linked").unlink()
    assert node.validate_inputs(raw_file=SAMPLE) is True
    assert node.validate_inputs(raw_file=None) is True, "a wired name is not known yet"


def check_files_that_are_no_raw(pack: Pack) -> None:
    node: Any = pack.nodes["LDMSID_LoadRaw"]
    gone = node.validate_inputs(raw_file="gone.ARW")
    assert isinstance(gone, str) and "gone.ARW" in gone
    raises("UnsupportedRawError", lambda: pack.run("LDMSID_LoadRaw", raw_file="gone.ARW"), "gone")
    text = folder("input") / "text.nef"
    text.write_text("no camera wrote this")
    raises(
        "UnsupportedRawError", lambda: pack.run("LDMSID_LoadRaw", raw_file="text.nef"), "text.nef"
    )
    Image.new("RGB", (8, 8)).save(folder("input") / "photo.jpg")
    shutil.move(folder("input") / "photo.jpg", folder("input") / "photo.arw")
    raises("UnsupportedRawError", lambda: pack.run("LDMSID_LoadRaw", raw_file="photo.arw"), "JPEG")


def check_fingerprints_follow_the_file(pack: Pack) -> None:
    node: Any = pack.nodes["LDMSID_LoadRaw"]
    path = put_sample(pack, "a.dng")
    first = node.fingerprint_inputs(raw_file="a.dng")
    assert first == node.fingerprint_inputs(raw_file="a.dng")
    os.utime(path, ns=(1, 1))
    assert node.fingerprint_inputs(raw_file="a.dng") != first


def check_exposure_modes(pack: Pack) -> None:
    raw, _, _ = pack.run("LDMSID_LoadRaw", raw_file=SAMPLE)
    call = {"raw": raw, "ratio": 100.0}
    _, auto, shown = pack.run("LDMSID_ExposeRaw", mode="auto", **call)
    assert 100 < auto <= 300 and shown.mean() > 0.2
    exposed, by_hand, _ = pack.run("LDMSID_ExposeRaw", mode="by hand", **call)
    assert by_hand == 100.0 == exposed.exposure_ratio and raw.exposure_ratio == 1.0
    from dataclasses import replace

    longer = replace(raw.metadata, shutter_s=raw.metadata.shutter_s * 50)
    reference = replace(raw, metadata=longer, file_name="LONG.ARW")
    _, pair, _ = pack.run("LDMSID_ExposeRaw", mode="EXIF pair", reference=reference, **call)
    assert abs(pair - 50.0) < 1e-3
    raises(
        "ConfigError", lambda: pack.run("LDMSID_ExposeRaw", mode="EXIF pair", **call), "reference"
    )
    raises("ConfigError", lambda: pack.run("LDMSID_ExposeRaw", mode="night", **call), "'night'")
    raises(
        "ConfigError",
        lambda: pack.run("LDMSID_ExposeRaw", mode="by hand", raw=raw, ratio=0.5), "0.5",
    )  # fmt: skip


def check_taming_files(pack: Pack) -> None:
    import folder_paths

    files = pack.part("nodes.files")
    paths, endings = folder_paths.folder_names_and_paths["ldmsid"]
    assert ".safetensors" in endings
    place = Path(paths[0])
    place.mkdir(parents=True, exist_ok=True)
    (place / "README.md").write_text("no model")
    shutil.copyfile(files.EMBEDDED.taming, place / "mine.safetensors")
    shutil.copyfile(files.EMBEDDED.host, place / "host.safetensors")
    (place / "cut.safetensors").write_bytes(files.EMBEDDED.taming.read_bytes()[:5000])
    assert (
        "README.md" not in files.taming_choices() and "mine.safetensors" in files.taming_choices()
    )
    (taming,) = pack.run("LDMSID_LoadTaming", taming_file="mine.safetensors")
    assert taming.name == "mine.safetensors"
    weights = next(taming.unet.model.parameters())
    assert weights.dtype == torch.float16, "the stored dtype is kept: no second copy in memory"
    node: Any = pack.nodes["LDMSID_LoadTaming"]
    for name, words in (
        ("host.safetensors", "taming"),
        ("cut.safetensors", "damaged"),
        ("none.safetensors", "none"),
    ):
        raises(
            "CheckpointError", lambda n=name: pack.run("LDMSID_LoadTaming", taming_file=n), words
        )
    assert "not there" in str(node.validate_inputs(taming_file="../../x.safetensors"))


def save(pack: Pack, image: torch.Tensor, **changes: Any) -> Any:
    """`Save photograph` with its defaults and a small graph."""
    hidden = SimpleNamespace(
        prompt={"1": {"class_type": "X"}}, extra_pnginfo={"workflow": {"n": 1}}
    )
    inputs = {"filename_prefix": "t/pic", "format": "PNG 8 bit"} | changes
    return pack.execute("LDMSID_SaveImage", hidden=hidden, images=image, **inputs).ui


def check_saving(pack: Pack) -> None:
    from comfy.cli_args import args

    raw, _, _ = pack.run("LDMSID_LoadRaw", raw_file=SAMPLE)
    image = torch.rand(2, 24, 40, 3, generator=torch.Generator().manual_seed(0))
    first = save(pack, image, raw=raw)["images"]
    second = save(pack, image, format="PNG 16 bit")["images"]
    names = [entry["filename"] for entry in first + second]
    assert names == [f"pic_{i:05}_.png" for i in (1, 2, 3, 4)]
    with Image.open(folder("output") / "t" / names[0]) as picture:
        assert json.loads(picture.text["workflow"]) == {"n": 1} and picture.size == (40, 24)  # type: ignore[attr-defined]
        assert json.loads(picture.text["prompt"]) and picture.info["icc_profile"]  # type: ignore[attr-defined]
        assert picture.getexif().get_ifd(0x8769)[0x8827] == 1600
    tiff = save(pack, image, format="TIFF 16 bit")
    assert tiff["images"][0]["type"] == "temp" and tiff["ldmsid_files"][0]["filename"].endswith(
        "tif"
    )
    args.disable_metadata = True
    try:
        bare = save(pack, image[:1])["images"][0]
    finally:
        args.disable_metadata = False
    with Image.open(folder("output") / "t" / bare["filename"]) as picture:
        picture.load()
        assert "workflow" not in picture.text and "prompt" not in picture.text  # type: ignore[attr-defined]


def check_saving_fails_cleanly(pack: Pack) -> None:
    image = torch.rand(1, 24, 40, 3)
    raises("OutputError", lambda: save(pack, image, filename_prefix="../../out"), "../../out")
    raises("ConfigError", lambda: save(pack, image, format="JPEG"), "'JPEG'")
    place = folder("output") / "full"
    kept, os.replace = os.replace, _full_disk
    try:
        raises(
            "OutputError", lambda: save(pack, image, filename_prefix="full/pic"), "No space left"
        )
    finally:
        os.replace = kept
    assert not list(place.iterdir()), "something half-written is left"
    assert save(pack, image, filename_prefix="full/pic")["images"][0]["filename"]


def _full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def check_comparing(pack: Pack) -> None:
    shown = pack.execute(
        "LDMSID_CompareImages", hidden=SimpleNamespace(prompt=None, extra_pnginfo=None),
        before=torch.rand(1, 16, 24, 3), after=torch.rand(2, 32, 48, 4),
    ).ui["ldmsid_compare"]  # fmt: skip
    assert len(shown) == 2 and all(entry["type"] == "temp" for entry in shown)
    sizes = []
    for entry in shown:
        with Image.open(folder("temp") / entry["subfolder"] / entry["filename"]) as picture:
            sizes.append(picture.size)
    assert sizes == [(24, 16), (48, 32)]


def check_thumbnails(pack: Pack) -> None:
    part = pack.part("nodes.thumbnail_route")
    picture = part.thumbnail(pack.part("nodes.files").resolve_raw(SAMPLE))
    assert max(picture.size) <= 512 and picture.mode == "RGB"
    assert sum(picture.resize((1, 1)).getpixel((0, 0))) > 150
