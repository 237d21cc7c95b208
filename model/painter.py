"""The painter of `frame` mode: coarse colour maps + noise -> a 384x216 picture of a scene.

Layers as of the head generator (convolution, clip, nearest resize, depth-to-space): they quantize
to int8. 0.30 GMAC.
"""

import jax.numpy as jnp
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
from veilcam.model.generator import CEILING, bound, he_init, small_init

_TRUNK, _MIDDLE, _LATE, _LAST = 64, 48, 24, 16  # channels at 16x9, 48x27, 96x54, 192x108
_GIVEN_GAIN = 2.0  # with the whole range, maps began at their ceiling and did not learn
_OPAQUE = 2.0  # clipped to 1; int8's coarse step for a bias must not make it less


class Painter(nnx.Module):
    """Paints one scene; persons are not its task.

    Args:
        rngs: Keys of the initial weights.
    """

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        def conv(num_in: int, num_out: int) -> nnx.Conv:
            return nnx.Conv(num_in, num_out, (3, 3), kernel_init=he_init, rngs=rngs)

        self.trunk = nnx.List(
            [conv(NUM_COARSE + 1, _TRUNK), conv(_TRUNK, _TRUNK), conv(_TRUNK, _TRUNK)]
        )
        self.middle = nnx.List([conv(_TRUNK + NUM_FINE, _MIDDLE), conv(_MIDDLE, _MIDDLE)])
        self.late = nnx.List([conv(_MIDDLE, _LATE), conv(_LATE, _LATE)])
        self.last = conv(_LATE + 3, _LAST)
        self.to_patch = nnx.Conv(_LAST + 3, 12, (3, 3), kernel_init=small_init, rngs=rngs)
        # it starts as a copy of the colours that are given: what is learned is the difference
        copy = jnp.tile(jnp.eye(3) / _GIVEN_GAIN, (1, 4))
        self.to_patch.kernel[...] = self.to_patch.kernel[...].at[1, 1, _LAST:].add(copy)

    def paint(
        self, values: Float[Array, " f"], latent: Float[Array, " z"]
    ) -> Float[Array, "216 384 4"]:
        """BGR in [0, 1] and an alpha of 1, for the vector of `camera.painting`."""
        # all bundles paint BGRA: the last convolution gets channels that are opaque everywhere
        kernel = self.to_patch.kernel[...].reshape(3, 3, _LAST + 3, 4, 3)
        kernel = jnp.pad(kernel, ((0, 0),) * 4 + ((0, 1),)).reshape(3, 3, _LAST + 3, 16)
        bias = self.to_patch.bias[...].reshape(4, 3)
        bias = jnp.pad(bias, ((0, 0), (0, 1)), constant_values=_OPAQUE).reshape(16)
        x = self._hidden(values, latent, rounds=False)
        return jnp.clip(_to_pixels(convolve(x[None], kernel, 1)[0] + bias), 0.0, 1.0)

    def paint_linear(
        self, values: Float[Array, " f"], latent: Float[Array, " z"], *, rounds: bool = False
    ) -> Float[Array, "216 384 3"]:
        """What `paint` clips: outside of [0, 1] losses still have a slope.

        `rounds` rounds every map as int8 inference does, so that training gets used to it.
        """
        return _to_pixels(self.to_patch(self._hidden(values, latent, rounds=rounds)))

    def _hidden(
        self, values: Float[Array, " f"], latent: Float[Array, " z"], *, rounds: bool
    ) -> Float[Array, "h w c"]:
        assert values.shape == (NUM_VALUES,)
        split = COARSE_HW[0] * COARSE_HW[1] * NUM_COARSE
        coarse = values[:split].reshape(*COARSE_HW, NUM_COARSE)
        fine = values[split:].reshape(*FINE_HW, NUM_FINE)
        noise = 0.5 + latent.reshape(*COARSE_HW, 1) / 6
        x = jnp.concatenate([coarse, noise], axis=-1)
        x = bound(_GIVEN_GAIN * x, 0.0, CEILING, rounds)
        for conv in self.trunk:
            x = bound(conv(x), 0.0, CEILING, rounds)
        fine = bound(_GIVEN_GAIN * fine, 0.0, CEILING, rounds)
        x = jnp.concatenate([_larger(x, 3), fine], axis=-1)
        for conv in self.middle:
            x = bound(conv(x), 0.0, CEILING, rounds)
        x = _larger(x, 2)
        for conv in self.late:
            x = bound(conv(x), 0.0, CEILING, rounds)
        colours = _larger(fine[..., :3], 4)
        x = bound(
            self.last(jnp.concatenate([_larger(x, 2), colours], axis=-1)), 0.0, CEILING, rounds
        )
        return jnp.concatenate([x, colours], axis=-1)


def _to_pixels(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 d"]:
    """Depth to space."""
    height, width, channels = x.shape
    x = x.reshape(height, width, 2, 2, channels // 4).transpose(0, 2, 1, 3, 4)
    return x.reshape(2 * height, 2 * width, channels // 4)


def _larger(x: Float[Array, "h w c"], times: int) -> Float[Array, "h2 w2 c"]:
    return jnp.repeat(jnp.repeat(x, times, axis=0), times, axis=1)
