"""Jobs that `comfy_pack.py` measures, inside a real ComfyUI's Python; not to be started by hand."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "comfy_checks"))


def graph(pack: Any, _settings: dict[str, Any]) -> float:
    """CPU seconds of the first bundled workflow, loading the model included."""
    started = time.process_time()
    raw, _, _ = pack.run("LDMSID_LoadRaw", raw_file="[sample] dark")
    raw, _, _ = pack.run("LDMSID_ExposeRaw", raw=raw, mode="by hand", ratio=250.0)
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=raw)
    model, vae, _, taming = pack.run("LDMSID_LoadEmbedded")
    (latent,) = pack.run(
        "LDMSID_TamedSampler", model=model, taming=taming, bands=bands, seed=0, steps=12,
        sampler_name="dpmpp_2m", scheduler="trailing", strength=1.0,
    )  # fmt: skip
    (image,) = pack.run(
        "LDMSID_TamedDecode", vae=vae, taming=taming, bands=bands, latent=latent, strength=1.0
    )
    from types import SimpleNamespace

    pack.execute(
        "LDMSID_SaveImage", hidden=SimpleNamespace(prompt=None, extra_pnginfo=None), images=image,
        filename_prefix="bench", format="PNG 8 bit", raw=raw,
    )  # fmt: skip
    return time.process_time() - started


def load(pack: Any, settings: dict[str, Any]) -> dict[str, str]:
    """Time of loading a taming file over that of reading its bytes, and memory held."""
    import psutil
    from measure import ratio, wall_seconds

    path = Path(settings["path"])
    part = pack.part("nodes.taming_model")
    middle, spread = ratio(
        lambda: part.load_taming_model(path), path.read_bytes, clock=wall_seconds, pairs=11
    )
    gc.collect()
    before = psutil.Process().memory_info().rss
    kept = part.load_taming_model(path)
    gc.collect()
    held = psutil.Process().memory_info().rss - before
    assert kept.unet is not None
    size = path.stat().st_size
    return {
        "mb": f"{size / 1e6:.0f}",
        "time": f"{middle:.2f} +- {spread:.2f}",
        "memory": f"{held / size:.2f}",
    }


def full_size_model() -> Any:
    """A MODEL of Stable Diffusion 2.1's shape with random weights."""
    import comfy.model_base
    import comfy.model_management as mm
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    wanted = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
        "channel_mult": (1, 2, 4, 4), "num_res_blocks": [2] * 4,
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1,
        "context_dim": 1024, "use_spatial_transformer": True, "legacy": False,
        "use_linear_in_transformer": True, "adm_in_channels": None,
    }  # fmt: skip
    config = comfy.supported_models.SD20(wanted)
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.EPS)
    with torch.no_grad():
        for parameter in model.diffusion_model.parameters():
            parameter.normal_(std=0.02)
    return comfy.model_patcher.ModelPatcher(model, mm.get_torch_device(), torch.device("cpu"))


_KEPT: dict[str, Any] = {}


def step(pack: Any, settings: dict[str, Any]) -> str:
    """CPU time of a tamed sampling step over that of an untamed one, full size, float32."""
    import torch
    from measure import cpu_seconds
    from scene import cut, ksample

    if not _KEPT:
        _KEPT["model"] = full_size_model()
        taming = pack.part("nodes.taming_model").load_taming_model(Path(settings["path"]))
        taming.unet.model.float()
        _KEPT["taming"] = taming
    model, taming = _KEPT["model"], _KEPT["taming"]
    raw, _, _ = pack.run("LDMSID_LoadRaw", raw_file="[sample] dark")
    side = 8 * settings["side"]
    from dataclasses import replace

    planes = torch.rand(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=replace(cut(raw, 64, 64), planes=planes))
    tamed, latent = pack.run(
        "LDMSID_ApplyTaming", model=model, taming=taming, bands=bands, strength=1.0,
        start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    prompt = taming.conditioning()

    def work(which: Any) -> float:
        return cpu_seconds(lambda: ksample(which, latent, prompt, steps=1))

    work(tamed), work(model)
    found = []
    for pair in range(settings["pairs"]):
        order = (tamed, model) if pair % 2 else (model, tamed)
        times = {id(which): work(which) for which in order}
        found.append(times[id(tamed)] / times[id(model)])
    low, middle, high = statistics.quantiles(found, n=4)
    return f"{middle:.3f} +- {(high - low) / 2:.3f}"


def main() -> None:
    """Answer jobs until standard input ends."""
    host, folder, base = sys.argv[1:]
    import runner

    runner.start_host(host, base)
    sys.path.insert(0, str(HERE))
    runner.start_server()
    pack = runner.Pack(folder, {})
    jobs = {"graph": graph, "load": load, "step": step}
    import torch

    for line in sys.stdin:
        settings = json.loads(line)
        with torch.inference_mode():
            answer = jobs[settings.pop("job")](pack, settings)
        print("\n" + json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    main()
