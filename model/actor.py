"""The actor generator: pose and looks + secret noise -> a whole person who does not exist, 96x192.

The same layers as the head generator (`model.generator`): convolutions, clipping, nearest resize,
a style's shift on the small maps, one final depth-to-space.
"""

from itertools import pairwise, zip_longest

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from veilcam.camera.actor_code import COLOURS, NUM_VALUES, PATCH_HW, POINTS, SEEN
from veilcam.camera.body_points import NUM_POINTS
from veilcam.model.actor_points import NUM_DRAWN, draw_pose
from veilcam.model.generator import CEILING, Block, bound, small_init

NOISE_SIZE = 32
NUM_LIGHT = 9  # see `model.actor_data.light_numbers`
STYLE_SIZE = 128
_SEED_HW = (6, 3)
_CHANNELS = (64, 96, 64, 40, 20)  # the seed at 6x3, then 12x6 .. 96x48
_SPANS = ((-8.0, 8.0), (-4.0, 8.0), (-4.0, 8.0))  # of a map before the style is added
_MAP_GAIN = 4.0


class ActorGenerator(nnx.Module):
    """Paints one person.

    Args:
        light: Light and camera pitch that `paint` paints with, (9,): a camera's code has none.
        rngs: Keys of the initial weights.
    """

    def __init__(self, light: np.ndarray, *, rngs: nnx.Rngs) -> None:
        self.light = nnx.Cache(jnp.asarray(light, jnp.float32))
        self.embed = nnx.Linear(NOISE_SIZE + NUM_VALUES + NUM_LIGHT, STYLE_SIZE, rngs=rngs)
        self.embed2 = nnx.Linear(STYLE_SIZE, STYLE_SIZE, rngs=rngs)
        height, width = _SEED_HW
        self.seed = nnx.Linear(STYLE_SIZE, height * width * _CHANNELS[0], rngs=rngs)
        self.blocks = nnx.List(
            [
                Block(num_in, num_out, NUM_DRAWN, span=span, rngs=rngs)
                for (num_in, num_out), span in zip_longest(pairwise(_CHANNELS), _SPANS)
            ]
        )
        # the sketch goes to the last layer too: colours need no way through all others
        self.to_patch = nnx.Conv(
            _CHANNELS[-1] + NUM_DRAWN, 16, (3, 3), kernel_init=small_init, rngs=rngs
        )
        self.to_patch.bias[...] = jnp.full(16, 0.5)

    def paint(
        self, values: Float[Array, " f"], latent: Float[Array, " z"]
    ) -> Float[Array, "192 96 4"]:
        """BGR and alpha in [0, 1] for the vector of `camera.actor_code`."""
        return jnp.clip(self.paint_linear(values, latent, self.light[...]), 0.0, 1.0)

    def paint_linear(
        self,
        values: Float[Array, " f"],
        latent: Float[Array, " z"],
        light: Float[Array, " l"],
        *,
        rounds: bool = False,
    ) -> Float[Array, "192 96 4"]:
        """What `paint` clips: outside of [0, 1] losses still have a slope.

        `rounds` rounds every map as int8 inference does, so that training gets used to it.
        """
        out = self.to_patch(self._hidden(values, latent, light, rounds=rounds))
        height, width = PATCH_HW[0] // 2, PATCH_HW[1] // 2
        out = out.reshape(height, width, 2, 2, 4).transpose(0, 2, 1, 3, 4)
        return out.reshape(*PATCH_HW, 4)

    def _hidden(
        self,
        values: Float[Array, " f"],
        latent: Float[Array, " z"],
        light: Float[Array, " l"],
        *,
        rounds: bool,
    ) -> Float[Array, "h w c"]:
        points, seen = values[POINTS].reshape(NUM_POINTS, 2), values[SEEN]
        colours = values[COLOURS].reshape(4, 3)
        middle = jnp.zeros(NUM_VALUES, jnp.float32).at[: SEEN.stop].set(0.5)
        given = jnp.concatenate([latent, values - middle, light])
        style = jax.nn.relu(self.embed2(jax.nn.relu(self.embed(given))))
        x = bound(self.seed(style), 0.0, CEILING, rounds).reshape(*_SEED_HW, _CHANNELS[0])
        for block in self.blocks:
            size_hw = 2 * x.shape[0], 2 * x.shape[1]
            drawn = _MAP_GAIN * draw_pose(points, seen, colours, size_hw=size_hw)
            drawn = bound(drawn, 0.0, CEILING, rounds)
            _, x = block(x, drawn, style, rounds=rounds)
        return jnp.concatenate([x, drawn], axis=-1)
