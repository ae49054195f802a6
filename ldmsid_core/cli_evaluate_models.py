"""The learned routes of `ldmsid evaluate`: the model, and what it is compared with on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .evaluation.metrics import FloatImage
from .evaluation.sheet import to_float_image
from .hosts.dtypes import choose_device, choose_dtype
from .hosts.engine import ready_engine
from .hosts.fit import check_fit
from .hosts.host import Host, load_host
from .hosts.settings import SamplingSettings
from .model_files import EMBEDDED, find_model
from .pipeline import enhance, recipe_planes
from .raw.packed_raw import PackedRaw, apply_orientation
from .sampling_grid import DEFAULT_STEPS
from .taming.checkpoint import Taming, load_taming
from .training.ablation import TrainedVariant, read_ablations
from .training.regression_file import load_regression

MODEL_ROUTE = "LDM-SID"
REGRESSION_ROUTE = "U-Net regression"
Route = Callable[[PackedRaw, float], FloatImage]


@dataclass(frozen=True)
class ModelOptions:
    """Which models run, and how.

    Attributes:
        host: Host weights; None is the embedded model.
        taming: Taming checkpoint; None is the embedded one.
        steps: Sampling steps.
        seed: Of the noise that sampling starts from, and of simulated sensor noise.
        device: As for `enhance`.
        dtype: As for `enhance`.
        regression: File of the baseline; None leaves it out.
        ablations: List that `ldmsid ablate` wrote, one route a variant; None leaves them out.
    """

    host: Path | None = None
    taming: Path | None = None
    steps: int = DEFAULT_STEPS
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    regression: Path | None = None
    ablations: Path | None = None


@dataclass(frozen=True)
class Models:
    """Learned routes that are ready to run.

    Attributes:
        routes: By name, the model first: file and exposure ratio -> picture, upright.
        settings: For the report.
        notes: For the report.
    """

    routes: dict[str, Route]
    settings: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True)
class _Where:
    """Device, dtype and sampling that all routes share."""

    device: torch.device
    dtype: torch.dtype
    settings: SamplingSettings
    seed: int

    @contextmanager
    def attached(self, host: Host, taming: Taming) -> Iterator[Route]:
        """A tamed host as a route."""
        with ready_engine(
            host, taming, device=self.device, dtype=self.dtype, settings=self.settings
        ) as (sample, decode):

            def picture(raw: PackedRaw, ratio: float) -> FloatImage:
                result = enhance(
                    raw, taming.header.input_recipe, exposure_ratio=ratio, seed=self.seed,
                    sample=sample, decode=decode,
                )  # fmt: skip
                return to_float_image(result.image)

            yield picture

    def attached_each_time(self, host: Host, taming: Taming) -> Route:
        """The same, where several taming files share a host."""

        def picture(raw: PackedRaw, ratio: float) -> FloatImage:
            with self.attached(host, taming) as route:
                return route(raw, ratio)

        return picture

    def regression(self, path: Path) -> Route:
        """The baseline as a route."""
        loaded = load_regression(path)
        network = loaded.network.to(self.device, self.dtype)

        def picture(raw: PackedRaw, ratio: float) -> FloatImage:
            planes = recipe_planes(raw, loaded.header.input_recipe, exposure_ratio=ratio)
            with torch.inference_mode():
                image = network.picture(planes.to(self.device, self.dtype)).cpu()
            return to_float_image(apply_orientation(image, raw.orientation))

        return picture

    def variants(self, variants: tuple[TrainedVariant, ...]) -> dict[str, Route]:
        """Ablations as routes; each host is read once."""
        hosts: dict[Path, Host] = {}
        routes = {}
        for variant in variants:
            if variant.host not in hosts:
                hosts[variant.host] = load_host(variant.host, dtype=self.dtype)
            taming = load_taming(variant.taming, dtype=self.dtype)
            check_fit(hosts[variant.host], taming)
            attached = self.attached_each_time(hosts[variant.host], taming)
            routes[_variant_route(variant)] = attached
        return routes


def _variant_route(variant: TrainedVariant) -> str:
    return f"ablation {variant.variant.name}"


@contextmanager
def open_models(options: ModelOptions) -> Iterator[Models]:
    """Load what the options name, for the length of a `with` block.

    Raises:
        CheckpointError: If a weight file is missing, damaged or of another kind.
        HostMismatchError: If a taming file does not fit its host.
        ConfigError: If device, dtype or the list of ablations is none.
    """
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    where = _Where(device, dtype, SamplingSettings(options.steps), options.seed)
    host = load_host(find_model(options.host, EMBEDDED.host), dtype=dtype)
    taming = load_taming(find_model(options.taming, EMBEDDED.taming), dtype=dtype)
    settings: dict[str, Any] = {
        "steps": options.steps,
        "seed": options.seed,
        "dtype": str(dtype).removeprefix("torch."),
        "host": host.name,
        "taming": taming.name,
    }
    more: dict[str, Route] = {}
    notes = []
    if options.regression is not None:
        more[REGRESSION_ROUTE] = where.regression(options.regression)
        settings["regression"] = options.regression.name
        notes.append(
            f"{REGRESSION_ROUTE}: a network after Chen et al. (2018) from amplified planes to the "
            f"picture, {options.regression.name}, without a host"
        )
    if options.ablations is not None:
        variants = read_ablations(options.ablations)
        more |= where.variants(variants)
        settings["ablations"] = str(options.ablations)
        notes += [
            f"{_variant_route(v)}: bands {v.variant.bands}, taming of {v.variant.tamed}"
            for v in variants
        ]
    with ExitStack() as stack:
        model = stack.enter_context(where.attached(host, taming))
        yield Models({MODEL_ROUTE: model, **more}, settings, notes)
