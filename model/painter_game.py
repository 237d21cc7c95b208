"""The painter's adversarial game: is this part of a scene, with these colours, from a camera?

The head's discriminator judges parts of pictures; what it is told of each are the colours of the
code and which cells persons cover. Source: Sauer et al. 2021, Projected GANs converge faster.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from veilcam.camera.painting import COARSE_HW, FINE_HW, NUM_COARSE, NUM_FINE, PATCH_HW
from veilcam.model.discriminator import Discriminator
from veilcam.model.feature_net import FEATURE_NAMES, Weights, features
from veilcam.model.loss import augment

LOOK_PX = 128  # side of the part that the feature net sees, at full size
NUM_MAPS = 3  # the code's colours
_SPLIT = COARSE_HW[0] * COARSE_HW[1] * NUM_COARSE


def new_discriminator(weights: Weights, *, seed: int) -> Discriminator:
    """A fresh one for the feature net's maps."""
    channels = tuple(weights[name].shape[-1] for name in FEATURE_NAMES)
    return Discriminator(channels, NUM_MAPS, rngs=nnx.Rngs(seed))


def part(x: Float[Array, "b h w c"], corner: jax.Array) -> Float[Array, "b 128 128 c"]:
    """The part at `corner` (row, column) of each picture."""
    size = (x.shape[0], LOOK_PX, LOOK_PX, x.shape[3])
    return jax.lax.dynamic_slice(x, (0, *corner, 0), size)


def draw_corner(key: jax.Array) -> jax.Array:
    """Where a step looks: row and column, the same for all of its pictures."""
    return jax.random.randint(key, (2,), 0, jnp.array(PATCH_HW) - LOOK_PX + 1)


def given(values: Float[Array, "b v"], corner: jax.Array) -> Float[Array, "b 128 128 4"]:
    """Colours and covered cells of the part, as smooth maps."""
    fine = values[:, _SPLIT:].reshape(-1, *FINE_HW, NUM_FINE)
    return part(jax.image.resize(fine, (len(fine), *PATCH_HW, NUM_FINE), "linear"), corner)


def judge(
    discriminator: Discriminator,
    weights: Weights,
    bgr: Float[Array, "b 128 128 3"],
    told: Float[Array, "b 128 128 4"],
    *,
    key: jax.Array,
) -> Float[Array, "b k"]:
    """Scores of augmented parts, values of pictures in [0, 1]; positive for real."""
    is_free = 1 - told[..., 3:]
    maps = told[:, ::2, ::2, :3]
    seen, free, maps = augment(jnp.concatenate([bgr, is_free], -1), bgr, maps, key=key)
    return discriminator(features(weights, seen[..., ::-1] * 2 - 1), free, maps)


def discriminator_loss(
    discriminator: Discriminator,
    weights: Weights,
    real: Float[Array, "b 128 128 3"],
    fake: Float[Array, "b 128 128 3"],
    told: Float[Array, "b 128 128 4"],
    *,
    drift_weight: float,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Hinge loss; squared scores cost, or they grow without bound."""
    keys = jax.random.split(key)
    yes = judge(discriminator, weights, real, told, key=keys[0])
    no = judge(discriminator, weights, fake, told, key=keys[1])
    loss = jax.nn.relu(1 - yes).mean() + jax.nn.relu(1 + no).mean()
    loss = loss + drift_weight * (jnp.square(yes).mean() + jnp.square(no).mean())
    return loss, {"real_score": yes.mean(), "fake_score": no.mean()}
