"""Two processes over gloo compute what one computes, and resume together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.training_configs import tiny_values
from helpers.training_runs import losses_in, settings, unet_stage

ROOT = Path(__file__).resolve().parents[2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes by torchrun, one thread each."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(
        [
            sys.executable, "-P", "-m", "torch.distributed.run", "--nproc_per_node", "2",
            "--master_port", str(_free_port()), *arguments,
        ],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    script = str(ROOT / "tests" / "helpers" / "gloo_run.py")
    for steps in (2, 3):  # the second run goes on from the first
        unet_stage(tmp_path / "one", settings(batch=4, steps=steps, schedule="constant"))
        done = launch(script, str(tmp_path / "two"), "2", str(steps))
        assert done.returncode == 0, done.stderr
    found, wanted = (losses_in(tmp_path / name / "s.csv") for name in ("two", "one"))
    # Sums of float32 in another order; Adam's first steps enlarge what is near zero.
    assert found == pytest.approx(wanted, rel=1e-4) and len(found) == 3
    marks = {p.name for p in (tmp_path / "two").glob("process_*")}
    assert marks == {"process_0_of_2", "process_1_of_2"}
    state = torch.load(tmp_path / "two" / "s.state.pt")
    assert state["step"] == 3 and state["global_batch"] == 4


@pytest.mark.slow
def test_the_command_runs_on_two_processes(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text(json.dumps(tiny_values(batch=1)))
    done = launch(
        "-m", "ldmsid_core", "train", str(config), "-o", str(tmp_path / "run"), "--quiet", "--cpu"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(tmp_path / "run" / f"{name}.safetensors") for name in ("host", "taming")
    ]
    state = torch.load(tmp_path / "run" / "decoder_taming.state.pt")
    assert state["global_batch"] == 2
