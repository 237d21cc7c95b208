"""Mild changes of a picture that move its perceptual hashes and leave what it shows.

A crop, a small turn, a change of perspective and a smooth warp; lighter and darker places that
fade into each other, gamma and warmth. Not a mirror: matchers undo it, and writing would suffer.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

MAX_CROP = 0.16  # of a side, at each edge
_MAX_TURN_DEG = 6.0
_MAX_CORNER = 0.06  # of a side
_MAX_WARP = 0.03  # of a side
_MAX_STOPS = 1.1  # of light, at the knots of a smooth field
_MAX_GAMMA_LOG2 = 0.4
_MAX_WARMTH_LOG2 = 0.12
_KNOTS = 4
_LEAST_PART = 0.4  # of a level's reach: less moves no hash


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """One change, drawn at random.

    Attributes:
        level: How far it may go, 0 to 1; 0 changes nothing.
        corners: Where the new picture's corners lie in the old one, from the upper left clockwise,
            in sides, 0-1.
        warp: Smooth displacement at knots, in sides (x, y).
        stops: Smooth change of light at knots, log2.
        gamma_log2: Exponent of lightness, log2.
        warmth_log2: Gain of red over blue, log2.
    """

    level: float
    corners: Float[np.ndarray, "4 2"]
    warp: Float[np.ndarray, "k k 2"]
    stops: Float[np.ndarray, "k k"]
    gamma_log2: float
    warmth_log2: float


def draw_edit(level: float, random: np.random.Generator) -> Edit:
    """An edit that uses 40 to 100 % of what a level, 0 to 1, allows of each change."""

    def part(limit: float) -> float:
        return float(level * limit * random.uniform(_LEAST_PART, 1) * random.choice([-1, 1]))

    left, top, right, bottom = (abs(part(MAX_CROP)) for _ in range(4))
    corners = np.array([[left, top], [1 - right, top], [1 - right, 1 - bottom], [left, 1 - bottom]])
    angle = np.deg2rad(part(_MAX_TURN_DEG))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = corners.mean(0)
    corners = (corners - middle) @ turn.T + middle
    corners += level * _MAX_CORNER * random.uniform(-1, 1, (4, 2))
    return Edit(
        level=level,
        corners=corners,
        warp=level * _MAX_WARP * random.uniform(-1, 1, (_KNOTS, _KNOTS, 2)),
        stops=level * _MAX_STOPS * random.uniform(-1, 1, (_KNOTS, _KNOTS)),
        gamma_log2=part(_MAX_GAMMA_LOG2),
        warmth_log2=part(_MAX_WARMTH_LOG2),
    )


def apply_edit(bgr: UInt8[np.ndarray, "h w 3"], edit: Edit) -> UInt8[np.ndarray, "h w 3"]:
    """The changed picture, of the same size; what would lie outside repeats the edge."""
    if edit.level == 0:
        return bgr
    height, width = bgr.shape[:2]
    return _lit(_moved(bgr, edit, width, height), edit)


def _moved(
    bgr: UInt8[np.ndarray, "h w 3"], edit: Edit, width: int, height: int
) -> UInt8[np.ndarray, "h w 3"]:
    sides = np.array([width, height], np.float32)
    whole = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32) * sides
    matrix = cv2.getPerspectiveTransform(whole, (edit.corners * sides).astype(np.float32))
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    places = cv2.perspectiveTransform(np.stack([x, y], -1), matrix)
    places += _smooth(edit.warp, width, height) * sides - 0.5
    where = np.ascontiguousarray(places, np.float32)
    moved = cv2.remap(
        bgr, where[..., 0], where[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(moved, np.uint8)


def _lit(bgr: UInt8[np.ndarray, "h w 3"], edit: Edit) -> UInt8[np.ndarray, "h w 3"]:
    height, width = bgr.shape[:2]
    warmth = np.exp2(np.array([-0.5, 0, 0.5]) * edit.warmth_log2)
    gain = np.exp2(_smooth(edit.stops[..., None], width, height)) * warmth
    toned = 255 * (bgr / 255) ** np.exp2(edit.gamma_log2) * gain
    return np.clip(toned, 0, 255).astype(np.uint8)


def _smooth(knots: Float[np.ndarray, "k k c"], width: int, height: int) -> np.ndarray:
    field = cv2.resize(knots.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(field, np.float32).reshape(height, width, -1)
