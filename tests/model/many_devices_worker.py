"""One process of `test_many_devices`: argv = coordinator, processes, index, out."""

import sys
from pathlib import Path

import jax
import numpy as np

NUM, SIZE = 12, 5


def main() -> None:
    address, processes, index, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    jax.config.update("jax_platforms", "cpu")
    if processes > 1:  # before anything asks for a device
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, processes, index)
    from veilcam.model.many_devices import ShardedRelease, people_mesh
    from veilcam.model.privacy import Mechanism, Permit
    from veilcam.model.private_data import PrivateSet

    mechanism = Mechanism(stage="x", num_persons=NUM, l2_clip_norm=1.0, noise_multiplier=1.0)
    rows = np.random.default_rng(0).normal(0, 1, (NUM, SIZE)).astype(np.float32)
    mine = np.arange(NUM)[index::processes]
    people = PrivateSet({"x": rows[mine]}, [str(i) for i in mine])
    release = ShardedRelease(
        mechanism, lambda w, person, key: w * person["x"][0], people_mesh(), rows=4
    )
    weights = np.linspace(0.2, 2.0, SIZE).astype(np.float32)
    batch = people.select(np.argsort(people.person_index)[:, None])
    total = release.clipped_sum(weights, batch, jax.random.key(0))
    first, second = (release(weights, batch, Permit(mechanism)) for _ in range(2))
    np.savez(Path(out), total=total, first=first, second=second)


main()
