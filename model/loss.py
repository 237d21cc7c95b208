"""Losses of the public pretraining: reconstruction through the code, and the adversarial game."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

# map channels that show the parts people look at: lids, lips and irises
_DETAIL = slice(3, 7), slice(8, 13)


def over_grey(patch: Float[Array, "... 4"]) -> Float[Array, "... 4"]:
    """Straight colour and alpha -> colour over grey (0) and alpha, the form losses compare."""
    return jnp.concatenate([patch[..., :3] * patch[..., 3:], patch[..., 3:] * 2 - 1], axis=-1)


def pyramid_distance(
    a: Float[Array, "b h w c"], b: Float[Array, "b h w c"], detail: Float[Array, "b 64 64 g"]
) -> Float[Array, ""]:
    """Mean absolute difference over a Laplacian pyramid, weighted up at eyes and mouth.

    Source: Bojanowski et al. 2018, Optimizing the latent space of generative networks, section 3.
    """
    weight = 1 + 2.5 * jnp.clip(
        detail[..., _DETAIL[0]].sum(-1) + detail[..., _DETAIL[1]].sum(-1), 0, 1
    )
    difference = a - b
    total = jnp.zeros(())
    weight = jnp.repeat(jnp.repeat(weight, 2, axis=1), 2, axis=2)[..., None]
    for level in range(5):
        coarse = _halve(difference)
        band = difference - _double(coarse) if level < 4 else difference
        total = total + (jnp.abs(band) * weight).mean() * 2.0**level / 4
        difference, weight = coarse, _halve(weight)
    return total


def _halve(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def _double(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def augment(image: Float[Array, "b h w c"], *, key: PRNGKeyArray) -> Float[Array, "b h w c"]:
    """Random brightness and saturation; the same for real and generated.

    Source: Zhao et al. 2020, Differentiable augmentation for data-efficient GAN training.
    """
    batch = image.shape[0]
    keys = jax.random.split(key, 3)
    color, alpha = image[..., :3], image[..., 3:]
    opaque = (alpha + 1) / 2
    shift = jax.random.uniform(keys[0], (batch, 1, 1, 1), minval=-0.3, maxval=0.3)
    factor = jax.random.uniform(keys[1], (batch, 1, 1, 1), minval=0.5, maxval=1.5)
    grey = color.mean(-1, keepdims=True)
    color = (color - grey) * factor + grey + shift * opaque
    return jnp.concatenate([color, alpha], axis=-1)
