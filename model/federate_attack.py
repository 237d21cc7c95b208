"""What a curious server can make of what it sees: a matching attack on updates.

The attacker knows the model, the public faces and a gallery of candidates, the true person among
them. It computes the update that a camera with each candidate would send and picks the one nearest
to what it saw. On an update without noise that always finds the person (the positive control);
behind a mask it must be no better than chance.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from veilcam.model.federate import Federation
from veilcam.model.federate_task import Task


def candidate_updates(
    federation: Federation,
    task: Task,
    params: Float[np.ndarray, " p"],
    gallery: Float[np.ndarray, "n d"],
) -> Float[np.ndarray, "n p"]:
    """The clipped update of a camera that saw only each one of the gallery."""

    @jax.jit
    def one(row: jax.Array) -> jax.Array:
        update = task.contribution(jnp.asarray(params, jnp.float32), row[None], jnp.ones(1))
        norm = jnp.linalg.norm(update)
        return update * jnp.minimum(1.0, federation.l2_clip_norm / jnp.maximum(norm, 1e-12))

    return np.asarray(jax.lax.map(one, jnp.asarray(gallery)))


def ranks(
    seen: Float[np.ndarray, "k p"], updates: Float[np.ndarray, "n p"], truth: Int[np.ndarray, " k"]
) -> Int[np.ndarray, " k"]:
    """Place of the true candidate for each vector that was seen, 1 is found.

    The updates of all candidates share their public part, so it is taken off before comparing.
    """
    center = updates.mean(0)
    unit = updates - center
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    off = seen - center
    off = off / np.maximum(np.linalg.norm(off, axis=1, keepdims=True), 1e-12)
    scores = off @ unit.T
    own = scores[np.arange(len(seen)), truth]
    return np.asarray((scores > own[:, None]).sum(1) + 1)
