"""Source frame -> layout code: coarse cell colours under local DP, and persons as tokens.

The last place that sees pixels. What leaves it is `LayoutCode`: small integers.
"""

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from veilcam.camera.layout_plan import (
    NUM_LEVELS,
    THRESHOLDS,
    layout_plan,
    quantize_colours,
)
from veilcam.camera.layout_tokens import Token, box_of, tokens_of
from veilcam.camera.scene_types import People
from veilcam.camera.strength import Strength, chosen
from veilcam.camera.types import Frame

RandomBytes = Callable[[int], bytes]
_FINE = 8  # pixels of the small picture for each side of a cell
_MIN_SHARE = 0.25  # of a cell that persons leave free: below, nothing is told of its colour
_HYSTERESIS = 0.15  # of a level's width: a level is left only where the colour is so far outside


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayoutCode:
    """All that painter and composition may know of a frame.

    Attributes:
        size_hw: Height and width of the frame in pixels.
        cells: Answers of the randomized response: levels of lightness, red and blue chroma.
        is_covered: Cells that persons cover: nothing is told of them, their answers are 0.
        tokens: Persons, largest first.
    """

    size_hw: tuple[int, int]
    cells: UInt8[np.ndarray, "h w 3"]
    is_covered: Bool[np.ndarray, "h w"]
    tokens: tuple[Token, ...]


def draw_answers(
    num_levels: int, epsilon: float, count: int, *, random_bytes: RandomBytes = secrets.token_bytes
) -> UInt8[np.ndarray, "n k"]:
    """Answer to each true level of `count` cells, by k-ary randomized response.

    Guarantees: for all levels u, v and answers y, P(y | u) <= exp(epsilon) P(y | v), as drawn.
    The share of lies is rounded up: floats, whole draws and the remainder are paid for by that.

    Args:
        num_levels: k.
        epsilon: Of one answer.
        count: Number of cells.
        random_bytes: Source of noise: the operating system's, but for tests.
    """
    size = count * num_levels
    draws = np.frombuffer(random_bytes(16 * size), np.uint64).reshape(2, count, num_levels)
    limit = np.uint64(truth_limit(num_levels, epsilon))
    truth = np.arange(num_levels, dtype=np.uint64)[None]
    other = draws[1] % np.uint64(num_levels - 1)
    other = other + (other >= truth)  # any level but the true one
    return np.where(draws[0] < limit, truth, other).astype(np.uint8)


def truth_limit(num_levels: int, epsilon: float) -> int:
    """How many of 2**64 equally likely draws give the true level."""
    lies = (num_levels - 1) / (math.exp(epsilon) + num_levels - 1)
    return 2**64 - math.ceil(lies * (1 + 2**-40) * 2**64)


class PermanentResponse:
    """Randomized response that never answers the same question twice in different ways.

    Fresh noise in each frame would average out. Answers are drawn once for each cell, channel and
    level, so 1,000 frames of a level tell no more than one.

    Source: Erlingsson, Pihur, Korolova 2014, RAPPOR, section 2 (permanent randomized response).
    """

    def __init__(
        self,
        grid_hw: tuple[int, int],
        epsilon: tuple[float, float, float],
        *,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        count = grid_hw[0] * grid_hw[1]
        self._tables = [
            draw_answers(k, e, count, random_bytes=random_bytes).reshape(*grid_hw, k)
            for k, e in zip(NUM_LEVELS, epsilon, strict=True)
        ]

    def __call__(self, levels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The answer to each level."""
        answers = [
            np.take_along_axis(table, levels[..., c : c + 1].astype(np.int64), axis=-1)
            for c, table in enumerate(self._tables)
        ]
        return np.concatenate(answers, axis=-1)


class LayoutEncoder:
    """Turns frames into layout codes; one for each run, for it keeps the run's answers.

    Args:
        strength: By default what the process has chosen.
        random_bytes: Source of noise, see `draw_answers`.
    """

    def __init__(
        self,
        *,
        strength: Strength | None = None,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        self.strength = chosen() if strength is None else strength
        self.plan = layout_plan(self.strength)
        self._respond = PermanentResponse(
            self.plan.grid_hw, self.plan.epsilon, random_bytes=random_bytes
        )
        self._levels: UInt8[np.ndarray, "h w 3"] | None = None

    def encode(self, frame: Frame, people: People) -> LayoutCode:
        """The code of one frame; persons' own pixels are left out of the cells' colours."""
        size_hw = (frame.bgr.shape[0], frame.bgr.shape[1])
        tokens = tokens_of(people)
        ycrcb, share = cell_means(frame.bgr, self.plan.grid_hw, tokens)
        self._levels = _levels(ycrcb, self._levels, share)
        is_covered = share < _MIN_SHARE
        cells = np.where(is_covered[..., None], np.uint8(0), self._respond(self._levels))
        return LayoutCode(size_hw=size_hw, cells=cells, is_covered=is_covered, tokens=tokens)


def cell_means(
    bgr: UInt8[np.ndarray, "h w 3"], grid_hw: tuple[int, int], tokens: tuple[Token, ...]
) -> tuple[Float32[np.ndarray, "r c 3"], Float32[np.ndarray, "r c"]]:
    """Mean YCrCb of each cell outside of all persons' boxes, and the share of it that is so."""
    rows, columns = grid_hw
    size_hw = (bgr.shape[0], bgr.shape[1])
    fine_hw = rows * _FINE, columns * _FINE
    small = cv2.resize(bgr, fine_hw[::-1], interpolation=cv2.INTER_AREA)
    is_free = np.ones(fine_hw, np.float32)
    for token in tokens:
        left, top, width, height = box_of(token, size_hw)
        x1, x2 = (int(v * fine_hw[1] // size_hw[1]) for v in (left, left + width))
        y1, y2 = (int(v * fine_hw[0] // size_hw[0]) for v in (top, top + height))
        is_free[max(y1 - 1, 0) : max(y2 + 2, 0), max(x1 - 1, 0) : max(x2 + 2, 0)] = 0
    ycrcb = cv2.cvtColor(small, cv2.COLOR_BGR2YCrCb).astype(np.float32) * is_free[..., None]
    sums = ycrcb.reshape(rows, _FINE, columns, _FINE, 3).mean((1, 3))
    share = is_free.reshape(rows, _FINE, columns, _FINE).mean((1, 3))
    return sums / np.maximum(share, 1e-6)[..., None], share


def _levels(
    ycrcb: Float32[np.ndarray, "h w 3"],
    last: UInt8[np.ndarray, "h w 3"] | None,
    share: Float32[np.ndarray, "h w"],
) -> UInt8[np.ndarray, "h w 3"]:
    """Levels with some stickiness: a camera's noise must not make a cell switch to and fro."""
    levels = quantize_colours(ycrcb)
    if last is None:
        return levels
    for c, thresholds in enumerate(THRESHOLDS):
        margin = _HYSTERESIS * (thresholds[1] - thresholds[0])
        edges = np.array([-np.inf, *thresholds, np.inf])
        low, high = edges[last[..., c]] - margin, edges[last[..., c] + 1] + margin
        stays = (ycrcb[..., c] >= low) & (ycrcb[..., c] < high)
        levels[..., c] = np.where(stays | (share < _MIN_SHARE), last[..., c], levels[..., c])
    return levels
