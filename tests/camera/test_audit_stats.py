import numpy as np
import pytest

from veilcam.camera.audit_stats import (
    auc,
    binomial_tail,
    bootstrap,
    far_threshold,
    impostor_scores,
    roc,
    share_of_hits,
    true_ranks,
    upper_bound_of_zero,
)


@pytest.mark.parametrize(("num", "bound"), [(1, 0.95), (59, 0.0495), (300, 0.00994)])
def test_no_hit_of_n_gives_the_exact_one_sided_bound(num: int, bound: float) -> None:
    assert upper_bound_of_zero(num) == pytest.approx(bound, rel=0.01)
    estimate = share_of_hits(np.zeros(num, bool), np.arange(num))
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert estimate.high == pytest.approx(bound, rel=0.01)


def test_all_hits_never_claim_certainty() -> None:
    estimate = share_of_hits(np.ones(100, bool), np.arange(100))
    assert estimate.value == 1.0
    assert estimate.low < 0.98


def test_no_probe_says_nothing() -> None:
    estimate = share_of_hits(np.zeros(0, bool), np.zeros(0))
    assert (estimate.low, estimate.high, estimate.num_persons) == (0.0, 1.0, 0)


def test_persons_not_pictures_carry_the_interval() -> None:
    hits = np.repeat(np.array([True, False] * 10), 50)
    people = np.repeat(np.arange(20), 50)
    by_person = share_of_hits(hits, people)
    by_picture = share_of_hits(hits, np.arange(len(hits)))
    assert by_person.high - by_person.low > 4 * (by_picture.high - by_picture.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        hits = random.random(150) < 0.3
        estimate = share_of_hits(hits, np.arange(150), seed=seed)
        covered += estimate.low <= 0.3 <= estimate.high
    assert 178 <= covered <= 199


def test_equal_scores_are_no_first_rank() -> None:
    ranks = true_ranks(np.zeros((3, 9)), np.array([0, 4, 8]))
    assert ranks.tolist() == [5.0, 5.0, 5.0]


def test_ranks_count_what_scores_better() -> None:
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4]])
    assert true_ranks(scores, np.array([0, 0])).tolist() == [1.0, 3.0]


def test_threshold_keeps_the_false_accept_rate() -> None:
    impostors = np.random.default_rng(0).standard_normal(20_000)
    limit = far_threshold(impostors, 1e-3)
    assert (impostors > limit).mean() <= 1e-3


def test_impostors_are_all_but_the_own_entry() -> None:
    scores = np.arange(6.0).reshape(2, 3)
    assert impostor_scores(scores, np.array([1, 2])).tolist() == [0.0, 2.0, 3.0, 4.0]


def test_roc_rises_from_nothing_to_all() -> None:
    random = np.random.default_rng(0)
    far, tpr = roc(random.standard_normal(500) + 2, random.standard_normal(5000))
    assert far[0] == pytest.approx(1e-4)
    assert (np.diff(tpr) >= 0).all()
    assert tpr[-1] == 1.0


def test_auc_of_noise_is_a_half_and_of_order_is_one() -> None:
    random = np.random.default_rng(0)
    assert auc(random.random(3000), random.random(3000)) == pytest.approx(0.5, abs=0.03)
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert auc(np.zeros(4), np.zeros(5)) == 0.5


@pytest.mark.parametrize(
    ("hits", "trials", "rate", "tail"),
    [(0, 10, 0.1, 1.0), (10, 10, 0.1, 1e-10), (5, 100, 0.01, 0.003432), (1, 10, 0.0, 0.0)],
)
def test_tail_is_the_binomials(hits: int, trials: int, rate: float, tail: float) -> None:
    assert binomial_tail(hits, trials, rate) == pytest.approx(tail, rel=0.01, abs=1e-9)


def test_bootstrap_brackets_its_statistic() -> None:
    values = np.random.default_rng(0).standard_normal(200)
    estimate = bootstrap(lambda pick: float(values[pick].mean()), 200)
    assert estimate.low < estimate.value < estimate.high
