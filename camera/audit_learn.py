"""Attackers that learn on protected pictures of other people: the linear one, and seams for nets.

Both map what the attacker sees to the vector of the original. What he sees is a recognizer's
vector of the protected picture and a coarse picture of it; or the code. The target is the
original's vector in the space in which people differ most.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from veilcam.camera.audit_shots import ORIGINAL, PIXELS, Shot
from veilcam.camera.audit_stats import true_ranks

Mapping = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n k"]]
RIDGES = (1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
_FOLDS = 5
_MAX_DIM = 128


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The space in which a guess meets the gallery.

    Attributes:
        mean: Of known people's vectors.
        axes: Principal axes, scaled so that large ones count less (square root of whitening).
    """

    mean: Float[np.ndarray, " d"]
    axes: Float[np.ndarray, "d k"]

    @classmethod
    def of(cls, known: Float[np.ndarray, "n d"]) -> "Target":
        """The space of known people's vectors."""
        mean = known.mean(0)
        _, singular, rows = np.linalg.svd(known - mean, full_matrices=False)
        size = max(min(_MAX_DIM, len(known) // 3, int((singular > 1e-6).sum())), 1)
        scale = (singular[:size] / np.sqrt(len(known)) + 1e-6) ** -0.5
        return cls(mean, rows[:size].T * scale)

    def __call__(self, vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Vectors in this space, rows of length 1."""
        rows = (vectors - self.mean) @ self.axes
        return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """A taught attack: what to do to what is seen, and to the gallery."""

    seen: Mapping
    gallery: Mapping


def seen_of(shots: list[Shot], view: str, recognizer: str) -> Float[np.ndarray, "n d"]:
    """What a learning attacker sees of a view: vector and coarse picture, one row a shot."""
    vectors = np.stack([s.vectors[view, recognizer] for s in shots])
    pixels = np.stack([s.vectors[view, PIXELS] for s in shots])
    return np.concatenate([vectors, pixels], axis=1)


def blocks_of(recognizer_dim: int, total: int) -> tuple[slice, ...]:
    """Columns that belong together: each block weighs the same, however long it is."""
    return (slice(0, recognizer_dim), slice(recognizer_dim, total))


def learn_linear(
    seen: Float[np.ndarray, "n d"], known: Float[np.ndarray, "n e"], blocks: tuple[slice, ...],
    target: Target,
) -> Learned:  # fmt: skip
    """Ridge regression from what is seen to the original's place among people."""
    return Learned(fit_ridge(seen, target(known), blocks), target)


def learn_net(
    train: Callable[..., tuple[Mapping, Mapping, int]], seen: Float[np.ndarray, "n d"],
    known: Float[np.ndarray, "n e"], blocks: tuple[slice, ...], linear: Learned,
) -> Learned:  # fmt: skip
    """A net that starts from the linear attacker and goes on where it errs.

    On people it was fitted to the linear attacker is too good to learn from, so each fifth of
    them is guessed by one fitted to the rest.
    """
    goal = linear.gallery(known)
    honest = np.zeros_like(goal)
    fold = np.arange(len(seen)) % _FOLDS
    for number in range(_FOLDS):
        rest = fold != number
        honest[~rest] = fit_ridge(seen[rest], goal[rest], blocks)(seen[~rest])
    probe, gallery, _ = train(_rows(honest), goal)
    return Learned(lambda rows: probe(_rows(linear.seen(rows))),
                   lambda rows: gallery(linear.gallery(rows)))  # fmt: skip


def fit_ridge(
    inputs: Float[np.ndarray, "n d"], targets: Float[np.ndarray, "n k"],
    blocks: tuple[slice, ...] = (slice(None),),
) -> Mapping:  # fmt: skip
    """Linear map; the ridge is chosen by ranks among the last fifth of the rows, then all count."""
    mean, goal = inputs.mean(0), targets.mean(0)
    spread = inputs.std(0) + 1e-6
    for block in blocks:
        size = inputs[:, block].shape[1]
        spread[block] *= np.sqrt(max(size, 1))
    x, y = (inputs - mean) / spread, targets - goal
    cut = max(int(0.8 * len(x)), 1)
    best, best_rank = RIDGES[-1], np.inf
    for ridge in RIDGES:
        guess = x[cut:] @ _solve(x[:cut], y[:cut], 0.01 * ridge)
        if not len(guess):
            break
        scores = cosine(guess, y[cut:])
        rank = float(np.log(true_ranks(scores, np.arange(len(guess)))).mean())
        if rank < best_rank:
            best, best_rank = ridge, rank
    weights = _solve(x, y, 0.01 * best)
    return lambda rows: np.asarray((rows - mean) / spread @ weights)


def learn_code(
    others: list[Shot], recognizer: str, target: Target, *, is_planted: bool
) -> Learned | None:
    """From the code alone to the original; None where too few people have one."""
    known = [s for s in others if s.code is not None]
    if len(known) < 20:
        return None
    seen = np.stack([code_input(s, is_planted=is_planted) for s in known])
    size = len(code_input(known[0], is_planted=False))
    vectors = np.stack([s.vectors[ORIGINAL, recognizer] for s in known])
    return learn_linear(seen, vectors, (slice(0, size), slice(size, None)), target)


def code_input(shot: Shot, *, is_planted: bool) -> Float[np.ndarray, " c"]:
    """The code and its squares (a head turned either way is turned), and a planted thumbnail."""
    assert shot.code is not None
    assert shot.planted is not None
    squares = np.concatenate([shot.code, shot.code**2])
    thumb = (shot.planted - shot.planted.mean()) / max(float(shot.planted.std()), 1e-3)
    return np.concatenate([squares, thumb]) if is_planted else squares


def cosine(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """Cosine of every row of a with every row of b."""
    return np.asarray(_rows(a) @ _rows(b).T)


def _rows(a: np.ndarray) -> np.ndarray:
    return np.asarray(a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-9))


def _solve(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """Ridge weights; by the smaller of the two normal equations."""
    if x.shape[0] < x.shape[1]:
        gram = x @ x.T + ridge * len(x) * np.eye(len(x))
        return np.asarray(x.T @ np.linalg.solve(gram, y))
    gram = x.T @ x + ridge * len(x) * np.eye(x.shape[1])
    return np.asarray(np.linalg.solve(gram, x.T @ y))
