"""Membership inference: do the weights know the pictures they were trained on?"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from veilcam.camera.audit_stats import Estimate, auc

Sampler = Callable[[int], Float[np.ndarray, "n d"]]
THUMB_PX = 24
_RESAMPLES = 300


def membership_inference(
    sampler: Sampler, members: Float[np.ndarray, "m d"], non_members: Float[np.ndarray, "n d"], *,
    reference: Float[np.ndarray, "r d"], num_samples: int = 2000,
) -> dict[str, Estimate | float]:  # fmt: skip
    """AUC of telling members from non-members by how near the generator comes to a picture.

    The score is the distance to the nearest sample, less the distance to the nearest picture of a
    reference (a model or pictures that saw neither group): a plain picture is near everything,
    and only being nearer than the reference explains tells of membership.

    Args:
        sampler: Draws n pictures of the generator, as rows comparable with the others.
        members: Pictures that were trained on.
        non_members: Pictures from the same origin that were not; another origin would be told
            apart by its look, which is no membership.
        reference: Samples of a reference model, or pictures in neither group.
        num_samples: How many to draw.

    Returns:
        `auc` with its interval, `control_positive` (a sampler that hands out noisy members must
        be caught), `control_negative` (non-members against non-members).

    Source: Chen, Yu, Zhang, Fritz: GAN-Leaks, CCS 2020, sections 4.2 and 5 (calibration);
    Carlini et al.: Membership inference attacks from first principles, 2022.
    """
    samples = sampler(num_samples)
    score_in = _calibrated(members, samples, reference)
    score_out = _calibrated(non_members, samples, reference)
    random = np.random.default_rng(0)
    leaky = members + 0.1 * members.std() * random.standard_normal(members.shape)
    half = len(score_out) // 2
    return {
        "auc": _auc_estimate(score_in, score_out),
        "control_positive": auc(
            _calibrated(members, leaky, reference), _calibrated(non_members, leaky, reference)
        ),
        "control_negative": auc(score_out[:half], score_out[half:]),
    }


def membership_row(result: dict[str, Any]) -> dict[str, Any]:
    """The audit's row of it."""
    estimate: Estimate = result["auc"]
    return {
        "name": "membership_nearest_sample",
        "recognizer": "pixels",
        "metric": "mia_auc",
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "control_positive": result["control_positive"],
        "control_negative": result["control_negative"],
        "chance": 0.5,
        "n": estimate.num_persons,
    }


def as_row(bgr: np.ndarray) -> Float[np.ndarray, " d"]:
    """A face crop as a small picture without its mean and contrast."""
    small = cv2.resize(bgr, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA).astype(float)
    small -= small.mean()
    return np.asarray((small / max(float(small.std()), 1e-6)).reshape(-1))


def _calibrated(rows: np.ndarray, samples: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return np.asarray(_nearest(rows, reference) - _nearest(rows, samples))


def _nearest(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each row to the nearest other."""
    square = np.square(rows).sum(1)[:, None] + np.square(others).sum(1)[None]
    return np.asarray(np.sqrt(np.maximum(square - 2 * rows @ others.T, 0).min(1)))


def _auc_estimate(inside: np.ndarray, outside: np.ndarray) -> Estimate:
    random = np.random.default_rng(0)
    draws = [
        auc(random.choice(inside, len(inside)), random.choice(outside, len(outside)))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    num = len(inside) + len(outside)
    return Estimate(value=auc(inside, outside), low=float(low), high=float(high), num_persons=num)
