"""What a code tells of a person's lasting traits, against what its local-DP budget allows."""

import math
from typing import Any

import numpy as np

from veilcam.camera.audit_learn import fit_ridge
from veilcam.camera.audit_shots import ORIGINAL, Shot
from veilcam.camera.audit_stats import Estimate, bootstrap

TRAITS = ("sex", "age", "skin")
_MIN_PEOPLE = 24
_DEALS = 40


def local_dp_bound(epsilon: float) -> float:
    """Best accuracy at guessing one of two equally likely values released with that epsilon.

    Source: Warner 1965, randomized response; Kairouz, Oh, Viswanath 2014, theorem 5.

    >>> local_dp_bound(0.0)
    0.5
    """
    return 1.0 / (1.0 + math.exp(-epsilon))


def trait_rows(attacked: list[Shot], others: list[Shot]) -> list[dict[str, Any]]:
    """Balanced accuracy of guessing each trait (as FaceRes sees it) from the code.

    Positive control: the same guess from the original's vector must succeed. Negative control:
    the same guess where traits are dealt anew among the attackers' people must fail.
    """
    known = [s for s in others if s.code is not None and s.traits]
    held = [s for s in attacked if s.code is not None and s.traits and s.number == 0]
    if min(len(known), len(held)) < _MIN_PEOPLE:
        return []
    rows = []
    for trait in TRAITS:
        values = np.array([s.traits[trait] for s in known])
        limit = 0.5 if trait == "sex" else float(np.median(values))
        labels = np.where(values > limit, 1.0, -1.0)
        truth = np.array([s.traits[trait] for s in held]) > limit
        if min(truth.sum(), (~truth).sum()) < 5 or abs(labels.mean()) > 0.9:
            continue
        codes = [np.stack([_code(s) for s in group]) for group in (known, held)]
        faces = [np.stack([_original(s) for s in group]) for group in (known, held)]
        estimate = _accuracy(codes[0], labels, codes[1], truth)
        rows.append(
            {
                "name": f"trait_{trait}_from_code",
                "recognizer": "code",
                "metric": "balanced_accuracy",
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "control_positive": _accuracy(faces[0], labels, faces[1], truth).value,
                "control_negative": _dealt_anew(codes[0], labels, codes[1], truth),
                "chance": 0.5,
                "n": estimate.num_persons,
            }
        )
    return rows


def _code(shot: Shot) -> np.ndarray:
    assert shot.code is not None
    return np.concatenate([shot.code, shot.code**2])


def _original(shot: Shot) -> np.ndarray:
    rows = [v for (view, _), v in shot.vectors.items() if view == ORIGINAL]
    return np.concatenate([r / max(float(np.linalg.norm(r)), 1e-9) for r in rows])


def _dealt_anew(x: np.ndarray, labels: np.ndarray, held: np.ndarray, truth: np.ndarray) -> float:
    """Mean accuracy over several random deals: one alone leans to either side of chance."""
    random = np.random.default_rng(0)
    deals = [random.permutation(labels) for _ in range(_DEALS)]
    return float(np.mean([_accuracy(x, deal, held, truth, 2).value for deal in deals]))


def _accuracy(
    x: np.ndarray, labels: np.ndarray, held: np.ndarray, truth: np.ndarray, resamples: int = 300
) -> Estimate:
    weight = np.where(labels > 0, 1 / (labels > 0).mean(), 1 / (labels < 0).mean())
    target = (labels * np.sqrt(weight / weight.mean()))[:, None]
    guess = fit_ridge(x, np.concatenate([target, 0 * target], axis=1))(held)[:, 0]
    is_right = (guess > 0) == truth

    def balanced(pick: np.ndarray) -> float:
        t, r = truth[pick], is_right[pick]
        if t.all() or not t.any():
            return float(r.mean())
        return float((r[t].mean() + r[~t].mean()) / 2)

    return bootstrap(balanced, len(truth), resamples=resamples)
