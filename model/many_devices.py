"""Private sums over several devices and processes, by JAX's sharding.

Every process holds part of the people and draws its own of them (Poisson sampling draws each person
alone, so parts may be drawn apart). Rows are sharded over the mesh's axis `people`, each device
clips its own, XLA adds up, and the noise is added once by a key that process 0 draws and all share.
The numbers are those of one process. The same code runs on 1 CPU, on 8 GPUs of a machine and, after
`jax.distributed.initialize`, on a cluster.

All processes must be trusted alike: unlike a federation, parts are summed in the clear.
"""

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from veilcam.model.privacy import Mechanism, Permit, PersonFunction, noisy, secret_key
from veilcam.model.private_data import PrivateBatch, reveal

AXIS = "people"


def people_mesh() -> Mesh:
    """All devices of all processes in a row."""
    return Mesh(np.array(jax.devices()), (AXIS,))


class ShardedRelease:
    """`privacy.Release` for a mesh: clipped, summed over all processes, noised once.

    Args:
        mechanism: What was accounted, for the people of all processes.
        function: `(shared, person, key) -> pytree` for one person.
        mesh: From `people_mesh`.
        rows: People that a process hands over at once; a multiple of its devices. A larger draw
            is handed over in parts; every process must take as many.
    """

    def __init__(
        self, mechanism: Mechanism, function: PersonFunction, mesh: Mesh, *, rows: int
    ) -> None:
        self.mechanism = mechanism
        self._rows = rows
        spec: Any = PartitionSpec  # has no types
        self._by_people = NamedSharding(mesh, spec(AXIS))
        self._everywhere = NamedSharding(mesh, spec())
        clipped = mechanism.clipped(function)
        self._sum = jax.jit(
            lambda shared, people, key, padding: clipped(shared, people, key, padding),
            out_shardings=self._everywhere,
        )

    def __call__(
        self, shared: Any, batch: PrivateBatch, permit: Permit, *, key: jax.Array | None = None
    ) -> Any:
        """Noisy sum over the people whom all processes drew; the same in every process."""
        permit.use(self.mechanism)
        total = self.clipped_sum(shared, batch, shared_key() if key is None else key)
        return noisy(self.mechanism, total, shared_key())

    def clipped_sum(self, shared: Any, batch: PrivateBatch, key: jax.Array) -> Any:
        """The same without noise; for tests and for `__call__` only."""
        arrays, is_padding = reveal(batch)
        parts = -(-len(is_padding) // self._rows)
        most = int(np.max(multihost_utils.process_allgather(np.array(parts))))
        total: Any = None
        for index in range(max(most, 1)):
            people, nobody = self._part(arrays, is_padding, index)
            part = self._sum(shared, people, jax.random.fold_in(key, index), nobody)
            part = jax.tree.map(lambda leaf: jnp.asarray(leaf.addressable_data(0)), part)
            total = part if total is None else jax.tree.map(jnp.add, total, part)
        return total

    def _part(
        self, arrays: Mapping[str, np.ndarray], is_padding: np.ndarray, index: int
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """Rows of this process as part of the global arrays; nobody where it has no more."""
        start = index * self._rows
        nobody = np.ones(self._rows, bool)
        own = is_padding[start : start + self._rows]
        nobody[: len(own)] = own
        people, make = {}, cast(Any, jax.make_array_from_process_local_data)
        for name, array in arrays.items():
            rows = np.zeros((self._rows, *array.shape[1:]), array.dtype)
            rows[: len(own)] = array[start : start + self._rows]
            people[name] = make(self._by_people, rows)
        return people, make(self._by_people, nobody)


def shared_key() -> jax.Array:
    """A secret key of process 0, the same everywhere."""
    data = multihost_utils.broadcast_one_to_all(jax.random.key_data(secret_key()))
    key: jax.Array = jax.random.wrap_key_data(jnp.asarray(data), impl="threefry2x32")
    return key
