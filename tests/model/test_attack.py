import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("optax")

from veilcam.camera.audit_learn import cosine
from veilcam.camera.audit_stats import true_ranks
from veilcam.model.attack import AttackConfig, train_attacker

QUICK = AttackConfig(max_epochs=150, patience=30, learning_rate=3e-3)


def pairs(num: int, seed: int, leak: float) -> tuple[np.ndarray, np.ndarray]:
    """Originals and what is seen of them: a mirrored, noisy part of the first half."""
    random = np.random.default_rng(seed)
    known = random.standard_normal((num, 16))
    seen = random.standard_normal((num, 16))
    seen[:, :8] = leak * np.abs(known[:, 7::-1]) + (1 - leak) * seen[:, :8]
    return seen.astype(np.float32), known.astype(np.float32)


def rank1(leak: float) -> float:
    seen, known = pairs(600, 0, leak)
    probe, gallery, epochs = train_attacker(seen, known, config=QUICK)
    assert epochs >= 1
    fresh_seen, fresh_known = pairs(100, 1, leak)
    scores = cosine(probe(fresh_seen), gallery(fresh_known))
    return float((true_ranks(scores, np.arange(100)) < 1.5).mean())


def test_a_leak_that_is_not_linear_is_learned() -> None:
    assert rank1(0.95) > 0.15


def test_noise_stays_at_chance() -> None:
    assert rank1(0.0) <= 0.06


def test_a_good_guess_is_never_made_worse_by_much() -> None:
    random = np.random.default_rng(0)
    known = random.standard_normal((300, 16)).astype(np.float32)
    seen = known + 0.3 * random.standard_normal(known.shape).astype(np.float32)
    probe, gallery, _ = train_attacker(seen[:200], known[:200], config=QUICK)
    scores = cosine(probe(seen[200:]), gallery(known[200:]))
    assert (true_ranks(scores, np.arange(100)) < 1.5).mean() > 0.9
