"""The whole way by commands: a dataset folder, shards, taming and baseline, a table of scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.datasets import scene_picture, write_sid
from helpers.shards import CROP, random_host, taming_config
from PIL import Image

from ldmsid_core.cli import main
from ldmsid_core.training.config import TrainingConfig

SIZE = (CROP + 8, CROP + 16)


def call(*arguments: object) -> str:
    done = CliRunner().invoke(main, [*map(str, arguments), "--quiet"])
    assert done.exit_code == 0, done.output
    return done.stdout


def saved(config: TrainingConfig, path: Path) -> Path:
    path.write_text(config.to_json())
    return path


@pytest.mark.slow
def test_from_a_folder_of_raws_to_scores(tmp_path: Path) -> None:
    shots = write_sid(tmp_path / "sid", scenes=2, shorts=2, size=SIZE)
    call("prepare", tmp_path / "sid", "--kind", "sid", "-o", tmp_path / "shards")

    data = {"kind": "pairs", "folder": str(tmp_path / "shards")}
    host = random_host(tmp_path)
    config = taming_config(host, data)
    written = call("train", saved(config, tmp_path / "c.json"), "-o", tmp_path / "run",
                   "--loaders", 2, "--cpu").split()  # fmt: skip
    stage = replace(config.stages[1], kind="regression", name="regression", crop=64)
    small = replace(config.regression, parameters=50_000)
    baseline = replace(
        taming_config("", data, stages=[{"kind": "regression", "steps": 1}], generation={},
                      unet_modules={}, decoder_modules={}),
        stages=(stage,), regression=small,
    )  # fmt: skip
    (regression,) = call("train", saved(baseline, tmp_path / "r.json"), "-o", tmp_path / "base",
                         "--cpu").split()  # fmt: skip

    truths = tmp_path / "truth"
    truths.mkdir()
    for scene in (1, 2):
        Image.fromarray(scene_picture(*SIZE, seed=scene)).save(truths / f"scene{scene}.png")
    rows = [
        f"{Path(short).name},scene{int(Path(short).name[:5])}.png,{ratio}"
        for (short, _), ratio in zip(shots, (250, 100) * 2, strict=True)
    ]
    (tmp_path / "list.csv").write_text("\n".join(["result,truth,ratio", *rows]))
    said = json.loads(call(
        "evaluate", "--raws", tmp_path / "sid" / "Sony" / "short", "--truth", truths,
        "--pairs", tmp_path / "list.csv", "--host", written[0], "--taming", written[1],
        "--regression", regression, "--steps", 1, "--metrics", "psnr_rgb", "--json",
        "-o", tmp_path / "report",
    ))  # fmt: skip
    assert said["routes"][:2] == ["LDM-SID", "U-Net regression"] and said["pictures"] == 4
    assert list(said["parts"]) == ["all", "x100", "x250"]
    for route in said["routes"]:
        assert 3.0 < said["parts"]["all"]["means"][route]["psnr_rgb"]["mean"] < 60.0
    assert written[0] == str(host)
