"""Settings of a training run, from a TOML file; an unknown or mistyped key is an error."""

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from veilcam.camera.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One run of public pretraining.

    Attributes:
        pack: Training pack made by `veilcam.model.prepare`.
        seed: Seed of weights, batches and warps (public data: nothing secret depends on it).
        batch_portraits, batch_simulated: Pictures of each kind in a reconstruction batch.
        batch_adversarial: Random draws, and real portraits, of an adversarial step.
        reconstruction_steps: Steps before the adversarial game begins.
        total_steps: Last step.
        learning_rate, discriminator_learning_rate, latent_learning_rate: Adam step sizes.
        reconstruction_weight: Of the pyramid distance, once the game has begun.
        r1_weight, r1_every: Gradient penalty on real pictures.
        ema: Decay of the averaged weights that are exported.
        checkpoint_every, sheet_every: Steps.
    """

    pack: str
    seed: int = 0
    batch_portraits: int = 14
    batch_simulated: int = 10
    batch_adversarial: int = 16
    reconstruction_steps: int = 1500
    total_steps: int = 100_000
    learning_rate: float = 1e-3
    adversarial_learning_rate: float = 3e-4
    discriminator_learning_rate: float = 4e-4
    latent_learning_rate: float = 2e-2
    reconstruction_weight: float = 2.0
    r1_weight: float = 1.0
    r1_every: int = 16
    ema: float = 0.998
    checkpoint_every: int = 250
    sheet_every: int = 250

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, (int, float)) and name not in ("seed",) and value <= 0:
                raise ConfigError(f"{name}={value} must be > 0; set {name} in the training config")


def load_config(path: Path) -> TrainConfig:
    """Reads a TOML file."""
    try:
        with path.open("rb") as stream:
            table = tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
    allowed = {field.name: field.type for field in fields(TrainConfig)}
    for key, value in table.items():
        if key not in allowed:
            raise ConfigError(f"{path}: unknown key {key!r}; allowed: {', '.join(allowed)}")
        wanted = allowed[key]
        if not isinstance(value, (int, float) if wanted is float else wanted):
            raise ConfigError(f"{path}: {key}={value!r} must be of type {wanted.__name__}")
    if "pack" not in table:
        raise ConfigError(f"{path}: key 'pack' is missing; set it to the training pack's path")
    return TrainConfig(**table)
