"""Ablations and the baseline at embedded scale, over several training seeds.

    ldmsid ablate tiny_ablation -o runs/ablations-1     # and with "seed": 2, 3 in copies
    ldmsid train tiny_regression -o runs/regression-1
    python benchmarks/ablations.py runs/ablations-*/ablations.json --regression U_NET_FILE

Photographs never trained on, simulated A7S II at ISO 1600. Means with 95 % bootstrap intervals over
photographs, the spread of the seeds' means, and differences from `both` of the same seed.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from frames import ISO

from ldmsid_core.cli_evaluate import parse_ratios, simulated_raw
from ldmsid_core.cli_evaluate_models import MODEL_ROUTE, ModelOptions, open_models
from ldmsid_core.cli_synth import dark_counts
from ldmsid_core.evaluation.bootstrap import bootstrap_mean
from ldmsid_core.evaluation.learned import LearnedFiles, build_ruler
from ldmsid_core.evaluation.metrics import FloatImage
from ldmsid_core.training.photographs import EVALUATION_PHOTOGRAPHS, load_photograph

METRICS = "psnr_rgb,ssim_rgb,gmsd_y,delta_e_2000"
FULL = "ablation both"
# route -> metric -> (seed, photograph) -> values of the ratios
Values = dict[str, dict[str, dict[tuple[int, str], list[float]]]]


def measured(models: list[ModelOptions], ratios: list[float]) -> Values:
    """Every route's metrics, by training seed and photograph."""
    ruler = build_ruler(METRICS, LearnedFiles(None, None, None))
    values: Values = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for seed, options in enumerate(models):
        with open_models(options) as ready:
            for name in sorted(EVALUATION_PHOTOGRAPHS):
                photograph = load_photograph(name)
                truth: FloatImage = photograph.astype(np.float32) / 255.0
                for ratio in ratios:
                    counts = dark_counts(photograph, ratio=ratio, iso=ISO, seed=0)
                    raw = simulated_raw(counts, name)
                    for route, run in ready.routes.items():
                        if route == MODEL_ROUTE and seed:
                            continue  # the bundled model has no other seed
                        for metric, value in ruler.measure([run(raw, ratio)], truth).items():
                            values[route][metric][seed, name].append(value)
    return values


def summary(values: Values, route: str, metric: str) -> dict[str, float | None]:
    """Mean, interval, spread of seeds, and the difference from the full model."""
    found = values[route][metric]
    cases = [(name, v) for (_, name), list_ in found.items() for v in list_]
    whole = bootstrap_mean([v for _, v in cases], [name for name, _ in cases])
    by_seed = defaultdict(list)
    for (seed, _), list_ in found.items():
        by_seed[seed] += list_
    means = [float(np.mean(list_)) for list_ in by_seed.values()]
    row: dict[str, float | None] = {
        "mean": whole.mean, "low": whole.low, "high": whole.high,
        "seeds": len(means), "spread": max(means) - min(means),
    }  # fmt: skip
    full = values.get(FULL, {}).get(metric, {})
    pairs = [
        (name, a - b)
        for (seed, name), list_ in found.items() if (seed, name) in full
        for a, b in zip(list_, full[seed, name], strict=True)
    ]  # fmt: skip
    if pairs and route != FULL:
        gap = bootstrap_mean([d for _, d in pairs], [name for name, _ in pairs])
        row |= {"gap": gap.mean, "gap_low": gap.low, "gap_high": gap.high}
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lists", type=Path, nargs="*", help="ablations.json, one a seed.")
    parser.add_argument("--regression", type=Path, action="append", default=[])
    parser.add_argument("--ratios", default="100,250,300")
    parser.add_argument("--json", type=Path, help="Write the rows here as well.")
    options = parser.parse_args()
    count = max(len(options.lists), len(options.regression), 1)
    models = [
        ModelOptions(
            ablations=options.lists[i] if i < len(options.lists) else None,
            regression=options.regression[i] if i < len(options.regression) else None,
        )
        for i in range(count)
    ]
    values = measured(models, parse_ratios(options.ratios))
    rows = {route: {m: summary(values, route, m) for m in values[route]} for route in values}
    for route, metrics in rows.items():
        for metric, row in metrics.items():
            gap = "" if "gap" not in row else (
                f"   both {row['gap']:+.3f} [{row['gap_low']:+.3f}, {row['gap_high']:+.3f}]"
            )  # fmt: skip
            print(
                f"{route:22s} {metric:12s} {row['mean']:8.3f} [{row['low']:.3f}, "
                f"{row['high']:.3f}]  {row['seeds']} seeds, spread {row['spread']:.3f}{gap}"
            )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
