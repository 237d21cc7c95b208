"""The only way from a camera's people to the wire: clipped, noised, in the ring.

All pictures of a camera are one unit to the mechanism. What comes out is the camera's update plus
its share of the noise in whole numbers; `federate_secagg` masks it before it is sent. The share
alone is less than the accounted noise, so the masks matter, and so does a server that keeps to the
protocol: see docs/federated.md.
"""

import secrets
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt32

from veilcam.model.federate import Federation
from veilcam.model.federate_ring import noise_share
from veilcam.model.federate_task import Task
from veilcam.model.privacy import Mechanism, Permit, secret_key
from veilcam.model.private_data import PrivacyError, PrivateSet, reveal


class Share:
    """A camera's contribution to a round.

    Args:
        federation: What was agreed.
        task: What is learned.
        people: Features of the camera's people as the array `x` (n, d); None where it saw nobody.
    """

    def __init__(self, federation: Federation, task: Task, people: PrivateSet | None) -> None:
        self._federation = federation
        self._size = task.size
        self._people = people
        self._clipped = _compiled(federation, cast(Hashable, task))

    def __call__(
        self, params: Float[np.ndarray, " p"], stage: Mechanism, permit: Permit
    ) -> UInt32[np.ndarray, " p"]:
        """What goes behind the masks; spends the permit of the node's own ledger.

        Raises:
            PrivacyError: The permit is another stage's or used.
            RangeError: A number is beyond what the ring holds; nothing may be sent.
        """
        if stage.unit != "camera" or stage.l2_clip_norm != self._federation.l2_clip_norm:
            raise PrivacyError(f"stage {stage.stage!r} is not this federation's")
        permit.use(stage)
        clipped = np.zeros(self._size) if self._people is None else self._update(params)
        noise = noise_share(
            self._size,
            noise_stddev=self._federation.noise_stddev,
            min_nodes=self._federation.min_nodes,
            random=np.random.default_rng(secrets.randbits(256)),
        )
        return self._federation.ring.encode(clipped, noise)

    def warm_up(self) -> None:
        """Compiles what a round needs, so that the first one is not late; nothing comes out."""
        if self._people is not None:
            self._update(np.zeros(self._size))

    def _update(self, params: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
        assert self._people is not None
        person = self._people.person_index
        batch = self._people.select(np.arange(len(person))[None])
        (rows,) = reveal(batch)[0].values()
        size = 1 << (len(person) - 1).bit_length()  # few sizes: each is compiled
        x = np.zeros((1, size, rows.shape[2]), np.float32)
        x[:, : len(person)] = rows
        weight = np.zeros((1, size), np.float32)  # every person counts the same
        weight[0, : len(person)] = 1 / np.bincount(person)[person]
        total = self._clipped(
            jnp.asarray(params, jnp.float32), {"x": x, "weight": weight}, secret_key()
        )
        return within(np.asarray(total, np.float64), self._federation.l2_clip_norm)


@lru_cache(maxsize=8)
def _compiled(federation: Federation, key: Hashable) -> Callable[..., Any]:
    """The clipped update of a task (the key), compiled once for all cameras of a process."""
    task = cast(Task, key)

    def update(params: Any, camera: Any, key: Any) -> Any:
        return task.contribution(params, camera["x"], camera["weight"])

    clipped = federation.mechanism.clipped(update)
    return jax.jit(lambda params, cameras, key: clipped(params, cameras, key))


def within(vector: Float[np.ndarray, " p"], bound: float) -> Float[np.ndarray, " p"]:
    """The vector, shortened where single precision left it a little too long."""
    norm = float(np.linalg.norm(vector))
    return vector * (bound / norm * (1 - 1e-12)) if norm > bound else vector
