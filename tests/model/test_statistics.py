"""Released moments and embeddings are right up to the noise they state."""

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilcam.camera.errors import ConfigError
from veilcam.model.ledger import BudgetExceededError, Ledger
from veilcam.model.plan import Plan
from veilcam.model.privacy import Mechanism
from veilcam.model.private_data import PrivateSet
from veilcam.model.statistics import (
    Moments,
    blend_covariance,
    embedding_distance,
    nearest_psd,
    noisy_embedding,
    noisy_moments,
    noisy_sum,
    to_ball,
    unvech,
    vech,
)

Opener = Callable[[Mechanism], Ledger]


def stage(num_persons: int, noise: float = 1e-3, **changes: object) -> Mechanism:
    base = {"stage": "s", "num_persons": num_persons, "l2_clip_norm": 1.0}
    return Mechanism(**(base | {"noise_multiplier": noise} | changes))  # type: ignore[arg-type]


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opener:
    """A ledger for one stage; epsilon is not the subject here."""
    monkeypatch.setattr(Plan, "__post_init__", lambda self: None)
    monkeypatch.setattr(Ledger, "_check_plan", lambda self: None)

    def opener(mechanism: Mechanism) -> Ledger:
        plan = Plan(epsilon=1.0, delta=1e-5, stages=(mechanism,))
        return Ledger(tmp_path / f"{mechanism.fingerprint}.json", plan)

    return opener


def feature(picture: dict) -> jnp.ndarray:
    return picture["x"]


def test_moments_are_the_true_ones_where_noise_is_small(ledger: Opener) -> None:
    random = np.random.default_rng(0)
    shape = np.array([[1.0, 0.6, 0], [0.6, 1.0, 0], [0, 0, 0.1]])
    x = random.multivariate_normal([1, 2, 3], shape, 4000).astype(np.float32)
    m = stage(4000, pictures_per_person=1)
    with ledger(m) as book:
        got = noisy_moments(
            m, PrivateSet({"x": x}, np.arange(4000)), book.spend(m), feature, radius=8.0,
            center=np.array([1.0, 1.0, 1.0]),
        )  # fmt: skip
    np.testing.assert_allclose(got.mean, x.mean(0), atol=1e-3)
    np.testing.assert_allclose(got.covariance, np.cov(x.T), atol=5e-3)


def test_noise_of_moments_is_as_stated(ledger: Opener) -> None:
    m = stage(500, noise=5.0)
    with ledger(m) as book:
        got = noisy_moments(
            m, PrivateSet({"x": np.zeros((500, 60), np.float32)}, np.arange(500)),
            book.spend(m), feature, radius=3.0, mean_share=0.3,
        )  # fmt: skip
    assert got.mean.std() == pytest.approx(got.mean_stddev, rel=0.35)
    # the negative half of the eigenvalues is cut off: compare before, by the trace of squares
    values = np.linalg.eigvalsh(got.covariance)
    assert values.min() > -1e-9
    assert values.max() < 2.6 * 60**0.5 * got.covariance_stddev
    assert values.max() > 1.2 * 60**0.5 * got.covariance_stddev


def test_one_far_person_moves_the_sum_by_at_most_the_clip_norm(ledger: Opener) -> None:
    x = np.zeros((30, 4), np.float32)
    x[0] = [np.inf, np.nan, 1e38, -1e38]
    m = stage(30, noise=1e-6)
    with ledger(m) as book:
        got = noisy_moments(
            m, PrivateSet({"x": x}, np.arange(30)), book.spend(m), feature, radius=2.0
        )
    # in one person's features infinity counts as nothing; what is left has norm <= radius
    assert np.linalg.norm(got.mean) <= 2.0 / 30 * 1.01
    assert np.abs(got.covariance).max() <= 4.0 / 30 * 1.01


def test_a_person_of_many_pictures_counts_with_their_mean(ledger: Opener) -> None:
    x = np.array([[0.0], [1.0], [0.5]], np.float32)
    m = stage(2, noise=1e-7, pictures_per_person=2)
    with ledger(m) as book:
        got = noisy_moments(
            m, PrivateSet({"x": x}, ["a", "a", "b"]), book.spend(m), feature, radius=1.0
        )
    assert got.mean[0] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("bad", [{"sampling_prob": 0.5}, {"iterations": 2}])
def test_only_one_shot_mechanisms_release_statistics(bad: dict, ledger: Opener) -> None:
    m = stage(2, **bad)
    people = PrivateSet({"x": np.zeros((2, 1), np.float32)}, ["a", "b"])
    with ledger(m) as book, pytest.raises(ConfigError, match="sampling_prob 1 and 1 iteration"):
        noisy_sum(m, people, book.spend(m), lambda person: person["x"][0])


@pytest.mark.parametrize("bad", [{"radius": 0.0}, {"radius": 1.0, "mean_share": 1.0}])
def test_bad_settings_of_moments_are_refused(bad: dict, ledger: Opener) -> None:
    m, people = stage(2), PrivateSet({"x": np.zeros((2, 1), np.float32)}, ["a", "b"])
    with ledger(m) as book, pytest.raises(ConfigError, match="radius"):
        noisy_moments(m, people, book.spend(m), feature, **bad)
    other = stage(2, l2_clip_norm=2.0)
    with ledger(other) as book, pytest.raises(ConfigError, match="must be 1"):
        noisy_moments(other, people, book.spend(other), feature, radius=1.0)


def test_a_second_release_of_a_one_shot_statistic_is_over_budget(ledger: Opener) -> None:
    m, people = stage(2), PrivateSet({"x": np.zeros((2, 1), np.float32)}, ["a", "b"])
    with ledger(m) as book:
        noisy_sum(m, people, book.spend(m), lambda person: person["x"][0])
        with pytest.raises(BudgetExceededError):
            noisy_sum(m, people, book.spend(m), lambda person: person["x"][0])


def test_embedding_is_by_class_and_a_generator_that_matches_it_has_no_loss(
    ledger: Opener,
) -> None:
    x = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    label = np.array([0, 1, 0, 1])
    m = stage(4, noise=1e-7)
    people = PrivateSet({"x": x, "label": label}, np.arange(4))
    with ledger(m) as book:
        got = noisy_embedding(m, people, book.spend(m), feature, num_classes=2)
    np.testing.assert_allclose(got, [[0.5, 0], [0.25, 0.25]], atol=1e-4)
    one_hot = jnp.asarray(np.eye(2, dtype=np.float32)[label])
    assert float(embedding_distance(jnp.asarray(got), jnp.asarray(x), one_hot)) < 1e-6
    assert float(embedding_distance(jnp.asarray(got), -jnp.asarray(x), one_hot)) > 0.1
    with ledger(stage(4, stage="whole")) as book:
        m = stage(4, stage="whole")
        whole = noisy_embedding(m, people, book.spend(m), feature)
    np.testing.assert_allclose(whole, [[0.75, 0.25]], atol=1e-2)


HARD = [0.0, 1e-3, 1.0, -2.0, 1e30, 3e38, np.inf, np.nan]


@settings(max_examples=50)
@given(st.lists(st.sampled_from(HARD), min_size=4, max_size=4))
def test_the_ball_holds_everything(values: list[float]) -> None:
    out = np.asarray(to_ball(jnp.asarray(values, jnp.float32)))
    assert np.isfinite(out).all()
    assert np.linalg.norm(out) <= 1 + 1e-5


@pytest.mark.parametrize("size", [1, 2, 7])
def test_vech_keeps_the_norm_and_comes_back(size: int) -> None:
    matrix = np.random.default_rng(size).normal(size=(size, size))
    matrix = matrix + matrix.T
    pairs = np.asarray(vech(jnp.asarray(matrix, jnp.float32)))
    assert np.linalg.norm(pairs) == pytest.approx(np.linalg.norm(matrix), rel=1e-5)
    np.testing.assert_allclose(unvech(pairs, size), matrix, rtol=1e-5)


def test_the_nearest_psd_matrix_is_psd_nearest_and_leaves_psd_alone() -> None:
    random = np.random.default_rng(3)
    matrix = random.normal(size=(6, 6))
    symmetric = (matrix + matrix.T) / 2
    out = nearest_psd(symmetric)
    assert np.linalg.eigvalsh(out).min() > -1e-12
    best = np.linalg.norm(out - symmetric)
    for _ in range(200):
        factor = random.normal(size=(6, 6)) * 0.1
        other = out + factor @ factor.T * random.random()
        assert np.linalg.norm(other - symmetric) >= best - 1e-9
    psd = matrix @ matrix.T
    np.testing.assert_allclose(nearest_psd(psd), psd, atol=1e-12)


def test_blending_keeps_the_public_covariance_where_the_release_is_noise() -> None:
    random = np.random.default_rng(0)
    public = np.eye(40)
    noise = random.normal(0, 0.05, (40, 40))
    noise = (noise + noise.T) / 2**0.5
    changed = public.copy()
    changed[0, 0] = 5.0
    for truth, tolerance in ((public, 1e-9), (changed, 0.6)):
        released = Moments(
            mean=np.zeros(40), covariance=truth + noise, mean_stddev=0.1, covariance_stddev=0.05
        )
        out = blend_covariance(released, public, num_stddev=1.1)
        assert np.abs(out - truth).max() <= tolerance
        assert np.linalg.norm(out - truth) < np.linalg.norm(noise) / 3
