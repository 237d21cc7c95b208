"""The head generator: dequantized code + secret noise -> a 128x128 head that does not exist.

Layers are conv 3x3, clipping, nearest resize, a style's shift on the small maps, and one final
depth-to-space: they quantize to int8 and run well on every execution provider (design, section 4).
The code is turned into landmarks of a linear head model inside the graph, and drawn as soft maps.
"""

from itertools import pairwise, zip_longest

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from veilcam.camera.code import HEAD_FIELDS
from veilcam.model.head_points import draw, project

NOISE_SIZE = 64  # appearance numbers of the latent; the shape numbers of the head model follow
PATCH_PX = 128
STYLE_SIZE = 128
SEED_PX = 4
_CHANNELS = (192, 147, 115, 83, 64)  # at 4..64 pixels; with 13 maps multiples of 32 go into each
CEILING = 6.0  # of every map
_MAP_GAIN = 4.0  # landmark maps end at 1.5: they use the whole range of the maps they join
# Of a map before the style is added. What ends below zero or above the ceiling need not be told
# apart: only the first block's style moves maps far.
_SPANS = ((-8.0, 8.0), (-1.0, CEILING), (-1.0, CEILING))


class HeadGenerator(nnx.Module):
    """Paints one head.

    Args:
        head_model: Arrays `mean (p, 3)`, `expression (e, p, 3)`, `shape (s, p, 3)`, `value_scale
            (e,)`, `groups (g, p)`, `iris (2, p)`: see `model.head_basis`.
        rngs: Keys of the initial weights.
    """

    def __init__(self, head_model: dict[str, np.ndarray], *, rngs: nnx.Rngs) -> None:
        self.basis = nnx.data(
            {name: nnx.Cache(jnp.asarray(value, jnp.float32)) for name, value in head_model.items()}
        )
        num_maps = head_model["groups"].shape[0]
        self.embed = nnx.Linear(NOISE_SIZE + len(HEAD_FIELDS), STYLE_SIZE, rngs=rngs)
        self.embed2 = nnx.Linear(STYLE_SIZE, STYLE_SIZE, rngs=rngs)
        self.seed = nnx.Linear(STYLE_SIZE, SEED_PX * SEED_PX * _CHANNELS[0], rngs=rngs)
        self.blocks = nnx.List(
            [
                Block(num_in, num_out, num_maps, span=span, rngs=rngs)
                for (num_in, num_out), span in zip_longest(pairwise(_CHANNELS), _SPANS)
            ]
        )
        self.to_patch = nnx.Conv(_CHANNELS[-1], 16, (3, 3), kernel_init=small_init, rngs=rngs)
        self.to_patch.bias[...] = jnp.full(16, 0.5)

    def paint(
        self, values: Float[Array, " f"], latent: Float[Array, " z"]
    ) -> Float[Array, "128 128 4"]:
        """BGR and alpha in [0, 1] for code values in their units (degrees, ...)."""
        return jnp.clip(self.paint_linear(values, latent), 0.0, 1.0)

    def paint_linear(
        self, values: Float[Array, " f"], latent: Float[Array, " z"], *, rounds: bool = False
    ) -> Float[Array, "128 128 4"]:
        """What `paint` clips: outside of [0, 1] losses still have a slope.

        `rounds` rounds every map as int8 inference does, so that training gets used to it.
        """
        out = self.to_patch(self.hidden(values, latent, rounds=rounds)[-1]).astype(jnp.float32)
        half = PATCH_PX // 2
        return out.reshape(half, half, 2, 2, 4).transpose(0, 2, 1, 3, 4).reshape(128, 128, 4)

    def hidden(
        self, values: Float[Array, " f"], latent: Float[Array, " z"], *, rounds: bool = False
    ) -> list[Float[Array, "h w c"]]:
        """Every bounded map: the seed, then two for each block."""
        points = self.landmarks(values, latent[NOISE_SIZE:])
        normal = (values - self.basis["value_mean"][...]) * self.basis["value_scale"][...]
        given = jnp.concatenate([latent[:NOISE_SIZE], normal])
        # training may hold the weights in bfloat16; landmarks stay exact
        style = jax.nn.relu(self.embed(given.astype(self.embed.kernel[...].dtype)))
        style = jax.nn.relu(self.embed2(style))
        seed = bound(self.seed(style), 0.0, CEILING, rounds)
        maps = [seed.reshape(SEED_PX, SEED_PX, _CHANNELS[0])]
        for block in self.blocks:
            x = maps[-1]
            drawn = _MAP_GAIN * self.maps(points, 2 * x.shape[0]).astype(x.dtype)
            maps += block(x, bound(drawn, 0.0, CEILING, rounds), style, rounds=rounds)
        return maps

    def landmarks(
        self, values: Float[Array, " f"], shape: Float[Array, " s"]
    ) -> Float[Array, "p 2"]:
        """Points of the posed head model in patch units, 0..1 from the upper left corner."""
        return project({name: value[...] for name, value in self.basis.items()}, values, shape)

    def maps(self, points: Float[Array, "p 2"], size: int) -> Float[Array, "n n g"]:
        """Groups of landmarks (lids, lips, brows, ...) as sums of Gaussians, one channel each."""
        return draw(self.basis["groups"][...], points, size)


class Block(nnx.Module):
    """Doubles the size and takes the landmark maps in; with a `span` the style shifts them.

    Only convolutions and clipping at full size: those fuse into one int8 operator each.
    """

    def __init__(
        self, num_in: int, num_out: int, num_maps: int, *, span: tuple[float, float] | None,
        rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.conv1 = nnx.Conv(num_in + num_maps, num_out, (3, 3), kernel_init=he_init, rngs=rngs)
        self.conv2 = nnx.Conv(num_out, num_out, (3, 3), kernel_init=he_init, rngs=rngs)
        self.span = span
        self.shift = nnx.Linear(STYLE_SIZE, num_out, rngs=rngs) if span else None

    def __call__(
        self,
        x: Float[Array, "h w c"],
        maps: Float[Array, "h2 w2 g"],
        style: Float[Array, " s"],
        *,
        rounds: bool,
    ) -> tuple[Float[Array, "h2 w2 d"], Float[Array, "h2 w2 d"]]:
        """Features at twice the size, behind each of the two convolutions."""
        x = jnp.repeat(jnp.repeat(x, 2, axis=0), 2, axis=1)
        x = self.conv1(jnp.concatenate([x, maps], axis=-1))
        if self.shift is not None and self.span is not None:
            x = bound(x, *self.span, rounds) + self.shift(style)
        x = bound(x, 0.0, CEILING, rounds)
        return x, bound(self.conv2(x), 0.0, CEILING, rounds)


def bound(x: Float[Array, "*d"], low: float, high: float, rounds: bool) -> Float[Array, "*d"]:
    """Clipped, and on request rounded to the 256 steps of an 8-bit tensor (slope one).

    Without a ceiling activations grew to 300 and cancelled in the last layer: int8 was useless.
    Source: Jacob et al. 2018, Quantization and training of neural networks, section 3.
    """
    x = jnp.clip(x, low, high)
    if not rounds:
        return x
    step = (high - low) / 255
    return x + jax.lax.stop_gradient(jnp.round((x - low) / step) * step + low - x)


he_init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
small_init = nnx.initializers.variance_scaling(0.1, "fan_in", "normal")
