"""The training configuration: one JSON file, strict, saved beside what it produced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import ConfigError
from ..taming.configs import DecoderTamingConfig, UNetTamingConfig, config_from_dict
from ..taming.header import check_clip
from ..wavelet import BandKind
from .darkness import DarknessConfig
from .data_config import DataConfig
from .generated import GenerationConfig
from .images import PoolConfig
from .losses import LossConfig
from .regression import RegressionConfig
from .stage import StageConfig

PredictionType = Literal["epsilon", "v_prediction"]
StageKind = Literal["vae", "unet", "unet_taming", "decoder_taming", "regression"]
TamedHalves = Literal["both", "unet", "decoder"]
_KINDS: tuple[StageKind, ...] = get_args(StageKind)
_HOST_KINDS = ("vae", "unet")
_TAMING_ALONE = ("taming", "bands", "generation", "warm_start", "prediction_type")
_CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class Stage(StageConfig):
    """One entry of a configuration's list of stages.

    Attributes:
        kind: What learns: the host's `vae` or `unet`, `unet_taming` or `decoder_taming`; or the
            baseline, `regression`.
        name: Of its files in the run's folder; empty takes the kind.
        loss: Of decoder taming and of the baseline.
    """

    kind: StageKind = "unet_taming"
    name: str = ""
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        """Check what a kind of stage can do."""
        super().__post_init__()
        if self.kind not in _KINDS:
            raise ConfigError(
                f"Expected a stage's kind among {', '.join(_KINDS)}, found {self.kind!r}."
            )
        if not self.name:
            object.__setattr__(self, "name", self.kind)
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise ConfigError(f"Expected a stage name of letters and digits, found {self.name!r}.")
        if self.kind not in ("decoder_taming", "regression") and self.loss != LossConfig():
            raise ConfigError(
                f"Stage {self.name}: only decoder_taming and regression have a loss to choose."
            )
        if self.kind == "regression" and self.checkpointing:
            raise ConfigError(f"Stage {self.name}: regression has no checkpointing; leave it out.")
        if self.trains_host and self.sample_every:
            raise ConfigError(
                f"Stage {self.name}: stages of a host draw no sample sheets; leave sample_every "
                "out."
            )

    @property
    def trains_host(self) -> bool:
        """Whether a part of the host learns, from clean images."""
        return self.kind in _HOST_KINDS


@dataclass(frozen=True)
class TrainingConfig:
    """Everything a training run depends on.

    Attributes:
        stages: In order: the host's VAE, its UNet, UNet taming, decoder taming, several of a kind
            allowed; or stages of the baseline alone.
        host: A host to tame, file, folder or name; `embedded` is the bundled one; empty trains a
            small one by `vae` and `unet` stages.
        taming: Which halves are tamed (paper's ablation); stages of the other are left out, and
            the result carries modules in its place that change nothing. Without UNet taming,
            decoder taming learns on what the untamed UNet samples.
        bands: What planes are split into; `rescale` is the paper's ablation.
        unet_modules: Shape of UNet taming.
        decoder_modules: Shape of decoder taming.
        seed: Of images, initial weights and prompt; noise follows from the step alone.
        data: What the stages train on; pool and darkness are those of drawn data.
        pool: Drawn clean images. Of data from files `encoded` alone is looked at.
        darkness: Simulated dark RAWs.
        generation: Latents for decoder taming.
        regression: Size of the baseline.
        clip: Range of the amplified planes, see `network_planes`; 0..1 is the paper's.
        prediction_type: What the UNet of a small host predicts; a given host knows its own.
        warm_start: Folder with `host.safetensors` and `taming.safetensors` to start from, where a
            half without a stage stays; empty starts anew, `embedded` is the bundled model.
        licence: Of the weights that come out.
    """

    stages: tuple[Stage, ...]
    host: str = ""
    taming: TamedHalves = "both"
    bands: BandKind = "dwt"
    clip: tuple[float, float] = (0.0, 1.0)
    prediction_type: PredictionType = "epsilon"
    unet_modules: UNetTamingConfig = field(default_factory=UNetTamingConfig)
    decoder_modules: DecoderTamingConfig = field(default_factory=DecoderTamingConfig)
    seed: int = 1
    data: DataConfig = field(default_factory=DataConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    darkness: DarknessConfig = field(default_factory=DarknessConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    regression: RegressionConfig = field(default_factory=RegressionConfig)
    warm_start: str = ""
    licence: str = "Apache-2.0"

    def __post_init__(self) -> None:
        """Check what the stages share."""
        for name, kind in (
            ("taming", TamedHalves), ("bands", BandKind), ("prediction_type", PredictionType),
        ):  # fmt: skip
            if (value := getattr(self, name)) not in get_args(kind):
                known = " or ".join(get_args(kind))
                raise ConfigError(f"Expected {name} {known}, found {value!r}.")
        check_clip(self.clip)
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"Expected stages of different names, found {names}.")
        order = [_KINDS.index(stage.kind) for stage in self.stages]
        if order != sorted(order):
            raise ConfigError(f"Expected stages in the order {', '.join(_KINDS)}, found {names}.")
        if self.is_regression:
            self._check_regression()
        else:
            self._check_host()
        self._check_data()

    @property
    def is_regression(self) -> bool:
        """Whether the baseline is trained instead of taming."""
        return any(stage.kind == "regression" for stage in self.stages)

    def _check_regression(self) -> None:
        """Refuse what the baseline has no use for."""
        kinds = sorted({stage.kind for stage in self.stages} - {"regression"})
        if kinds:
            raise ConfigError(
                f"Expected regression stages alone, found {', '.join(kinds)} beside them; train "
                "the baseline by a configuration of its own."
            )
        sized_by = ("host", "unet_modules", "decoder_modules")
        unused = _TAMING_ALONE + (sized_by if self.regression.parameters else ())
        for setting in fields(self):
            factory = setting.default_factory
            plain = setting.default if factory is MISSING else factory()
            if setting.name in unused and getattr(self, setting.name) != plain:
                raise ConfigError(
                    f"Expected no {setting.name} with regression stages"
                    f"{' of stated parameters' if setting.name in sized_by else ''}, found it."
                )

    def _check_host(self) -> None:
        if self.regression != RegressionConfig():
            raise ConfigError("Expected no settings of regression without regression stages.")
        kinds = {stage.kind for stage in self.stages}
        own = kinds & set(_HOST_KINDS)
        if self.host and own:
            raise ConfigError(
                f"Expected no stages {', '.join(sorted(own))} with the host {self.host!r}, whose "
                "weights never change."
            )
        if self.host and self.prediction_type != "epsilon":
            raise ConfigError(
                f"Expected no prediction_type with the host {self.host!r}, which has its own."
            )
        if not self.host and own != set(_HOST_KINDS) and not (self.warm_start and "unet" in own):
            raise ConfigError("Expected stages vae and unet (unet with a warm start), or a host.")
        if not self.host and not self.pool.encoded:
            raise ConfigError("Expected pool.encoded above 0 where the host is trained as well.")
        crops = {s.crop for s in self.stages if s.kind in ("unet", "unet_taming")}
        if len(crops) > 1 and self.pool.encoded and not self.data.is_from_files:
            raise ConfigError(
                "Expected one crop for unet and unet_taming, which share their latents, found "
                f"{sorted(crops)}."
            )
        halves = {"both": {"unet_taming", "decoder_taming"}}.get(
            self.taming, {f"{self.taming}_taming"}
        )
        if self.host and (missing := halves - kinds) and not (self.warm_start and halves & kinds):
            raise ConfigError(
                f"Expected a stage {', '.join(sorted(missing))} for taming {self.taming!r}."
            )

    def _check_data(self) -> None:
        """Refuse settings of drawn data beside data that are not drawn."""
        if not self.data.is_from_files:
            return
        if self.pool != PoolConfig(encoded=self.pool.encoded):
            raise ConfigError(
                f"Expected no settings of pool but encoded with data of the kind "
                f"{self.data.kind}, found {self.pool}; images come from {self.data.folder}."
            )
        if self.data.kind == "pairs" and self.darkness != DarknessConfig():
            raise ConfigError(
                "Expected no darkness with data of the kind pairs, whose RAWs are dark already."
            )

    def of_kind(self, kind: StageKind) -> tuple[tuple[int, Stage], ...]:
        """The stages of a kind with their places in the list; none of a half left untamed."""
        left_out = {"unet": "decoder_taming", "decoder": "unet_taming"}.get(self.taming)
        return tuple(
            (place, stage)
            for place, stage in enumerate(self.stages)
            if stage.kind == kind and kind != left_out
        )

    def used_stages(self) -> tuple[tuple[int, Stage], ...]:
        """All stages with their places in the list, without those of a half left untamed."""
        return tuple(found for kind in _KINDS for found in self.of_kind(kind))

    def to_json(self) -> str:
        """Every setting, defaults included."""
        return json.dumps(asdict(self), indent=2)


def _parse_stage(values: object, source: str) -> Stage:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected an object with settings, found {values!r}.")
    ready = dict(values)
    if "kind" not in ready:
        raise ConfigError(f"{source}: expected a kind among {', '.join(_KINDS)}, found none.")
    source = f"{source}, {ready.get('name') or ready['kind']}"
    if "loss" in ready:
        ready["loss"] = config_from_dict(LossConfig, ready["loss"], source=f"{source}, loss")
    return config_from_dict(Stage, ready, source=source)


def parse_training_config(values: Mapping[str, Any], *, source: str) -> TrainingConfig:
    """A configuration from JSON values.

    Raises:
        ConfigError: If a setting is unknown, missing or out of range.
    """
    ready = dict(values)
    stages = ready.get("stages", [])
    if not isinstance(stages, list):
        raise ConfigError(f"{source}: expected stages as a list, found {stages!r}.")
    ready["stages"] = tuple(_parse_stage(stage, source) for stage in stages)
    kinds: dict[str, type] = {
        "decoder_modules": DecoderTamingConfig, "pool": PoolConfig, "darkness": DarknessConfig,
        "generation": GenerationConfig, "data": DataConfig, "regression": RegressionConfig,
    }  # fmt: skip
    for name, kind in kinds.items():
        if name in ready:
            ready[name] = config_from_dict(kind, ready[name], source=f"{source}, {name}")
    if "unet_modules" in ready:
        ready["unet_modules"] = UNetTamingConfig.from_dict(
            ready["unet_modules"], source=f"{source}, unet_modules"
        )
    return config_from_dict(TrainingConfig, ready, source=source)


def find_training_config(name: Path) -> Path:
    """A configuration by its path, or a bundled one by its name, such as `tiny`."""
    bundled = _CONFIGS / f"{name}.json"
    return bundled if len(name.parts) == 1 and not name.exists() and bundled.exists() else name


def load_training_config(path: Path) -> TrainingConfig:
    """Read a JSON configuration; unknown keys are errors.

    Raises:
        ConfigError: If the file is missing, no JSON, or holds an unknown or bad setting.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"Expected JSON in {path}, found something else: {error}.") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"Expected an object with settings in {path}.")
    return parse_training_config(values, source=str(path))


def changed_settings(before: TrainingConfig, now: TrainingConfig) -> list[str]:
    """Names of the settings that differ, those of a stage as `stage.setting`."""
    old, new = asdict(before), asdict(now)
    changed = sorted(key for key in new if key != "stages" and old[key] != new[key])
    earlier, later = ({s["name"]: s for s in values["stages"]} for values in (old, new))
    if list(earlier) != list(later):
        return [*changed, "stages"]
    for name, stage in later.items():
        changed += [f"{name}.{key}" for key in stage if stage[key] != earlier[name][key]]
    return changed
