"""The discriminator: does this head, with these landmarks, come from a picture?"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from veilcam.model.generator import lrelu


class Discriminator(nnx.Module):
    """Scores a batch of patches; the minibatch deviation layer needs at least two.

    Args:
        num_maps: Channels of the landmark maps (64x64).
        rngs: Keys of the initial weights.
    """

    def __init__(self, num_maps: int, *, rngs: nnx.Rngs) -> None:
        sizes = ((16 + num_maps, 40, 1), (40, 64, 2), (64, 96, 2), (96, 128, 2), (128, 128, 2))
        self.convs = nnx.List(
            [nnx.Conv(a, b, (3, 3), strides=(s, s), rngs=rngs) for a, b, s in sizes]
        )
        self.deviation_conv = nnx.Conv(129, 128, (3, 3), rngs=rngs)
        self.score = nnx.Linear(128 * 4 * 4, 1, rngs=rngs)

    def __call__(
        self, image: Float[Array, "b 128 128 4"], maps: Float[Array, "b 64 64 g"]
    ) -> Float[Array, " b"]:
        """Logits, positive for real."""
        batch = image.shape[0]
        x = image.reshape(batch, 64, 2, 64, 2, 4).transpose(0, 1, 3, 2, 4, 5)
        x = jnp.concatenate([x.reshape(batch, 64, 64, 16), maps], axis=-1)
        for conv in self.convs:
            x = lrelu(conv(x))
        deviation = jnp.sqrt(jnp.var(x, axis=0) + 1e-8).mean()
        x = jnp.concatenate([x, jnp.broadcast_to(deviation, (*x.shape[:3], 1))], axis=-1)
        x = lrelu(self.deviation_conv(x))
        return self.score(x.reshape(batch, -1))[:, 0]
