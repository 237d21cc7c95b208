"""What a curious server can make of what it sees: a matching attack on updates.

The attacker knows the model, the public faces and the features of candidates, the true one among
them: single people, or all people of a camera. It computes the update that each would send
(`federate_fleet.updates_of`) and picks the one nearest to what it saw. On an update without noise
that always finds the right one (the positive control); behind a mask it must be chance.
"""

import numpy as np
from jaxtyping import Float, Int


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
