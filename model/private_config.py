"""Settings of a private stage: which run it starts from, by which route, within which budget."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from veilcam.camera.errors import ConfigError
from veilcam.model.config import check_keys, read_table
from veilcam.model.plan import Plan, plan_from_table

ROUTES = ("public", "latents", "statistics", "discriminator", "adapters")
LATENTS, EMBEDDING, DISCRIMINATOR, ADAPTERS = "latents", "embedding", "discriminator", "adapters"
STAGES = {
    "public": (),
    "latents": (LATENTS,),
    "statistics": (LATENTS, EMBEDDING),
    "discriminator": (LATENTS, DISCRIMINATOR),
    "adapters": (LATENTS, ADAPTERS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateConfig:
    """One run that moves a public generator toward private people.

    Attributes:
        start: Folder of the public run.
        pack: The public pack that it was trained on.
        features: The feature net: see `model.feature_net`.
        models: Folder with the matte's ONNX file.
        private: Folder of the private people with manifest.csv; not read by the route `public`.
        encoder: File that the encoder is kept in, fitted when it is not there.
        route: How private people move the latents' prior: `latents` (one noisy mean and covariance
            of latents, no steps), `statistics` (and one noisy mean of features), `discriminator`
            (DP-SGD on a critic), `adapters` (DP-SGD on the prior itself), or `public`: the twin,
            which takes as many steps toward public pictures.
        steps: Steps of the prior; with the route `adapters` those of its stage count.
        batch: Painted heads in a step; even.
        learning_rate: Adam's, in standard deviations of the latents.
        stay_weight: Of the prior's mean squared distance from where it began.
        seed: Of public randomness; the noise's keys come from the operating system.
        checkpoint_every: Steps.
    """

    start: str
    pack: str
    features: str
    models: str
    private: str
    encoder: str
    route: str
    steps: int = 150
    batch: int = 16
    learning_rate: float = 1e-2
    stay_weight: float = 0.1
    seed: int = 1
    checkpoint_every: int = 25

    def __post_init__(self) -> None:
        if self.route not in ROUTES:
            raise ConfigError(f"route={self.route!r}; allowed: {', '.join(ROUTES)}")
        for name in ("steps", "learning_rate", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be > 0")
        if self.batch < 4 or self.batch % 2:
            raise ConfigError(f"batch={self.batch} must be even and at least 4")
        if not self.stay_weight >= 0:
            raise ConfigError(f"stay_weight={self.stay_weight} must be >= 0")

    @property
    def told(self) -> dict[str, Any]:
        """What the run's facts say; where files lay is nobody's business."""
        names = ("route", "steps", "batch", "learning_rate", "stay_weight", "seed")
        return {name: getattr(self, name) for name in names}

    @property
    def fingerprint(self) -> str:
        """Of all that a resumed run must share with the one it goes on with."""
        told = {k: v for k, v in asdict(self).items() if k != "checkpoint_every"}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def load_private_config(path: Path) -> tuple[PrivateConfig, Plan | None]:
    """The settings and, but for the public twin, the plan of the table `[privacy]`.

    Raises:
        ConfigError: A key is unknown, missing or mistyped, or the stages are not the route's.
    """
    table = dict(read_table(path))
    privacy: Any = table.pop("privacy", None)
    config = PrivateConfig(**check_keys(path, table, PrivateConfig))
    wanted_stages = STAGES[config.route]
    if not wanted_stages:
        if privacy is not None:
            raise ConfigError(f"{path}: the route 'public' spends nothing; remove [privacy]")
        return config, None
    if privacy is None:
        raise ConfigError(f"{path}: the route {config.route!r} needs a [privacy] table")
    plan = plan_from_table(privacy)
    names = tuple(stage.stage for stage in plan.stages)
    if names != wanted_stages:
        raise ConfigError(
            f"{path}: the route {config.route!r} wants the stages {list(wanted_stages)}, in this "
            f"order, and [privacy] has {list(names)}"
        )
    return config, plan
