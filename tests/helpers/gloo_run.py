"""One process of a run: `gloo_run.py FOLDER BATCH STEPS`, started by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

from helpers.training_runs import settings, unet_stage

from ldmsid_core.training.compute import open_compute

if __name__ == "__main__":
    folder, batch, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with open_compute(on_cpu=True) as compute:
        config = settings(batch=batch, steps=steps, schedule="constant")
        unet_stage(folder, config, compute=compute)
        (folder / f"process_{compute.process}_of_{compute.processes}").touch()
