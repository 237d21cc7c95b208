"""The two sides of the adversarial game, and reconstruction through the code, as losses."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from veilcam.model.discriminator import Discriminator
from veilcam.model.feature_net import Weights
from veilcam.model.generator import NOISE_SIZE, HeadGenerator
from veilcam.model.loss import augment, feature_distance, look, over, pyramid_distance, through

Batch = dict[str, jax.Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How the losses are weighted, and in which dtype the nets run."""

    pixel_weight: float
    feature_weight: float
    adversarial_weight: float
    drift_weight: float
    rounds: bool
    latent_weight: float
    dtype: Any


def generator_loss(
    generator: HeadGenerator,
    table: Float[Array, "n z"],
    discriminator: Discriminator | None,
    feature_weights: Weights,
    batch: Batch,
    fake: Batch | None,
    mix: Mix,
    *,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], tuple[dict[str, jax.Array], Float[Array, "k 128 128 4"]]]:
    """Reconstruction of the batch plus fooling the discriminator; also what it painted as fake."""
    keys = jax.random.split(key, 2)
    noise = table[batch["person"]]
    values, latent = batch["values"], jnp.concatenate([noise, batch["shape"]], axis=1)
    count = len(values)
    if fake is not None:
        values = jnp.concatenate([values, fake["values"]])
        latent = jnp.concatenate([latent, fake["latent"]])
    raw = jax.vmap(partial(generator.paint_linear, rounds=mix.rounds))(values, latent)
    painted = through(raw)
    maps = draw_maps(generator, values, latent)
    background = jax.random.uniform(keys[0], (len(painted), 3))
    target = batch["image"]
    seen, wanted = over(painted, background), over(target, background[:count])
    pixels = pyramid_distance(
        2 * jnp.concatenate([seen[:count], painted[:count, ..., 3:]], -1),
        2 * jnp.concatenate([wanted, target[..., 3:]], -1),
        maps[:count],
    )
    taps = look(feature_weights, seen[:count], mix.dtype)
    likeness = feature_distance(taps, look(feature_weights, wanted, mix.dtype))
    overshoot = jnp.square(raw - jnp.clip(raw, 0, 1)).mean()
    loss = mix.pixel_weight * pixels + mix.feature_weight * likeness + overshoot
    loss = loss + mix.latent_weight * jnp.square(noise).mean()
    logs = {
        "pixels": pixels,
        "likeness": likeness,
        "latent_rms": jnp.sqrt(jnp.square(noise).mean()),
    }
    if discriminator is not None:
        score = judge(
            discriminator,
            feature_weights,
            painted[count:],
            seen[count:],
            maps[count:],
            mix,
            key=keys[1],
        )
        loss = loss - mix.adversarial_weight * score.mean()
        logs["game"] = -score.mean()
    return loss, (logs, jax.lax.stop_gradient(painted[count:]))


def discriminator_loss(
    discriminator: Discriminator,
    generator: HeadGenerator,
    feature_weights: Weights,
    real: Batch,
    fake: Batch,
    mix: Mix,
    *,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
    """Hinge loss; `fake["image"]` is what the generator painted in this step."""
    keys = jax.random.split(key, 4)
    padding = jnp.zeros((len(real["values"]), NOISE_SIZE))
    real = real | {"latent": jnp.concatenate([padding, real["shape"]], axis=1)}
    scores = []
    for batch, first, second in ((real, keys[0], keys[1]), (fake, keys[2], keys[3])):
        seen = over(batch["image"], jax.random.uniform(first, (len(batch["image"]), 3)))
        maps = draw_maps(generator, batch["values"], batch["latent"])
        scores.append(
            judge(discriminator, feature_weights, batch["image"], seen, maps, mix, key=second)
        )
    loss = jax.nn.relu(1 - scores[0]).mean() + jax.nn.relu(1 + scores[1]).mean()
    loss = loss + mix.drift_weight * sum(jnp.square(score).mean() for score in scores)
    return loss, {"real_score": scores[0].mean(), "fake_score": scores[1].mean()}


def judge(
    discriminator: Discriminator,
    feature_weights: Weights,
    patch: Float[Array, "b 128 128 4"],
    seen: Float[Array, "b 128 128 3"],
    maps: Float[Array, "b 64 64 g"],
    mix: Mix,
    *,
    key: PRNGKeyArray,
) -> Float[Array, "b k"]:
    """Scores of augmented pictures."""
    seen, alpha, maps = augment(patch, seen, maps, key=key)
    return discriminator(look(feature_weights, seen, mix.dtype), alpha, maps)


def draw_maps(
    generator: HeadGenerator, values: Float[Array, "b f"], latent: Float[Array, "b z"]
) -> Float[Array, "b 64 64 g"]:
    """Landmark maps 64x64 of a batch of codes."""

    def one(v: jax.Array, z: jax.Array) -> jax.Array:
        return generator.maps(generator.landmarks(v, z[NOISE_SIZE:]), 64)

    return jax.lax.stop_gradient(jax.vmap(one)(values, latent))
