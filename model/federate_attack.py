"""What a curious server can make of what it sees: matching and inversion attacks on updates.

Matching (`ranks`): the attacker knows the model, the public faces and the features of candidates,
the true one among them: single people, or all people of a camera. It computes the update that each
would send (`federate_fleet.updates_of`) and picks the one nearest to what it saw.

Inversion (`inverted`): it knows the model and the public faces, and no person; it seeks features
whose update would point where the one that it saw does, whatever its length (it was clipped).

On an update without noise the first finds the right one and the second gives the person back (the
positive controls); behind a mask both must be chance.

Sources: Zhu et al. 2019 (gradients leak their data); Geiping et al. 2020 (by the angle).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from veilcam.model.federate_task import Task

_STARTS, _STEPS, _RATE = 8, 400, 0.1


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


def inverted(
    task: Task, params: Float[np.ndarray, " p"], seen: Float[np.ndarray, "k p"], size: int
) -> Float[np.ndarray, "k d"]:
    """Features of one person for each vector that was seen: the best of some starts.

    Args:
        task: What is learned.
        params: The model that the vectors are updates of.
        seen: Updates.
        size: Numbers of a feature vector.
    """
    starts = np.random.default_rng(0).standard_normal((_STARTS, size)).astype(np.float32)
    start = jnp.asarray(params, jnp.float32)
    rows = [_search(task, start, jnp.asarray(v, jnp.float32), jnp.asarray(starts)) for v in seen]
    return np.stack([np.asarray(row) for row in rows])


@partial(jax.jit, static_argnums=0)
def _search(task: Task, params: jax.Array, seen: jax.Array, starts: jax.Array) -> jax.Array:
    goal = seen / jnp.maximum(jnp.linalg.norm(seen), 1e-12)
    optimizer = optax.adam(_RATE)

    def off(x: jax.Array) -> jax.Array:
        update = task.contribution(params, x[None], jnp.ones(1))
        return 1 - goal @ update / jnp.maximum(jnp.linalg.norm(update), 1e-12)

    def step(_: Any, state: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        change, opt = optimizer.update(jax.grad(off)(state[0]), state[1])
        return state[0] + jnp.asarray(change), opt

    def search(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = jax.lax.fori_loop(0, _STEPS, step, (x, optimizer.init(x)))[0]
        return found, off(found)

    found, value = jax.vmap(search)(starts)
    return found[jnp.argmin(value)]


def cosines(a: Float[np.ndarray, "k d"], b: Float[np.ndarray, "k d"]) -> Float[np.ndarray, " k"]:
    """Of corresponding rows."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(1) / np.maximum(norms, 1e-12))
