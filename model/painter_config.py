"""Settings of the painter's training."""

from dataclasses import asdict, dataclass
from pathlib import Path

from veilcam.camera.errors import ConfigError
from veilcam.model.config import read_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class PainterConfig:
    """One run of training on public scenes.

    Attributes:
        pack: Training pack made by `veilcam.model.painter_data`.
        generator: Always `painter`: tells this configuration from the other generators'.
        features: Feature net converted by `veilcam.model.feature_net`; empty for none, and then
            no game.
        seed: Seed of weights and batches (public data: nothing secret depends on it).
        batch: Pictures of a step.
        total_steps: Last step; the rate falls all the way.
        learning_rate: Adam step size. At 1e-3 many of the painter's maps go dark (docs/frame.md):
            they are positive, so that a step moves all of a channel one way.
        feature_weight: Of the features' distance beside the pixels'.
        reconstruction_steps: Steps before the adversarial game begins.
        discriminator_learning_rate: Adam step size of the game's other side.
        adversarial_weight: Of the discriminator's score.
        drift_weight: Of the squared scores in the discriminator's loss.
        quantize_aware: Whether maps are rounded as int8 inference rounds them.
        ema: Decay of the averaged weights that are exported.
        checkpoint_every, log_every: Steps.
    """

    pack: str
    generator: str = "painter"
    features: str = ""
    seed: int = 0
    batch: int = 8
    total_steps: int = 20_000
    learning_rate: float = 2e-4
    feature_weight: float = 0.3
    reconstruction_steps: int = 20_000
    discriminator_learning_rate: float = 3e-4
    adversarial_weight: float = 0.3
    drift_weight: float = 0.01
    quantize_aware: bool = True
    ema: float = 0.998
    checkpoint_every: int = 250
    log_every: int = 25

    def __post_init__(self) -> None:
        if self.generator != "painter":
            raise ConfigError(f"generator={self.generator!r} must be 'painter'")
        for name, value in asdict(self).items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if is_number and name != "seed" and value <= 0:
                raise ConfigError(f"{name}={value} must be > 0; set {name} in the training config")


def load_painter_config(path: Path) -> PainterConfig:
    """Reads a TOML file."""
    return PainterConfig(**read_keys(path, PainterConfig))
