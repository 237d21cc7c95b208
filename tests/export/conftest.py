"""A small stand-in with the layers of the real head generator, for fast export tests."""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array, Float

from veilcam.camera.code import HEAD_FIELDS

LATENT_DIM = 64
NUM_VALUES = len(HEAD_FIELDS)
MIDDLE = np.asarray([(f.high + f.low) / 2 for f in HEAD_FIELDS], np.float32)
HALF_RANGE = np.asarray([(f.high - f.low) / 2 for f in HEAD_FIELDS], np.float32)


class Block(nnx.Module):
    """Nearest upsampling, 3x3 convolution, shift from the latent, clipped twice."""

    def __init__(self, num_in: int, num_out: int, num_style: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(num_in, num_out, (3, 3), padding="SAME", rngs=rngs)
        self.style = nnx.Linear(num_style, num_out, rngs=rngs)

    def __call__(
        self, x: Float[Array, "h w c"], style: Float[Array, " s"]
    ) -> Float[Array, "h2 w2 d"]:
        x = jnp.repeat(jnp.repeat(x, 2, axis=0), 2, axis=1)
        return jnp.clip(jnp.clip(self.conv(x), -8, 8) + self.style(style), 0, 6)


class StandIn(nnx.Module):
    """Values and latent in, BGR and alpha in [0, 1] out, one example."""

    def __init__(self, *, num_channels: int = 128, rngs: nnx.Rngs):
        num_style = 64
        self.num_channels = num_channels
        self.embed = nnx.Linear(LATENT_DIM + NUM_VALUES, num_style, rngs=rngs)
        self.points = nnx.Linear(NUM_VALUES, 2 * 16, rngs=rngs)
        self.start = nnx.Linear(num_style, 8 * 8 * num_channels, rngs=rngs)
        widths = [num_channels + 16, num_channels, num_channels // 2, num_channels // 4]
        self.blocks = nnx.List([Block(a, b, num_style, rngs=rngs) for a, b in pairwise(widths)])
        self.last = nnx.Conv(widths[-1], 16, (3, 3), padding="SAME", rngs=rngs)

    def __call__(
        self, values: Float[Array, " f"], latent: Float[Array, " z"]
    ) -> Float[Array, "128 128 4"]:
        state = (values - MIDDLE) / HALF_RANGE
        style = jax.nn.relu(self.embed(jnp.concatenate([state, latent])))
        grid = (jnp.arange(8, dtype=jnp.float32) + 0.5) / 8
        points = jax.nn.sigmoid(self.points(state)).reshape(16, 2)
        gauss = jnp.exp(-((grid[None, :] - points[:, :1]) ** 2) / 0.02)
        gauss_y = jnp.exp(-((grid[None, :] - points[:, 1:]) ** 2) / 0.02)
        maps = (gauss_y.T[:, None, :] * gauss.T[None, :, :]).reshape(8, 8, 16)
        x = self.start(style).reshape(8, 8, self.num_channels)
        x = jnp.concatenate([jnp.clip(x, 0, 6), maps], axis=-1)
        for block in self.blocks:
            x = block(x, style)
        x = self.last(x).reshape(64, 64, 2, 2, 4).transpose(0, 2, 1, 3, 4).reshape(128, 128, 4)
        return jnp.clip(x, 0.0, 1.0)


@pytest.fixture(scope="session")
def stand_in() -> StandIn:
    """An untrained stand-in, always the same."""
    module = StandIn(num_channels=32, rngs=nnx.Rngs(0))
    # biases start at zero, and a rewrite that loses them would not be seen
    keys = iter(jax.random.split(jax.random.key(1), 100))
    for _, part in nnx.iter_modules(module):
        if isinstance(part, nnx.Linear | nnx.Conv) and part.bias is not None:
            part.bias[...] = 0.3 * jax.random.normal(next(keys), part.bias[...].shape)
    return module


@pytest.fixture(scope="session")
def latents() -> dict[str, np.ndarray]:
    """A standard Gaussian of latents."""
    return {"mean": np.zeros(LATENT_DIM, np.float32), "chol": np.eye(LATENT_DIM, dtype=np.float32)}


@pytest.fixture(scope="session")
def fp32_graph(stand_in: StandIn) -> Any:
    """The stand-in's fp32 graph."""
    from veilcam.export.graph import build_graph

    return build_graph(stand_in, num_values=NUM_VALUES, num_latent=LATENT_DIM)
