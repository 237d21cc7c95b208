"""Attacks on identity: who is it, and are these two the same? Scores from vectors, no pixels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from veilcam.camera.audit_learn import Learned, code_input, cosine, seen_of
from veilcam.camera.audit_shots import ORIGINAL, Shot
from veilcam.camera.audit_stats import (
    Estimate,
    auc,
    bootstrap,
    far_threshold,
    impostor_scores,
    share_of_hits,
    true_ranks,
)

CODE, PLANTED_CODE = "code", "planted code"


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Scores of probes against a gallery.

    Attributes:
        scores: Similarity of each probe to each gallery entry.
        truth: Index of the entry of the probe's own person.
        people: Person of each probe.
    """

    scores: Float[np.ndarray, "p g"]
    truth: Int[np.ndarray, " p"]
    people: np.ndarray

    @property
    def genuine(self) -> Float[np.ndarray, " p"]:
        """Scores of probes against their own person."""
        return np.asarray(self.scores[np.arange(len(self.scores)), self.truth], float)

    @property
    def impostors(self) -> Float[np.ndarray, " n"]:
        """Scores of probes against all others."""
        return impostor_scores(self.scores, self.truth)

    @property
    def chance(self) -> float:
        """Rank-1 of a blind guess."""
        return 1.0 / int(self.scores.shape[1])

    def with_others(self) -> "Trial":
        """Negative control: each probe is said to be somebody else; must come out at chance."""
        size = self.scores.shape[1]
        shift = np.random.default_rng(0).integers(1, max(size, 2), len(self.truth))
        return Trial(self.scores, (self.truth + shift) % size, self.people)


def build_trial(
    shots: list[Shot], view: str, recognizer: str, *, gallery: str,
    learned: Learned | None = None, gallery_view: str = ORIGINAL,
) -> Trial:  # fmt: skip
    """Probes of a view against a gallery with one picture a person.

    Args:
        shots: The attacked people.
        view: What the attacker holds.
        recognizer: Whose vectors are compared.
        gallery: `same`: the gallery holds the very picture that was protected; `other`: it holds
            another picture of the person (only people with two are probed), which is what
            identity means.
        learned: What an attacker learned to do with both sides before comparing; then he sees a
            coarse picture beside the vector, or the code where the view is `code`.
        gallery_view: View in the gallery; originals, except for linkage.
    """
    first = [s for s in shots if s.number == 0]
    place = {s.person: i for i, s in enumerate(first)}
    number = 0 if gallery == "same" else 1
    probes = [s for s in shots if s.number == number and s.person in place]
    if learned is not None and view in (CODE, PLANTED_CODE):
        probes = [s for s in probes if s.code is not None]
    entries = np.stack([s.vectors[gallery_view, recognizer] for s in first])
    scores = np.zeros((0, len(entries)))
    if probes and learned is not None:
        scores = cosine(learned.seen(_seen(probes, view, recognizer)), learned.gallery(entries))
    elif probes:
        scores = cosine(np.stack([s.vectors[view, recognizer] for s in probes]), entries)
    truth = np.array([place[s.person] for s in probes], int)
    return Trial(scores, truth, np.array([s.person for s in probes]))


def _seen(shots: list[Shot], view: str, recognizer: str) -> Float[np.ndarray, "n d"]:
    if view in (CODE, PLANTED_CODE):
        return np.stack([code_input(s, is_planted=view == PLANTED_CODE) for s in shots])
    return seen_of(shots, view, recognizer)


def reid_figures(trial: Trial, *, raw_limits: dict[str, float]) -> dict[str, Estimate]:
    """Rank-1, rank-10 and TPR at FAR 1e-2 and 1e-3.

    `raw_limits` are thresholds of the recognizer on unprotected pairs (the usual protocol);
    `_recalibrated` takes the threshold from the attack's own impostors, which is stronger.
    """
    if not len(trial.truth):
        return {}
    ranks = true_ranks(trial.scores, trial.truth)
    genuine, impostors = trial.genuine, trial.impostors
    hits = {"rank1": ranks < 1.5, "rank10": ranks <= 10}
    for name, limit in raw_limits.items():
        hits[f"tpr_at_far_{name}"] = genuine >= limit
    for far, name in ((1e-2, "1e-2"), (1e-3, "1e-3")):
        if len(impostors) >= 1 / far:
            hits[f"tpr_at_far_{name}_recalibrated"] = genuine > far_threshold(impostors, far)
    return {name: share_of_hits(hit, trial.people) for name, hit in hits.items()}


def chance_of(metric: str, trial: Trial) -> float:
    """What a blind attack gets."""
    if metric.startswith("rank"):
        return float(min(int(metric.removeprefix("rank")) / trial.scores.shape[1], 1.0))
    return float(metric.split("_")[3])


def raw_limits(shots: list[Shot], recognizer: str) -> dict[str, float]:
    """The recognizer's thresholds at FAR 1e-2 and 1e-3 on unprotected pictures of two people."""
    first = [s.vectors[ORIGINAL, recognizer] for s in shots if s.number == 0]
    vectors = np.stack(first)
    pairs = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    return {"1e-2": far_threshold(pairs, 1e-2), "1e-3": far_threshold(pairs, 1e-3)}


def linkage_auc(trial: Trial) -> Estimate:
    """AUC of "the same person or not" over pairs, persons resampled."""

    def statistic(pick: np.ndarray) -> float:
        genuine = trial.genuine[pick]
        others = np.concatenate([np.delete(trial.scores[i], trial.truth[i]) for i in pick])
        return auc(genuine, others)

    return bootstrap(statistic, len(trial.truth), resamples=200)
