"""Noise, clipping, sampling and accounting are what the mechanism says, and agree."""

import json
import secrets
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from veilcam.camera.errors import ConfigError
from veilcam.model import privacy
from veilcam.model.privacy import (
    Mechanism,
    Permit,
    Release,
    calibrate,
    compose,
    epsilon_of,
    secret_key,
)
from veilcam.model.private_data import PrivacyError, PrivateSet, reveal


def mechanism(**changes: object) -> Mechanism:
    base = {
        "stage": "test", "num_persons": 40, "l2_clip_norm": 0.5, "noise_multiplier": 2.0,
    }  # fmt: skip
    return Mechanism(**(base | changes))  # type: ignore[arg-type]


def people(values: np.ndarray, person: object = None) -> PrivateSet:
    return PrivateSet({"x": values}, np.arange(len(values)) if person is None else person)


def total(m: Mechanism, private: PrivateSet, function: object = None, **options: int) -> np.ndarray:
    read = function or (lambda shared, person, key: person["x"].mean(0))
    (batch,) = m.batches(private)
    return np.asarray(Release(m, read, **options)((), batch, Permit(m)))  # type: ignore[arg-type]


def has_stddev(noise: np.ndarray, stddev: float) -> bool:
    """Chi-square test at 1e-6 that zero-mean noise has this standard deviation."""
    statistic = np.square(noise / stddev).sum()
    return bool(stats.chi2(noise.size).interval(1 - 1e-6)[0] < statistic) and bool(
        statistic < stats.chi2(noise.size).interval(1 - 1e-6)[1]
    )


@pytest.mark.parametrize("num_persons", [1, 40, 300])
@pytest.mark.parametrize("clip", [0.01, 5.0])
def test_noise_on_the_sum_has_the_stated_deviation(num_persons: int, clip: float) -> None:
    m = mechanism(num_persons=num_persons, l2_clip_norm=clip, noise_multiplier=1.7)
    noise = total(m, people(np.zeros((num_persons, 4000), np.float32)))
    assert m.noise_stddev == pytest.approx(1.7 * clip)
    assert has_stddev(noise, m.noise_stddev)
    assert not has_stddev(noise, m.noise_stddev * 2 / 3)
    assert not has_stddev(noise, m.noise_stddev * 3 / 2)
    assert stats.kstest(noise / m.noise_stddev, "norm").pvalue > 1e-6


def test_noise_is_fresh_and_no_seed_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    m, zero = mechanism(), people(np.zeros((40, 500), np.float32))
    np.random.seed(0)  # noqa: NPY002  the global state must not matter
    first = total(m, zero)
    np.random.seed(0)  # noqa: NPY002
    second = total(m, zero)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.3
    drawn = []
    monkeypatch.setattr(privacy.secrets, "token_bytes", lambda n: drawn.append(n) or bytes(n))
    secret_key()
    assert drawn == [8]
    assert not {"key", "seed", "rng"} & set(asdict(m))


def test_noise_of_leaves_is_independent() -> None:
    m = mechanism()
    out = Release(m, lambda s, p, k: {"a": p["x"][0], "b": p["x"][0]})
    (batch,) = m.batches(people(np.zeros((40, 900), np.float32)))
    tree = out((), batch, Permit(m))
    assert abs(np.corrcoef(tree["a"], tree["b"])[0, 1]) < 0.2


HARD = [0.0, -0.0, 1.0, -3e4, 1e-30, 3e38, np.inf, -np.inf, np.nan]


@settings(max_examples=60)
@given(
    rows=st.lists(st.lists(st.sampled_from(HARD), min_size=3, max_size=3), min_size=1, max_size=6),
    dtype=st.sampled_from([np.float16, np.float32, jnp.bfloat16]),
    clip=st.sampled_from([1e-3, 1.0, 50.0]),
)
def test_one_person_moves_the_clipped_sum_by_at_most_the_clip_norm(
    rows: list, dtype: object, clip: float
) -> None:
    m = mechanism(l2_clip_norm=clip)
    with np.errstate(over="ignore"):
        values = np.asarray(rows, np.float64).astype(dtype)
    clipped = m.clipped(lambda shared, person, key: person["x"])
    key = jax.random.key(0)
    sums = [clipped((), {"x": jnp.asarray(v)}, key) for v in (values, zeroed(values))]
    assert all(s.dtype == jnp.float32 and bool(jnp.isfinite(s).all()) for s in sums)
    assert float(jnp.linalg.norm(sums[0] - sums[1])) <= m.sensitivity * (1 + 1e-4)


def zeroed(values: np.ndarray) -> np.ndarray:
    """The neighbouring data: the first person replaced by nothing."""
    other = values.copy()
    other[0] = 0
    return other


def test_the_sensitivity_is_read_from_the_clipped_function() -> None:
    assert privacy.RELATION is dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    assert mechanism(l2_clip_norm=0.3).sensitivity == pytest.approx(0.3)


@pytest.mark.parametrize("micro_batch", [1, 7, 64])
def test_micro_batches_and_padding_do_not_change_the_sum(micro_batch: int) -> None:
    values = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    m = mechanism(noise_multiplier=1e-6)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    wanted = (values * np.minimum(1, 0.5 / norms)).sum(0)
    np.testing.assert_allclose(total(m, people(values), micro_batch=micro_batch), wanted, atol=1e-4)


def test_the_sampler_is_the_one_that_is_accounted() -> None:
    m = mechanism(num_persons=400, sampling_prob=0.3, iterations=200)
    event = m.dp_event()
    assert (event.count, event.event.sampling_probability) == (200, 0.3)
    assert event.event.event.noise_multiplier == m.noise_multiplier
    batches = [reveal(b)[0]["x"][:, 0, 0] for b in m.batches(people(np.arange(400.0)[:, None]))]
    assert len(batches) == event.count
    sizes = np.array([len(b) for b in batches])
    # Poisson sampling: sizes are binomial (a fixed batch has no spread), people independent
    spread = 400 * 0.3 * 0.7
    assert 0.6 * spread < sizes.var() < 1.6 * spread
    assert abs(sizes.mean() - 120) < 5 * (spread / 200) ** 0.5
    drawn = np.zeros((200, 400))
    for row, batch in zip(drawn, batches, strict=True):
        assert len(set(batch)) == len(batch)
        row[batch.astype(int)] = 1
    counts = drawn.sum(0)  # shuffled epochs would draw everybody equally often
    assert 0.7 * 200 * 0.21 < counts.var() < 1.4 * 200 * 0.21


def test_an_empty_draw_is_noise_only() -> None:
    m = mechanism(sampling_prob=1e-9, num_persons=3)
    for private in (people(np.full((3, 999), 9.0, np.float32)),
                    people(np.full((4, 999), 9.0, np.float32), ["a", "a", "b", "c"])):  # fmt: skip
        assert has_stddev(total(m, private), m.noise_stddev)


@pytest.mark.parametrize("pictures_per_person", [1, 3])
def test_a_person_counts_once_whether_with_one_picture_or_a_thousand(
    pictures_per_person: int,
) -> None:
    person = ["one"] + ["many"] * 1000
    values = np.eye(2, dtype=np.float32)[[0] + [1] * 1000] * 100
    m = mechanism(
        num_persons=2, noise_multiplier=1e-6, l2_clip_norm=1.0,
        pictures_per_person=pictures_per_person,
    )  # fmt: skip
    np.testing.assert_allclose(total(m, people(values, person)), [1, 1], atol=1e-3)


def test_all_pictures_of_a_person_come_to_the_same_row() -> None:
    person = np.array([0, 0, 1, 1, 1, 2])
    m = mechanism(num_persons=3, pictures_per_person=2, iterations=9)
    for batch in m.batches(people(person[:, None].astype(np.float32), person)):
        rows = reveal(batch)[0]["x"][..., 0]
        assert sorted(rows[:, 0].tolist()) == [0, 1, 2]
        assert (rows[:, 0] == rows[:, 1]).all()


@pytest.mark.parametrize("sampling_prob", [0.05, 1.0])
def test_epsilon_rises_with_steps_and_falls_with_noise(sampling_prob: float) -> None:
    m = mechanism(num_persons=1000, sampling_prob=sampling_prob)
    by_steps = [epsilon_of(m.dp_event(n), 1e-5) for n in (0, 1, 5, 25)]
    by_noise = [
        epsilon_of(replace(m, noise_multiplier=s, iterations=5).dp_event(), 1e-5)
        for s in (0.8, 1.5, 3.0)
    ]
    assert by_steps[0] == 0
    assert (np.diff(by_steps) > 0).all()
    assert (np.diff(by_noise) < 0).all()


def test_epsilon_of_one_gaussian_is_the_known_value() -> None:
    # analytic Gaussian mechanism (Balle and Wang 2018): sigma 3.7304 for (1, 1e-5)
    m = mechanism(num_persons=1000, noise_multiplier=3.7304)
    assert epsilon_of(m.dp_event(), 1e-5) == pytest.approx(1.0, abs=2e-3)


def test_calibration_meets_the_budget_and_keeps_the_ratios() -> None:
    stages = [
        mechanism(stage="a", num_persons=1000, noise_multiplier=3.0),
        mechanism(stage="b", num_persons=1000, noise_multiplier=1.0, sampling_prob=0.1,
                  iterations=50),
    ]  # fmt: skip
    for target in (0.3, 4.0):
        made = calibrate(stages, epsilon=target, delta=1e-5)
        assert 0.985 * target <= epsilon_of(compose(made), 1e-5) <= target
        assert made[0].noise_multiplier == pytest.approx(3 * made[1].noise_multiplier)


@pytest.mark.parametrize(
    ("epsilon", "delta", "match"),
    [
        (0.0, 1e-5, r"epsilon=0\.0 must be > 0"),
        (-1.0, 1e-5, "epsilon=-1"),
        (float("nan"), 1e-5, "epsilon=nan"),
        (float("inf"), 1e-5, "epsilon=inf"),
        (1.0, 0.0, r"delta=0\.0 must be > 0"),
        (1.0, 1 / 40, "below 1/40"),
        (1.0, float("nan"), "delta=nan"),
    ],
)
def test_a_budget_that_promises_nothing_is_refused(
    epsilon: float, delta: float, match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        calibrate([mechanism()], epsilon=epsilon, delta=delta)


@pytest.mark.parametrize(
    "bad",
    [
        {"l2_clip_norm": 0.0}, {"l2_clip_norm": float("inf")}, {"noise_multiplier": 0.0},
        {"noise_multiplier": float("nan")}, {"sampling_prob": 0.0}, {"sampling_prob": 1.1},
        {"iterations": 0}, {"num_persons": 0}, {"pictures_per_person": 0},
    ],
)  # fmt: skip
def test_a_mechanism_that_protects_nobody_is_refused(bad: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        mechanism(**bad)


def test_mechanism_is_frozen_and_its_fingerprint_sees_every_field() -> None:
    m = mechanism()
    with pytest.raises(FrozenInstanceError):
        m.noise_multiplier = 0.1  # type: ignore[misc]
    other = {"stage": "x", "num_persons": 41, "l2_clip_norm": 0.6, "noise_multiplier": 2.1,
             "sampling_prob": 0.5, "iterations": 2, "pictures_per_person": 2,
             "unit": "camera"}  # fmt: skip
    marks = {mechanism(**{k: v}).fingerprint for k, v in other.items()} | {m.fingerprint}
    assert len(marks) == len(asdict(m)) + 1


def test_a_permit_is_good_once_and_for_its_stage_only() -> None:
    m, private = mechanism(), people(np.zeros((40, 2), np.float32))
    release = Release(m, lambda s, p, k: p["x"][0])
    permit = Permit(m)
    release((), next(m.batches(private)), permit)
    with pytest.raises(PrivacyError, match="used twice"):
        release((), next(m.batches(private)), permit)
    with pytest.raises(PrivacyError, match="is for stage"):
        release((), next(m.batches(private)), Permit(mechanism(stage="other")))


def test_a_set_of_another_size_is_refused() -> None:
    with pytest.raises(PrivacyError, match="accounted for 40 people and the set has 2"):
        next(mechanism().batches(people(np.zeros((2, 1)))))


def test_random_keys_of_people_differ_and_keep_off_the_noise(tmp_path: Path) -> None:
    m = mechanism(noise_multiplier=1e-6, l2_clip_norm=1e3)
    draw = lambda s, p, k: jax.random.normal(k, (1,)) ** 2  # noqa: E731
    (batch,) = m.batches(people(np.zeros((40, 1), np.float32)))
    value = float(Release(m, draw)((), batch, Permit(m), key=jax.random.key(3))[0])
    again = float(Release(m, draw)((), batch, Permit(m), key=jax.random.key(3))[0])
    assert 10 < value < 100  # 40 equal draws would be one square times 40, rarely in a narrow band
    assert value != again  # same data, same loss randomness, other noise
    assert abs(value - again) < 0.1
    assert json.dumps(asdict(m)).find("key") < 0
    assert secrets.token_bytes(8) != secrets.token_bytes(8)
