"""Losses of the public pretraining: reconstruction through the code, and the adversarial game."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from veilcam.model.feature_net import Weights, features

FEATURE_PX = 192  # a feature net wants larger pictures than ours
# map channels that show the parts people look at: lids, lips and irises
_DETAIL = slice(3, 7), slice(8, 13)


def through(x: Float[Array, "*d"]) -> Float[Array, "*d"]:
    """Clipped to [0, 1] with the slope of the identity, so that a saturated pixel can come back."""
    return x + jax.lax.stop_gradient(jnp.clip(x, 0, 1) - x)


def over(
    patch: Float[Array, "b h w 4"], background: Float[Array, "b 3"]
) -> Float[Array, "b h w 3"]:
    """The patch laid over one flat colour for each example."""
    return patch[..., :3] * patch[..., 3:] + background[:, None, None] * (1 - patch[..., 3:])


def look(
    weights: Weights, bgr: Float[Array, "b h w 3"], dtype: jnp.dtype
) -> list[Float[Array, "b _ _ _"]]:
    """Feature maps of pictures in [0, 1]."""
    size = (bgr.shape[0], FEATURE_PX, FEATURE_PX, 3)
    rgb = jax.image.resize(bgr[..., ::-1] * 2 - 1, size, "linear")
    return features(weights, rgb.astype(dtype))


def feature_distance(
    a: list[Float[Array, "b _ _ _"]], b: list[Float[Array, "b _ _ _"]]
) -> Float[Array, ""]:
    """Mean squared difference of unit feature vectors, summed over scales.

    Source: Zhang et al. 2018, The unreasonable effectiveness of deep features, section 3.
    """
    total = jnp.zeros(())
    for x, y in zip(a, b, strict=True):
        difference = _unit(x.astype(jnp.float32)) - _unit(y.astype(jnp.float32))
        total = total + jnp.square(difference).sum(-1).mean()
    return total


def _unit(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    return x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-4)


def pyramid_distance(
    a: Float[Array, "b h w c"], b: Float[Array, "b h w c"], detail: Float[Array, "b 64 64 g"]
) -> Float[Array, ""]:
    """Mean absolute difference over a Laplacian pyramid, weighted up at eyes and mouth.

    Source: Bojanowski et al. 2018, Optimizing the latent space of generative networks, section 3.
    """
    weight = 1 + 2.5 * jnp.clip(
        detail[..., _DETAIL[0]].sum(-1) + detail[..., _DETAIL[1]].sum(-1), 0, 1
    )
    weight = jnp.repeat(jnp.repeat(weight, 2, axis=1), 2, axis=2)[..., None]
    return weighted_pyramid(a - b, weight)


def weighted_pyramid(
    difference: Float[Array, "b h w c"], weight: Float[Array, "b h w 1"]
) -> Float[Array, ""]:
    """Mean absolute value over a Laplacian pyramid of five levels; sides are multiples of 16."""
    total = jnp.zeros(())
    for level in range(5):
        coarse = _halve(difference)
        band = difference - double(coarse) if level < 4 else difference
        total = total + (jnp.abs(band) * weight).mean() * 2.0**level / 4
        difference, weight = coarse, _halve(weight)
    return total


def _halve(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def double(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Each pixel four times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def augment(
    patch: Float[Array, "b 128 128 4"],
    bgr: Float[Array, "b 128 128 3"],
    maps: Float[Array, "b 64 64 g"],
    *,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "b 128 128 3"], Float[Array, "b 128 128 1"], Float[Array, "b 64 64 g"]]:
    """Random colour, shift and cut-out; the same for real and generated heads.

    Source: Zhao et al. 2020, Differentiable augmentation for data-efficient GAN training.

    Returns:
        The picture, its alpha and its landmark maps.
    """
    batch = bgr.shape[0]
    keys = jax.random.split(key, 4)
    brightness, saturation, contrast = jax.random.uniform(keys[0], (3, batch, 1, 1, 1))
    grey = bgr.mean(-1, keepdims=True)
    bgr = (bgr - grey) * 2 * saturation + grey + 0.4 * (brightness - 0.5)
    mean = bgr.mean((1, 2, 3), keepdims=True)
    bgr = (bgr - mean) * (0.5 + contrast) + mean
    cells = jax.random.randint(keys[1], (batch, 2), -4, 5)  # of two map pixels
    bgr = jax.vmap(_shift)(bgr, cells * 4)
    alpha = jax.vmap(_shift)(patch[..., 3:], cells * 4)
    maps = jax.vmap(_shift)(maps, cells * 2)
    corner = jax.random.uniform(keys[2], (batch, 2), minval=-0.3, maxval=1.0)
    axis = (jnp.arange(bgr.shape[1]) + 0.5) / bgr.shape[1]
    is_cut = (axis > corner[..., None]) & (axis < corner[..., None] + 0.3)
    is_cut = is_cut[:, 0, :, None] & is_cut[:, 1, None, :]
    return jnp.where(is_cut[..., None], 0.5, bgr), alpha, maps


def _shift(x: Float[Array, "h w c"], by: Int[Array, "2"]) -> Float[Array, "h w c"]:
    room = x.shape[0] // 8
    padded = jnp.pad(x, ((room, room), (room, room), (0, 0)), mode="edge")
    return jax.lax.dynamic_slice(padded, (room - by[0], room - by[1], 0), x.shape)
