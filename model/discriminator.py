"""The discriminator: does this head, with these landmarks, come from a picture?

It judges features of a frozen net, mixed by fixed random projections, on four scales.
Source: Sauer et al. 2021, Projected GANs converge faster, sections 3.2 and 4.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from veilcam.model.feature_net import convolve
from veilcam.model.loss import double

_MIXED = (64, 96, 128, 192)  # channels after mixing, finest scale first
_WIDTH = (96, 160, 224)  # channels of a head's convolutions
_POWER_ITERATIONS = 4


class Mixer(nnx.Module):
    """Random, never trained: projections across channels, then from coarse to fine scales."""

    def __init__(self, channels: tuple[int, ...], *, rngs: nnx.Rngs) -> None:
        pairs = list(zip(channels, _MIXED, strict=True))
        self.across = nnx.List([_random_conv(a, b, 1, rngs) for a, b in pairs])
        self.down = nnx.List([_random_conv(b, a, 1, rngs) for a, b in pairwise(_MIXED)])
        self.smooth = nnx.List([_random_conv(b, b, 3, rngs) for b in _MIXED])

    def __call__(self, taps: list[Float[Array, "b _ _ _"]]) -> list[Float[Array, "b _ _ _"]]:
        """Mixed features of each scale, finest first, about unit variance."""
        below: jax.Array | None = None
        out = []
        for scale in reversed(range(len(taps))):
            x = _unit(taps[scale]) @ self.across[scale][...][0, 0].astype(taps[scale].dtype)
            if below is not None:
                x = x + double(below) @ self.down[scale][...][0, 0].astype(x.dtype)
            below = convolve(x, self.smooth[scale][...].astype(x.dtype), 1)
            out.append(below)
        return out[::-1]


def _random_conv(num_in: int, num_out: int, size: int, rngs: nnx.Rngs) -> nnx.Cache:
    scale = (size * size * num_in) ** -0.5
    return nnx.Cache(scale * jax.random.normal(rngs.params(), (size, size, num_in, num_out)))


def _unit(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Scaled so that a scale's features have unit mean square; taps differ sevenfold."""
    size = jnp.sqrt(jnp.square(x.astype(jnp.float32)).mean((1, 2, 3), keepdims=True) + 1e-6)
    return x / size.astype(x.dtype)


class Discriminator(nnx.Module):
    """Scores a batch of heads on four scales.

    Args:
        channels: Channels of the feature net's four maps.
        num_maps: Channels of the landmark maps (64x64).
        rngs: Keys of the initial weights.
    """

    def __init__(self, channels: tuple[int, ...], num_maps: int, *, rngs: nnx.Rngs) -> None:
        self.mixer = Mixer(channels, rngs=rngs)
        halvings = (3, 2, 1, 0)
        self.heads = nnx.List(
            [_Head(b + num_maps + 1, n, rngs=rngs) for b, n in zip(_MIXED, halvings, strict=True)]
        )

    def __call__(
        self,
        taps: list[Float[Array, "b _ _ _"]],
        alpha: Float[Array, "b 128 128 1"],
        maps: Float[Array, "b 64 64 g"],
    ) -> Float[Array, "b k"]:
        """Logits of each place on each scale, positive for real."""
        scores = []
        for x, head in zip(self.mixer(taps), self.heads, strict=True):
            size = x.shape[1:3]
            given = [_pool(maps, size) * 2, _pool(alpha, size) * 2 - 1]
            x = jnp.concatenate([x, *(g.astype(x.dtype) for g in given)], axis=-1)
            scores.append(head(x).reshape(x.shape[0], -1).astype(jnp.float32))
        return jnp.concatenate(scores, axis=1)


class _Head(nnx.Module):
    """Convolutions down to one score for each place; spectral norm bounds their slope."""

    def __init__(self, num_in: int, halvings: int, *, rngs: nnx.Rngs) -> None:
        widths = (num_in, *_WIDTH[: max(halvings, 1)])
        size, self.stride = (4, 2) if halvings else (3, 1)
        pairs = list(pairwise(widths))
        self.convs = nnx.List([SpectralConv(a, b, size, rngs=rngs) for a, b in pairs])
        self.norms = nnx.List([nnx.GroupNorm(b, num_groups=8, rngs=rngs) for _, b in pairs])
        self.score = SpectralConv(widths[-1], 1, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 1"]:
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = conv(x, self.stride)
            x = jax.nn.leaky_relu(norm(x).astype(x.dtype) if index else x, 0.2)
        return self.score(x, 1)


class SpectralConv(nnx.Module):
    """Convolution whose kernel is divided by its largest singular value.

    Power iteration starts anew each time from a fixed vector: no state beside the kernel.
    Source: Miyato et al. 2018, Spectral normalization for GANs, section 2.1.
    """

    def __init__(self, num_in: int, num_out: int, size: int, *, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.he_normal()
        self.kernel = nnx.Param(init(rngs.params(), (size, size, num_in, num_out)))
        self.bias = nnx.Param(jnp.zeros(num_out))

    def __call__(self, x: Float[Array, "b h w c"], stride: int) -> Float[Array, "b h2 w2 d"]:
        """The convolved maps, `stride` times smaller."""
        kernel = self.kernel[...].astype(jnp.float32)
        matrix = kernel.reshape(-1, kernel.shape[-1])
        fixed = jax.lax.stop_gradient(matrix)
        u = jnp.cos(jnp.arange(matrix.shape[1], dtype=jnp.float32))
        for _ in range(_POWER_ITERATIONS):
            u = fixed.T @ (fixed @ u)
            u = u / (jnp.linalg.norm(u) + 1e-12)
        sigma = jnp.linalg.norm(matrix @ u) + 1e-12
        return convolve(x, (kernel / sigma).astype(x.dtype), stride) + self.bias[...].astype(
            x.dtype
        )


def _pool(x: Float[Array, "b h w c"], size: tuple[int, ...]) -> Float[Array, "b h2 w2 c"]:
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "linear", antialias=True)
