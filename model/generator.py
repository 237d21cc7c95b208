"""The head generator: dequantized code + secret noise -> a 128x128 head that does not exist.

Layers are conv 3x3, leaky relu, nearest resize, per-channel scale and shift, and one final
depth-to-space: they quantize to int8 and run well on every execution provider (design, section 4).
The code is turned into landmarks of a linear head model inside the graph, and drawn as soft maps.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from veilcam.camera.code import HEAD_FIELDS

NOISE_SIZE = 64  # appearance numbers of the latent; the shape numbers of the head model follow
PATCH_PX = 128


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
        self.num_shape = head_model["shape"].shape[0]
        style = 128
        self.embed = nnx.Linear(NOISE_SIZE + len(HEAD_FIELDS), style, rngs=rngs)
        self.embed2 = nnx.Linear(style, style, rngs=rngs)
        self.seed = nnx.Linear(style, 96 * 8 * 8, rngs=rngs)
        self.blocks = nnx.List(
            [
                Block(96, 96, num_maps, style, rngs=rngs),
                Block(96, 72, num_maps, style, rngs=rngs),
                Block(72, 44, num_maps, style, rngs=rngs),
            ]
        )
        self.to_patch = nnx.Conv(44, 16, (3, 3), kernel_init=small_init, rngs=rngs)

    def paint(
        self, values: Float[Array, " f"], latent: Float[Array, " z"]
    ) -> Float[Array, "128 128 4"]:
        """BGR in [-1, 1] and alpha in [0, 1] for code values in their units (degrees, ...)."""
        points = self.landmarks(values, latent[NOISE_SIZE:])
        normal = (values - self.basis["value_mean"][...]) * self.basis["value_scale"][...]
        style = lrelu(self.embed(jnp.concatenate([latent[:NOISE_SIZE], normal])))
        style = lrelu(self.embed2(style))
        x = lrelu(self.seed(style)).reshape(8, 8, 96)
        for block, size in zip(self.blocks, (16, 32, 64), strict=True):
            x = block(x, self.maps(points, size), style)
        out = self.to_patch(x)
        out = out.reshape(64, 64, 2, 2, 4).transpose(0, 2, 1, 3, 4).reshape(PATCH_PX, PATCH_PX, 4)
        return jnp.concatenate([jnp.tanh(out[..., :3]), nnx.sigmoid(out[..., 3:])], axis=-1)

    def landmarks(
        self, values: Float[Array, " f"], shape: Float[Array, " s"]
    ) -> Float[Array, "p 2"]:
        """Points of the posed head model in patch units, 0..1 from the upper left corner."""
        basis = self.basis
        num_expression = basis["expression"][...].shape[0]
        delta = values[2 : 2 + num_expression] - basis["value_mean"][...][2 : 2 + num_expression]
        flat = basis["mean"][...].reshape(1, -1)
        flat = flat + delta[None] @ basis["expression"][...].reshape(num_expression, -1)
        flat = flat + shape[None] @ basis["shape"][...].reshape(self.num_shape, -1)
        yaw, pitch = jnp.deg2rad(values[0]), jnp.deg2rad(values[1])
        x, y, z = jnp.split(flat.reshape(-1, 3), 3, axis=1)
        # picture axes: x right, y down, z away from the camera; pitch first, then yaw
        y, z = y * jnp.cos(pitch) + z * jnp.sin(pitch), z * jnp.cos(pitch) - y * jnp.sin(pitch)
        x = x * jnp.cos(yaw) - z * jnp.sin(yaw)
        points = jnp.concatenate([x, y], axis=1)
        return points * basis["patch_scale"][...] + basis["patch_center"][...]

    def maps(self, points: Float[Array, "p 2"], size: int) -> Float[Array, "n n g"]:
        """Groups of landmarks (lids, lips, brows, ...) as sums of Gaussians, one channel each."""
        grid = (jnp.arange(size, dtype=jnp.float32)[:, None] + 0.5) / size
        width = 1.0 / size
        distance = jnp.square((grid[None] - points.T[:, None, :]) / width)
        # tails that underflow to denormals make CPUs several times slower: stop at exp(-16)
        fall = jnp.exp(-jnp.minimum(0.5 * distance, 16.0))
        groups = self.basis["groups"][...]
        rows = fall[1][None] * groups[:, None, :]  # g n p
        return jnp.clip(jnp.transpose(rows @ fall[0].T, (1, 2, 0)), 0.0, 1.5)


class Block(nnx.Module):
    """Doubles the size, takes the landmark maps in, is scaled and shifted by the style."""

    def __init__(
        self, num_in: int, num_out: int, num_maps: int, num_style: int, *, rngs: nnx.Rngs
    ) -> None:
        self.conv1 = nnx.Conv(num_in + num_maps, num_out, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(num_out, num_out, (3, 3), rngs=rngs)
        self.scale = nnx.Linear(num_style, num_out, kernel_init=small_init, rngs=rngs)
        self.shift = nnx.Linear(num_style, num_out, kernel_init=small_init, rngs=rngs)

    def __call__(
        self, x: Float[Array, "h w c"], maps: Float[Array, "h2 w2 g"], style: Float[Array, " s"]
    ) -> Float[Array, "h2 w2 d"]:
        """Features at twice the size."""
        x = jnp.repeat(jnp.repeat(x, 2, axis=0), 2, axis=1)
        x = self.conv1(jnp.concatenate([x, maps], axis=-1))
        x = lrelu(x * (1 + self.scale(style)) + self.shift(style))
        return lrelu(self.conv2(x))


def lrelu(x: Any) -> Any:
    """Leaky relu with slope 0.2."""
    return jax.nn.leaky_relu(x, 0.2)


small_init = nnx.initializers.variance_scaling(0.1, "fan_in", "normal")
