"""Settings of the actor generator's training."""

from dataclasses import asdict, dataclass
from pathlib import Path

from veilcam.camera.errors import ConfigError
from veilcam.model.config import read_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorConfig:
    """One run of training on simulated people.

    Attributes:
        pack: Training pack made by `veilcam.model.actor_prepare`.
        generator: Always `actor`: tells this configuration from the head generator's.
        features: Feature net converted by `veilcam.model.feature_net`; empty for none.
        seed: Seed of weights and batches (public data: nothing secret depends on it).
        batch: Pictures of a step.
        total_steps: Last step; the rates fall all the way.
        learning_rate, latent_learning_rate: Adam step sizes.
        feature_weight: Of the features' distance beside the pixels'.
        latent_noise: Standard deviation of what is added to a latent in training.
        quantize_aware: Whether maps are rounded as int8 inference rounds them.
        ema: Decay of the averaged weights that are exported.
        checkpoint_every, log_every: Steps.
    """

    pack: str
    generator: str = "actor"
    features: str = ""
    seed: int = 0
    batch: int = 16
    total_steps: int = 20_000
    learning_rate: float = 2e-3
    latent_learning_rate: float = 1e-2
    feature_weight: float = 0.5
    latent_noise: float = 0.3
    quantize_aware: bool = True
    ema: float = 0.998
    checkpoint_every: int = 500
    log_every: int = 25

    def __post_init__(self) -> None:
        if self.generator != "actor":
            raise ConfigError(f"generator={self.generator!r} must be 'actor'")
        for name, value in asdict(self).items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if is_number and name != "seed" and value <= 0:
                raise ConfigError(f"{name}={value} must be > 0; set {name} in the training config")


def load_actor_config(path: Path) -> ActorConfig:
    """Reads a TOML file."""
    return ActorConfig(**read_keys(path, ActorConfig))
