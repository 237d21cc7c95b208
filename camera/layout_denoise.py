"""Answers of the randomized response -> likely colours of cells, by what is known of public scenes.

Neighbouring cells of a scene are alike, lies of the response are not. Belief propagation on the
grid of cells weighs each answer against those around it. It sees answers only, so it can tell
nothing more than they do (post-processing). Source: Pearl 1988, Probabilistic reasoning in
intelligent systems, section 4.2; loopy: Murphy, Weiss, Jordan 1999.
"""

from functools import lru_cache
from importlib.resources import files

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from veilcam.camera.layout_plan import MIDDLES, NUM_LEVELS, layout_plan, truth_probability
from veilcam.camera.strength import CHOICES, Strength

ASSET = "layout_prior.npz"
# Rounds of messages, and the power of the pairs' odds: around loops the same evidence arrives more
# than once. Chosen by the error of lightness over 240 public views (docs/frame.md).
_ROUNDS = {Strength.STRICT: 8, Strength.BALANCED: 6, Strength.FAITHFUL: 3}
_POWER = {Strength.STRICT: 0.8, Strength.BALANCED: 0.6, Strength.FAITHFUL: 0.6}
Pairs = Float32[np.ndarray, "2 k k"]  # odds of (left, right) and (above, below)


@lru_cache
def _pairs(known: Strength) -> tuple[tuple[Pairs, Float32[np.ndarray, " k"]], ...]:
    """For each channel: odds of neighbours' levels against independence, and how common levels are.

    The counts were made by `python -m veilcam.model.layout_prior`.
    """
    with (files("veilcam.camera") / "assets" / ASSET).open("rb") as stream, np.load(stream) as file:
        counts = file[known.value].astype(np.float32)
    out = []
    for channel, num_levels in enumerate(NUM_LEVELS):
        joint = counts[:, channel, :num_levels, :num_levels] + 2
        joint = joint / joint.sum((1, 2), keepdims=True)
        alone = joint.sum(2, keepdims=True) * joint.sum(1, keepdims=True)
        out.append(((joint / alone) ** np.float32(_POWER[known]), joint[0].sum(1)))
    return tuple(out)


def likely_ycrcb(
    cells: UInt8[np.ndarray, "h w 3"], is_covered: Bool[np.ndarray, "h w"], strength: Strength
) -> Float32[np.ndarray, "h w 3"]:
    """Expected YCrCb of each cell, 0-255.

    Args:
        cells: Answers: levels of each channel.
        is_covered: Cells without an answer: their neighbours alone tell of them.
        strength: Whose response gave the answers.
    """
    known = strength if strength in CHOICES else Strength.STRICT  # as `layout_plan` has it
    epsilon = layout_plan(known).epsilon
    means = []
    for c, (pairs, common) in enumerate(_pairs(known)):
        truth = truth_probability(len(common), epsilon[c])
        said = np.eye(len(common), dtype=bool)[cells[..., c]]
        likelihood = np.where(said, truth, (1 - truth) / (len(common) - 1))
        likelihood[is_covered] = 1
        belief = _propagated((likelihood * common).astype(np.float32), pairs, _ROUNDS[known])
        means.append(belief @ np.asarray(MIDDLES[c], np.float32))
    return np.stack(means, axis=-1).astype(np.float32)


def _propagated(
    node: Float32[np.ndarray, "h w k"], pairs: Pairs, rounds: int
) -> Float32[np.ndarray, "h w k"]:
    """Probability of each level of each cell, from what each cell alone says."""
    beside, over = pairs
    left, right, above, below = (np.ones_like(node) for _ in range(4))  # by where they come from
    for _ in range(rounds):
        belief = node * left * right * above * below
        sent = [(belief / right) @ beside, (belief / left) @ beside.T,
                (belief / below) @ over, (belief / above) @ over.T]  # fmt: skip
        left, right, above, below = (np.ones_like(node) for _ in range(4))
        left[:, 1:], right[:, :-1] = _unit(sent[0])[:, :-1], _unit(sent[1])[:, 1:]
        above[1:], below[:-1] = _unit(sent[2])[:-1], _unit(sent[3])[1:]
    belief = node * left * right * above * below
    return np.asarray(belief / belief.sum(-1, keepdims=True), np.float32)


def _unit(messages: Float32[np.ndarray, "h w k"]) -> Float32[np.ndarray, "h w k"]:
    """Mean 1, so that products stay in range."""
    return np.asarray(messages / messages.mean(-1, keepdims=True))
