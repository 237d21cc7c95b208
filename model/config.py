"""Settings of a training run, from a TOML file; an unknown or mistyped key is an error."""

import tomllib
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from veilcam.camera.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One run of public pretraining.

    Attributes:
        pack: Training pack made by `veilcam.model.prepare`.
        features: Feature net converted by `veilcam.model.feature_net`.
        seed: Seed of weights, batches and warps (public data: nothing secret depends on it).
        compute_dtype: Of the nets' activations: float32, or bfloat16 where a GPU has it.
        batch_portraits, batch_simulated: Pictures of each kind in a reconstruction batch; the
            game sees as many random draws as portraits.
        reconstruction_steps: Steps before the adversarial game begins.
        total_steps: Last step; the rates fall over the second half of the game.
        learning_rate, adversarial_learning_rate, discriminator_learning_rate,
            latent_learning_rate: Adam step sizes.
        pixel_weight, feature_weight: Of the two reconstruction distances.
        adversarial_weight: Of the discriminator's score.
        drift_weight: Of the squared scores in the discriminator's loss: without it scores grew
            without bound and the generator followed them out of all pictures.
        quantize_aware: Whether maps are rounded as int8 inference rounds them.
        ema: Decay of the averaged weights that are exported.
        checkpoint_every, log_every: Steps.
    """

    pack: str
    features: str
    seed: int = 0
    compute_dtype: str = "float32"
    batch_portraits: int = 12
    batch_simulated: int = 4
    reconstruction_steps: int = 1500
    total_steps: int = 20_000
    learning_rate: float = 2e-3
    adversarial_learning_rate: float = 4e-4
    discriminator_learning_rate: float = 4e-4
    latent_learning_rate: float = 3e-2
    pixel_weight: float = 4.0
    feature_weight: float = 1.0
    adversarial_weight: float = 0.5
    drift_weight: float = 0.1
    quantize_aware: bool = True
    ema: float = 0.998
    checkpoint_every: int = 250
    log_every: int = 25

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if (
                isinstance(value, (int, float))
                and not isinstance(value, bool)
                and name != "seed"
                and value <= 0
            ):
                raise ConfigError(f"{name}={value} must be > 0; set {name} in the training config")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ConfigError(
                f"compute_dtype={self.compute_dtype!r} must be float32 or bfloat16; set it in the"
                " training config"
            )


def read_table(path: Path) -> dict[str, Any]:
    """The keys of a TOML file."""
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error


def load_config(path: Path) -> TrainConfig:
    """Reads a TOML file."""
    return TrainConfig(**read_keys(path, TrainConfig))


def read_keys(path: Path, kind: Any) -> dict[str, Any]:
    """The keys of a TOML file, checked against the fields of a dataclass."""
    return check_keys(path, read_table(path), kind)


def check_keys(path: Path, table: dict[str, Any], kind: Any) -> dict[str, Any]:
    """As `read_keys`, for a table that was read from `path`."""
    allowed = {field.name: field.type for field in fields(kind)}
    for key, value in table.items():
        if key not in allowed:
            raise ConfigError(f"{path}: unknown key {key!r}; allowed: {', '.join(allowed)}")
        wanted = allowed[key]
        if not isinstance(value, (int, float) if wanted is float else wanted):
            raise ConfigError(f"{path}: {key}={value!r} must be of type {wanted.__name__}")
    for field in fields(kind):
        if field.default is MISSING and field.name not in table:
            raise ConfigError(f"{path}: key {field.name!r} is missing; set it to the file's path")
    return table
