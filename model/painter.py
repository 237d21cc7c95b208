"""The painter of `frame` mode: coarse colour maps + noise -> a 384x216 picture of a scene.

Layers as of the head generator (convolution, clip, nearest resize, depth-to-space): they quantize
to int8. 0.42 GMAC.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from veilcam.camera.painting import (
    COARSE_HW,
    FINE_HW,
    NUM_COARSE,
    NUM_FINE,
    NUM_VALUES,
)
from veilcam.model.feature_net import convolve
from veilcam.model.generator import CEILING, bound, he_init

Clip = Callable[[Float[Array, "*d"]], Float[Array, "*d"]]

# Channels of the layers at 16x9, 48x27, 96x54 and 192x108. What is read together with other maps
# comes to a multiple of 16: ONNX Runtime has a slow way for fp32 convolutions of 66 or 102 maps.
_TRUNK, _MIDDLE, _LATE, _LAST = (96, 96, 96, 90), (64, 62), (32, 32), 16
_GIVEN_GAIN = 2.0  # with the whole range, maps began at their ceiling and did not learn
_OPAQUE = 2.0  # clipped to 1; int8's coarse step for a bias must not make it less
_LEAK = 0.2  # slope, in training only, where a map is clipped
_COLOURS = slice(0, 3)  # channels that carry the given colours through the finer layers
_NUM_GRAIN = 2
_CENTRED_GAIN = 1.5
# What no code tells (leaves, gravel) needs something to be made of that is finer than the latent.
_GRAIN = tuple(
    np.random.default_rng(seed).random((*hw, _NUM_GRAIN)).astype(np.float32)
    for seed, hw in enumerate((FINE_HW, (2 * FINE_HW[0], 2 * FINE_HW[1])))
)


class Painter(nnx.Module):
    """Paints one scene; persons are not its task.

    The last layer starts as a copy of the colours that are given, so that what is learned is the
    difference. With a random difference the layer before it died: that is only harm at first, and
    the shortest way out of it was to push all its maps below zero, where they had no slope. So
    the difference starts from nothing, and clipped values keep a small slope in training.

    Args:
        rngs: Keys of the initial weights.
    """

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        def conv(num_in: int, num_out: int) -> nnx.Conv:
            return nnx.Conv(num_in, num_out, (3, 3), kernel_init=_centred_init, rngs=rngs)

        def convs(num_in: int, sizes: tuple[int, ...]) -> list[nnx.Conv]:
            return [conv(a, b) for a, b in pairwise((num_in, *sizes))]

        self.trunk = nnx.List(convs(NUM_COARSE + 1, _TRUNK))
        self.middle = nnx.List(convs(_TRUNK[-1] + NUM_FINE + _NUM_GRAIN, _MIDDLE))
        self.late = nnx.List(convs(_MIDDLE[-1] + _NUM_GRAIN, _LATE))
        self.last = conv(_LATE[-1], _LAST)
        for layer in (*self.middle, *self.late, self.last):
            kernel = layer.kernel[...].at[..., _COLOURS].set(0.0)
            layer.kernel[...] = kernel.at[1, 1, _COLOURS, _COLOURS].set(jnp.eye(3))
        self.to_patch = nnx.Conv(_LAST, 12, (3, 3), kernel_init=nnx.initializers.zeros, rngs=rngs)
        copy = jnp.tile(jnp.eye(3) / _GIVEN_GAIN, (1, 4))
        self.to_patch.kernel[...] = self.to_patch.kernel[...].at[1, 1, _COLOURS].set(copy)

    def paint(
        self, values: Float[Array, " f"], latent: Float[Array, " z"]
    ) -> Float[Array, "216 384 4"]:
        """BGR in [0, 1] and an alpha of 1, for the vector of `camera.painting`."""
        # all bundles paint BGRA: the last convolution gets channels that are opaque everywhere
        kernel = self.to_patch.kernel[...].reshape(3, 3, _LAST, 4, 3)
        kernel = jnp.pad(kernel, ((0, 0),) * 4 + ((0, 1),)).reshape(3, 3, _LAST, 16)
        bias = self.to_patch.bias[...].reshape(4, 3)
        bias = jnp.pad(bias, ((0, 0), (0, 1)), constant_values=_OPAQUE).reshape(16)
        x = self._hidden(values, latent, partial(bound, low=0.0, high=CEILING, rounds=False))
        return jnp.clip(_to_pixels(convolve(x[None], kernel, 1)[0] + bias), 0.0, 1.0)

    def paint_linear(
        self, values: Float[Array, " f"], latent: Float[Array, " z"], *, rounds: bool = False
    ) -> Float[Array, "216 384 3"]:
        """What `paint` clips: outside of [0, 1] losses still have a slope.

        `rounds` rounds every map as int8 inference does, so that training gets used to it.
        """
        return _to_pixels(
            self.to_patch(self._hidden(values, latent, partial(_clip, rounds=rounds)))
        )

    def _hidden(
        self, values: Float[Array, " f"], latent: Float[Array, " z"], clip: Clip
    ) -> Float[Array, "h w c"]:
        assert values.shape == (NUM_VALUES,)
        split = COARSE_HW[0] * COARSE_HW[1] * NUM_COARSE
        coarse = values[:split].reshape(*COARSE_HW, NUM_COARSE)
        fine = clip(_GIVEN_GAIN * values[split:].reshape(*FINE_HW, NUM_FINE))
        noise = 0.5 + latent.reshape(*COARSE_HW, 1) / 6
        x = clip(_GIVEN_GAIN * jnp.concatenate([coarse, noise], axis=-1))
        for conv in self.trunk:
            x = clip(conv(x))
        x = jnp.concatenate([fine, _larger(x, 3), _GRAIN[0]], axis=-1)
        for conv in self.middle:
            x = clip(conv(x))
        x = jnp.concatenate([_larger(x, 2), _GRAIN[1]], axis=-1)
        for conv in self.late:
            x = clip(conv(x))
        return clip(self.last(_larger(x, 2)))


def _clip(x: Float[Array, "*d"], rounds: bool) -> Float[Array, "*d"]:
    """Values of `bound`, with a small slope where it clips."""
    beyond = _LEAK * (x - jnp.clip(x, 0.0, CEILING))
    return bound(x, 0.0, CEILING, rounds) + (beyond - jax.lax.stop_gradient(beyond))


def _centred_init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """He's, less each output's mean: maps are positive, and their sum would switch it for good."""
    kernel = he_init(key, shape, dtype)
    return _CENTRED_GAIN * (kernel - kernel.mean((0, 1, 2), keepdims=True))


def _to_pixels(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 d"]:
    """Depth to space."""
    height, width, channels = x.shape
    x = x.reshape(height, width, 2, 2, channels // 4).transpose(0, 2, 1, 3, 4)
    return x.reshape(2 * height, 2 * width, channels // 4)


def _larger(x: Float[Array, "h w c"], times: int) -> Float[Array, "h2 w2 c"]:
    return jnp.repeat(jnp.repeat(x, times, axis=0), times, axis=1)
