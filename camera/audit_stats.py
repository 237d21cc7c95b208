"""Figures of an attack with their uncertainty: rank-k, TPR at FAR, AUC, bootstrap over persons."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

RESAMPLES = 1000
_ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        value: What was measured.
        low, high: 2.5 and 97.5 % of the bootstrap; where nothing was hit, `high` is the one-sided
            95 % upper bound for the number of persons.
        num_persons: Persons it rests on.
    """

    value: float
    low: float
    high: float
    num_persons: int


def upper_bound_of_zero(num_persons: int) -> float:
    """Rate that 0 hits of n persons exclude with 95 % confidence (one-sided, exact binomial).

    >>> round(upper_bound_of_zero(100), 4)
    0.0295
    """
    return float(1.0 - _ALPHA ** (1.0 / max(num_persons, 1)))


def share_of_hits(hits: Bool[np.ndarray, " n"], people: np.ndarray, *, seed: int = 0) -> Estimate:
    """Share of hits, resampled over persons (all probes of a person go together).

    The seed fixes the resampling of an audit, which is no noise of any mechanism.
    """
    groups = _by_person(hits.astype(float), people)
    num = len(groups)
    if num == 0:
        return Estimate(value=0.0, low=0.0, high=1.0, num_persons=0)
    sums = np.array([g.sum() for g in groups])
    sizes = np.array([g.size for g in groups], float)
    value = float(sums.sum() / sizes.sum())
    if value == 0.0:
        return Estimate(value=0.0, low=0.0, high=upper_bound_of_zero(num), num_persons=num)
    if value == 1.0:
        return Estimate(value=1.0, low=1 - upper_bound_of_zero(num), high=1.0, num_persons=num)
    picks = np.random.default_rng(seed).integers(0, num, (RESAMPLES, num))
    shares = sums[picks].sum(1) / sizes[picks].sum(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return Estimate(value=value, low=float(low), high=float(high), num_persons=num)


def bootstrap(
    statistic: Callable[[Int[np.ndarray, " n"]], float], num_persons: int, *,
    resamples: int = 300, seed: int = 0,
) -> Estimate:  # fmt: skip
    """Interval of a statistic of resampled person indices."""
    random = np.random.default_rng(seed)
    value = float(statistic(np.arange(num_persons)))
    draws = [statistic(random.integers(0, num_persons, num_persons)) for _ in range(resamples)]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Estimate(value=value, low=float(low), high=float(high), num_persons=num_persons)


def _by_person(values: Float[np.ndarray, " n"], people: np.ndarray) -> list[np.ndarray]:
    return [values[people == person] for person in np.unique(people)]


def true_ranks(
    scores: Float[np.ndarray, "p g"], truth: Int[np.ndarray, " p"]
) -> Float[np.ndarray, " p"]:
    """Rank (1 is best) of each probe's true gallery entry; ties count half.

    A blind attack that scores all alike so gets the middle rank, never the first.
    """
    own = scores[np.arange(len(scores)), truth][:, None]
    better, alike = (scores > own).sum(1), (scores == own).sum(1) - 1
    return np.asarray(1.0 + better + alike / 2.0)


def far_threshold(impostors: Float[np.ndarray, " n"], far: float) -> float:
    """Score that only a share `far` of impostor pairs reaches; needs 1 / far of them to mean it."""
    return float(np.quantile(impostors, 1 - far, method="higher"))


def impostor_scores(
    scores: Float[np.ndarray, "p g"], truth: Int[np.ndarray, " p"]
) -> Float[np.ndarray, " n"]:
    """Scores of every probe against all the others of the gallery."""
    mask = np.ones(scores.shape, bool)
    mask[np.arange(len(scores)), truth] = False
    return np.asarray(scores[mask], float)


def roc(
    genuine: Float[np.ndarray, " n"], impostors: Float[np.ndarray, " m"], num_points: int = 60
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """FAR (log-spaced from 1e-4) and TPR."""
    far = np.logspace(-4, 0, num_points)
    limits = np.quantile(impostors, 1 - far)
    return far, np.array([(genuine >= limit).mean() for limit in limits])


def auc(positive: Float[np.ndarray, " n"], negative: Float[np.ndarray, " m"]) -> float:
    """Chance that a positive scores above a negative; ties count half.

    >>> auc(np.array([1.0, 2.0]), np.array([0.0, 1.0]))
    0.875
    """
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    upto = np.searchsorted(ordered, positive, side="right")
    return float((below + upto).mean() / 2 / max(len(negative), 1))


def binomial_tail(hits: int, trials: int, rate: float) -> float:
    """Chance of at least so many hits by blind guessing.

    >>> round(binomial_tail(1, 10, 0.1), 4)
    0.6513
    """
    if hits <= 0 or rate >= 1:
        return 1.0
    if rate <= 0:
        return 0.0
    # the upper tail itself: 1 - lower loses everything below 1e-15
    return min(
        sum(
            math.exp(
                math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
                + k * math.log(rate) + (trials - k) * math.log1p(-rate)
            )
            for k in range(hits, trials + 1)
        ),
        1.0,
    )  # fmt: skip
