"""One-run audit of a mechanism: a lower bound on the epsilon it really has.

Canaries are people made up for the audit. Each is put into the private set or left out by a fair
coin. The real code then trains, and each canary is scored by how far the released gradients lean
its way. If the scores tell the two halves apart better than (epsilon, delta)-DP allows, the
mechanism is broken: a lower bound above the claim is a bug, never bad luck beyond `significance`.

Canaries have mutually orthogonal gradients of more than the clip norm (one coordinate of a linear
loss each), the strongest that a clipped mechanism can meet.

Source: Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1) Training Run";
`jax_privacy.auditing`.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax_privacy.auditing import CanaryScoreAuditor
from jaxtyping import Float

from veilcam.model.dp_sgd import PrivateGradient
from veilcam.model.ledger import NAME, Ledger
from veilcam.model.plan import Plan
from veilcam.model.private_data import PrivateSet


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryReport:
    """What the audit found.

    Attributes:
        epsilon_claimed: By the accountant for this run.
        epsilon_lower_bound: Holds with probability 1 - significance.
        auroc: Of canaries' scores; 0.5 is chance.
        num_canaries: In and out together.
        delta, significance: Of claim and bound.
    """

    epsilon_claimed: float
    epsilon_lower_bound: float
    auroc: float
    num_canaries: int
    delta: float
    significance: float

    @property
    def is_broken(self) -> bool:
        """Whether the claim is refuted."""
        return self.epsilon_lower_bound > self.epsilon_claimed


class Probe(nnx.Module):
    """The scaled-down model: its loss is linear in a person's features, w . x."""

    def __init__(self, size: int) -> None:
        self.weights = nnx.Param(jnp.zeros(size))


def probe_loss(model: Any, person: dict[str, jax.Array], shared: Any, key: jax.Array) -> jax.Array:
    """Its gradient is the person's mean feature vector: canaries are as loud as they can be."""
    return jnp.mean(model.weights[...] @ person["x"].T)


def plant_canaries(num_canaries: int, num_others: int, loudness: float) -> dict[str, Any]:
    """Features of people and canaries; `is_in` (num_canaries,) says which were put in.

    A canary that is out is replaced by nothing (zero features): the neighbouring relation.
    """
    coins = np.random.default_rng(secrets.randbits(128))
    is_in = coins.random(num_canaries) < 0.5
    size = num_canaries + 8
    x = np.zeros((num_canaries + num_others, size), np.float32)
    x[np.arange(num_canaries), np.arange(num_canaries)] = loudness * is_in
    x[num_canaries:, num_canaries:] = coins.normal(size=(num_others, 8))
    people = PrivateSet({"x": x}, np.arange(len(x)))
    return {"people": people, "is_in": is_in, "size": size}


def audit_gradient(
    plan: Plan,
    folder: Path,
    *,
    num_canaries: int = 400,
    loudness: float = 100.0,
    significance: float = 0.05,
    gradient: Any = None,
) -> CanaryReport:
    """Trains a probe by the real sampler, ledger and private gradient, and bounds epsilon.

    Args:
        plan: One stage; its `num_persons` holds canaries and others.
        folder: For the ledger of this audit; must not hold one.
        num_canaries: More give a tighter bound.
        loudness: Norm of a canary's gradient before clipping.
        significance: Chance that the bound is wrong.
        gradient: `PrivateGradient` by default; tests put broken ones in its place.
    """
    (mechanism,) = plan.stages
    made = plant_canaries(num_canaries, mechanism.num_persons - num_canaries, loudness)
    model = Probe(made["size"])
    step = gradient or PrivateGradient(mechanism, probe_loss, micro_batch=256)
    lean = np.zeros(made["size"])
    with Ledger(folder / NAME, plan) as ledger:
        for batch in mechanism.batches(made["people"]):
            grads = step(model, batch, ledger.spend(mechanism))
            lean += np.asarray(grads["weights"][...], np.float64)
    claimed = plan.composed_epsilon
    return report(
        lean[:num_canaries], made["is_in"], claimed, delta=plan.delta, significance=significance
    )


def report(
    scores: Float[np.ndarray, " n"],
    is_in: Any,
    epsilon_claimed: float,
    *,
    delta: float,
    significance: float = 0.05,
) -> CanaryReport:
    """Bound from scores of canaries that were in and out (higher means in)."""
    auditor = CanaryScoreAuditor(scores[is_in], scores[~is_in])
    return CanaryReport(
        epsilon_claimed=epsilon_claimed,
        epsilon_lower_bound=float(auditor.epsilon_one_run(significance, delta)),
        auroc=float(auditor.attack_auroc()),
        num_canaries=len(scores),
        delta=delta,
        significance=significance,
    )
