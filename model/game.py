"""The two sides of the adversarial game, and reconstruction through the code, as losses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from veilcam.model.discriminator import Discriminator
from veilcam.model.generator import NOISE_SIZE, HeadGenerator
from veilcam.model.loss import augment, over_grey, pyramid_distance


class Latents(nnx.Module):
    """One appearance latent for each public portrait or simulated person."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = nnx.Param(jnp.asarray(table, jnp.float32))


def generator_loss(
    models: tuple[HeadGenerator, Latents],
    discriminator: Discriminator,
    batch: dict[str, Any],
    fake: dict[str, Any] | None,
    adversarial_weight: jax.Array,
    reconstruction_weight: float,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Reconstruction of the batch plus fooling the discriminator on random draws."""
    generator, latents = models
    noise = latents.table[...][batch["person"]]
    latent = jnp.concatenate([noise, batch["shape"]], axis=1)
    values = batch["values"]
    if fake is not None:
        values = jnp.concatenate([values, fake["values"]])
        latent = jnp.concatenate([latent, fake["latent"]])
    painted = over_grey(jax.vmap(generator.paint)(values, latent))
    maps = draw_maps(generator, values, latent)
    count = batch["image"].shape[0]
    target = jnp.concatenate([batch["image"][..., :3], batch["image"][..., 3:] * 2 - 1], axis=-1)
    reconstruction = pyramid_distance(painted[:count], target, maps[:count])
    prior = 1e-3 * jnp.square(noise).mean()
    loss = reconstruction_weight * reconstruction + prior
    logs = {"reconstruction": reconstruction, "latent_rms": jnp.sqrt(jnp.square(noise).mean())}
    if fake is not None:
        score = discriminator(augment(painted[count:], key=key), maps[count:])
        game = jax.nn.softplus(-score).mean()
        loss = loss + adversarial_weight * game
        logs["game"] = game
    return loss, logs


def draw_maps(generator: HeadGenerator, values: jax.Array, latent: jax.Array) -> jax.Array:
    """Landmark maps 64x64 of a batch of codes."""

    def one(v: jax.Array, z: jax.Array) -> jax.Array:
        return generator.maps(generator.landmarks(v, z[NOISE_SIZE:]), 64)

    return jax.lax.stop_gradient(jax.vmap(one)(values, latent))


def discriminator_loss(
    discriminator: Discriminator,
    generator: HeadGenerator,
    real: dict[str, Any],
    fake: dict[str, Any],
    r1_weight: Any,  # a number, or its tracer under jit
    key: jax.Array,
    with_r1: bool,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Non-saturating loss; R1 on the real pictures in the steps that ask for it."""
    painted = jax.lax.stop_gradient(
        over_grey(jax.vmap(generator.paint)(fake["values"], fake["latent"]))
    )
    padding = jnp.zeros((real["values"].shape[0], NOISE_SIZE))
    real_maps = draw_maps(
        generator, real["values"], jnp.concatenate([padding, real["shape"]], axis=1)
    )
    fake_maps = draw_maps(generator, fake["values"], fake["latent"])
    target = jnp.concatenate([real["image"][..., :3], real["image"][..., 3:] * 2 - 1], axis=-1)
    keys = jax.random.split(key)
    real_image = augment(target, key=keys[0])
    fake_image = augment(painted, key=keys[1])
    real_score = discriminator(real_image, real_maps)
    fake_score = discriminator(fake_image, fake_maps)
    loss = jax.nn.softplus(-real_score).mean() + jax.nn.softplus(fake_score).mean()
    logs = {"real_score": real_score.mean(), "fake_score": fake_score.mean()}
    if with_r1:
        gradient = jax.grad(lambda x: discriminator(x, real_maps).sum())(real_image)
        loss = loss + r1_weight * jnp.square(gradient).sum((1, 2, 3)).mean() / 2
    return loss, logs
