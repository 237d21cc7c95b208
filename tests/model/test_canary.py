"""The audit finds every planted bug and leaves the real mechanism alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
from jax_privacy import batch_selection, clipping, noise_addition

from veilcam.model.canary import audit_gradient, report
from veilcam.model.plan import Plan
from veilcam.model.privacy import Mechanism

PEOPLE, CANARIES = 700, 600


def plan(epsilon: float = 1.0) -> Plan:
    stage = Mechanism(
        stage="audit", num_persons=PEOPLE, l2_clip_norm=0.7, noise_multiplier=1.0,
        sampling_prob=0.1, iterations=10,
    )  # fmt: skip
    return Plan.calibrated([stage], epsilon=epsilon, delta=1e-5)


def clip_off(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(clipping, "clip_pytree", lambda tree, *_, **__: (tree, optax.tree.norm(tree)))


def noise_off(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(noise_addition, "gaussian_privatizer", lambda **_: optax.identity())


def sensitivity_of_the_mean(patch: pytest.MonkeyPatch) -> None:
    """Noise for a mean over the batch lands on the sum."""
    patch.setattr(
        Mechanism, "sensitivity", property(lambda m: m.l2_clip_norm / m.expected_batch_size)
    )


def pictures_as_units(patch: pytest.MonkeyPatch) -> None:
    """Sixteen pictures of one person are clipped one by one."""
    patch.setattr(Mechanism, "sensitivity", property(lambda m: m.l2_clip_norm / 16))


def everybody_in_every_step(patch: pytest.MonkeyPatch) -> None:
    """Accounted as Poisson with probability 1/10, drawn as full batches."""
    real = batch_selection.CyclicPoissonSampling.batch_iterator

    def eager(self: Any, num: int, rng: Any = None) -> Any:
        yield from real(replace(self, sampling_prob=1.0), num, rng)

    patch.setattr(batch_selection.CyclicPoissonSampling, "batch_iterator", eager)


@pytest.mark.parametrize(
    "bug",
    [clip_off, noise_off, sensitivity_of_the_mean, pictures_as_units, everybody_in_every_step],
)
def test_a_planted_bug_is_caught(
    bug: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan()
    bug(monkeypatch)
    found = audit_gradient(made, tmp_path, num_canaries=CANARIES)
    assert found.is_broken, found
    assert found.epsilon_lower_bound > found.epsilon_claimed


@pytest.mark.parametrize("epsilon", [1.0, 6.0])
def test_the_real_mechanism_keeps_its_claim(epsilon: float, tmp_path: Path) -> None:
    found = audit_gradient(plan(epsilon), tmp_path, num_canaries=CANARIES)
    assert not found.is_broken, found
    assert found.epsilon_claimed <= epsilon
    assert found.num_canaries == CANARIES
    if epsilon == 6.0:  # the audit has power: canaries do show, within what the claim allows
        assert found.auroc > 0.53


def test_scores_that_say_nothing_bound_nothing() -> None:
    random = np.random.default_rng(0)
    found = report(random.normal(size=400), random.random(400) < 0.5, 1.0, delta=1e-5)
    assert found.epsilon_lower_bound < 0.2
    assert abs(found.auroc - 0.5) < 0.1
