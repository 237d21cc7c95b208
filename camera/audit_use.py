"""Utility: what a protected picture is still good for. Rows for ours and for each peer."""

from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from veilcam.camera.audit_protect import PEERS
from veilcam.camera.audit_shots import COPY, ORIGINAL, OURS, Shot
from veilcam.camera.audit_stats import Estimate, bootstrap, share_of_hits

POSES = ("yaw", "pitch", "roll")
EXPRESSIONS = ("mouth_open", "mouth_wide", "smile", "brow", "eyelids")
_MIN_SHOTS = 8
_MAX_KID = 500


def utility_rows(shots: list[Shot]) -> list[dict[str, Any]]:
    """Detection recall, landmark error, pose, expression, KID and person counts of each view."""
    rows = []
    for view in (COPY, OURS, *PEERS):
        people = np.array([s.person for s in shots])
        found = np.array([view in s.look for s in shots])
        counts = np.array([s.num_faces.get(view) == s.num_faces.get(ORIGINAL) for s in shots])
        rows.append(row("detection_recall", view, share_of_hits(found, people), best=1.0))
        rows.append(row("person_count_agrees", view, share_of_hits(counts, people), best=1.0))
        both = [s for s in shots if view in s.look and ORIGINAL in s.look]
        if len(both) >= _MIN_SHOTS:
            rows += _look_rows(both, view)
        if kid := _kid_row(shots, view):
            rows.append(kid)
    return rows


def variety_row(shots: list[Shot], recognizer: str, limit: float) -> dict[str, Any] | None:
    """Share of pairs of stand-ins of different people that the recognizer tells apart."""
    vectors = [s.vectors[OURS, recognizer] for s in shots if s.number == 0]
    if len(vectors) < _MIN_SHOTS:
        return None
    alike = np.stack(vectors) @ np.stack(vectors).T >= limit
    np.fill_diagonal(alike, False)

    def statistic(pick: np.ndarray) -> float:
        chosen = alike[np.ix_(pick, pick)]
        return float(1 - chosen.sum() / max(chosen.size - len(pick), 1))

    estimate = bootstrap(statistic, len(vectors), resamples=100)
    return row(f"standins_told_apart_{recognizer}", OURS, estimate, best=1.0)


def row(
    metric: str, view: str, estimate: Estimate, *, best: float, unit: str = ""
) -> dict[str, Any]:
    """One utility row of the report."""
    return {
        "metric": metric,
        "protection": view,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "best": best,
        "unit": unit,
        "n": estimate.num_persons,
    }


def _look_rows(shots: list[Shot], view: str) -> list[dict[str, Any]]:
    errors = np.array([s.look[view]["landmark_error"] for s in shots])
    rows = [_mean_row("landmark_error", view, errors, "eye distances")]
    for name in POSES:
        a, b = _columns(shots, view, name)
        rows.append(_mean_row(f"{name}_error", view, np.abs(a - b), "degrees"))
    for name in EXPRESSIONS:
        a, b = _columns(shots, view, name)
        estimate = bootstrap(partial(_picked_correlation, a, b), len(a))
        rows.append(row(f"{name}_correlation", view, estimate, best=1.0))
    return rows


def _columns(shots: list[Shot], view: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([s.look[ORIGINAL][name] for s in shots]),
        np.array([s.look[view][name] for s in shots]),
    )


def _mean_row(metric: str, view: str, values: np.ndarray, unit: str) -> dict[str, Any]:
    estimate = bootstrap(lambda pick: float(values[pick].mean()), len(values))
    return row(metric, view, estimate, best=0.0, unit=unit)


def _picked_correlation(a: np.ndarray, b: np.ndarray, pick: np.ndarray) -> float:
    return _correlation(a[pick], b[pick])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 1e-9 else 0.0


def _kid_row(shots: list[Shot], view: str) -> dict[str, Any] | None:
    """KID between protected pictures and originals of other people: no picture meets its own."""
    shots = [s for s in shots if ORIGINAL in s.features and view in s.features and s.number == 0]
    if len(shots) < 2 * _MIN_SHOTS:
        return None
    shots = [shots[i] for i in np.random.default_rng(0).permutation(len(shots))[:_MAX_KID]]
    ours = np.stack([s.features[view] for s in shots[::2]])
    real = np.stack([s.features[ORIGINAL] for s in shots[1::2]])
    size = min(len(ours), len(real))
    ours, real = ours[:size], real[:size]
    estimate = bootstrap(lambda pick: kid(ours[pick], real[pick]), size, resamples=50)
    # drawing a row twice biases an unbiased kernel estimate upward: centre the interval instead
    shift = estimate.value - (estimate.low + estimate.high) / 2
    low, high = estimate.low + shift, estimate.high + shift
    return row("kid", view, Estimate(value=estimate.value, low=low, high=high, num_persons=size),
               best=0.0)  # fmt: skip


def kid(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """Kernel inception distance with the polynomial kernel of degree 3, unbiased.

    Features are ImageNet MobileNet's, not Inception's: figures compare only with their own kind.

    Source: Binkowski et al.: Demystifying MMD GANs, 2018, section 4.
    """
    ka, kb, kab = (x @ y.T / a.shape[1] + 1 for x, y in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    within = (np.sum(ka**3) - np.trace(ka**3)) / (n * (n - 1))
    within += (np.sum(kb**3) - np.trace(kb**3)) / (m * (m - 1))
    return float(within - 2 * np.mean(kab**3))
