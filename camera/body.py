"""Geometry of a body seen in part: points that were not seen, the whole box, colours of clothes."""

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from veilcam.camera.body_points import POINT
from veilcam.camera.scene_types import Box

SURE_SCORE = 0.2  # points below are taken from the template
_LEFT, _RIGHT = ("left", "right")
# of a standing body, in trunk lengths (middle of the shoulders to middle of the hips): across, down
_TEMPLATE = {
    "nose": (0.0, -0.55), "eye": (0.06, -0.62), "ear": (0.13, -0.6), "shoulder": (0.33, 0.0),
    "elbow": (0.45, 0.55), "wrist": (0.5, 1.0), "hip": (0.18, 1.0), "knee": (0.2, 1.85),
    "ankle": (0.2, 2.65),
}  # fmt: skip
_MAX_GROWTH = 2.0  # of a cut box's longer side
_ABOVE, _BELOW = 0.45, 0.18  # top of the head above the eyes, sole below the ankles
_SHOULDERS = (POINT["left_shoulder"], POINT["right_shoulder"])
_HIPS = (POINT["left_hip"], POINT["right_hip"])
_LEGS = tuple(POINT[f"{side}_{part}"] for side in (_LEFT, _RIGHT) for part in ("knee", "ankle"))


def trunk(points: Float32[np.ndarray, "17 3"], box: Box) -> tuple[np.ndarray, np.ndarray, float]:
    """Middle of the shoulders, direction down the trunk (unit), and its length in pixels."""
    x, y, width, height = box
    shoulders, hips = points[list(_SHOULDERS)], points[list(_HIPS)]
    has_shoulders, has_hips = shoulders[:, 2].max() >= SURE_SCORE, hips[:, 2].max() >= SURE_SCORE
    middle = (
        shoulders[:, :2].mean(0) if has_shoulders else np.array([x + width / 2, y + 0.2 * height])
    )
    if has_shoulders and has_hips:
        down = hips[:, :2].mean(0) - middle
        length = float(np.hypot(*down))
        if length > 0.08 * max(width, height):
            return middle, down / length, length
    across = float(np.hypot(*(shoulders[0, :2] - shoulders[1, :2]))) if has_shoulders else 0.0
    return middle, np.array([0.0, 1.0]), max(1.4 * across, 0.25 * width, 4.0)


def completed(
    points: Float32[np.ndarray, "17 3"], box: Box, size_hw: tuple[int, int]
) -> Float32[np.ndarray, "17 3"]:
    """The points with those replaced that were not seen or lie outside of the frame.

    A point is put where a standing body has it; its score becomes 0. Where a joint was seen, what
    hangs on it hangs straight down.
    """
    middle, down, length = trunk(points, box)
    side_way = 1.0 if points[_SHOULDERS[0], 0] >= points[_SHOULDERS[1], 0] else -1.0
    across = np.array([down[1], -down[0]]) * side_way
    out = points.copy()
    inside = (points[:, :2] >= 0).all(1) & (points[:, :2] < size_hw[::-1]).all(1)
    is_good = (points[:, 2] >= SURE_SCORE) & inside
    for name, index in POINT.items():
        if is_good[index]:
            continue
        side, _, part = name.rpartition("_")
        sign = {"left": 1.0, "right": -1.0}.get(side, 0.0)
        right, low = _TEMPLATE[part]
        place = middle + length * (sign * right * across + low * down)
        above = {"knee": "hip", "ankle": "knee", "elbow": "shoulder", "wrist": "elbow"}.get(part)
        if above is not None:  # hangs on the joint above, which comes first in the order
            joint = POINT[f"{side}_{above}"]
            reach = low - _TEMPLATE[above][1]
            place = out[joint, :2] + length * reach * np.array([0.0, 1.0])
        out[index] = (*place, 0.0)
    return out


def whole_box(box: Box, points: Float32[np.ndarray, "17 3"], size_hw: tuple[int, int]) -> Box:
    """The box of the whole body, beyond the frame's border where that cuts it.

    Args:
        box: Of the detector.
        points: From `completed`.
        size_hw: Of the frame.
    """
    x, y, width, height = box
    low, high = np.array([x, y]), np.array([x + width, y + height])
    _, _, length = trunk(np.where(points[:, 2:] > 0, points, 1.0), box)
    rim = 0.012 * max(size_hw)
    if high[1] >= size_hw[0] - rim:
        feet = points[[POINT["left_ankle"], POINT["right_ankle"]], 1].max() + _BELOW * length
        high[1] = max(high[1], feet)
    if low[1] <= rim:
        head = points[[POINT["left_eye"], POINT["right_eye"]], 1].mean() - _ABOVE * length
        low[1] = min(low[1], head)
    # points can be wrong: nobody is that much larger than what was seen of them
    most = _MAX_GROWTH * max(width, height)
    high[1], low[1] = min(high[1], y + height + most), max(low[1], y - most)
    size = high - low
    return float(low[0]), float(low[1]), float(size[0]), float(size[1])


def facing_features(points: Float[np.ndarray, "n 17 3"]) -> Float[np.ndarray, "n 52"]:
    """What tells where a body faces: points in trunk lengths around the trunk, scores, and 1."""
    xy, score = points[..., :2], points[..., 2]
    ends = [xy[:, list(pair)].mean(1) for pair in (_SHOULDERS, _HIPS)]
    length = np.maximum(np.hypot(*(ends[1] - ends[0]).T), 1e-3)
    relative = (xy - ((ends[0] + ends[1]) / 2)[:, None]) / length[:, None, None]
    flat = np.clip(relative, -3, 3).reshape(len(points), -1)
    return np.concatenate([flat, score, np.ones((len(points), 1))], axis=1)


def colours_of(
    bgr: UInt8[np.ndarray, "h w 3"], points: Float32[np.ndarray, "17 3"], box: Box
) -> Float32[np.ndarray, "4 3"]:
    """Colours of top, bottom, hair and skin, BGR 0-255: means of small squares on the body."""
    middle, down, length = trunk(points, box)
    legs = [
        points[POINT[f"{s}_hip"], :2] * 0.5 + points[POINT[f"{s}_knee"], :2] * 0.5
        for s in (_LEFT, _RIGHT)
    ]
    eyes = points[[POINT["left_eye"], POINT["right_eye"]], :2].mean(0)
    places = (
        [middle + 0.35 * length * down, middle + 0.65 * length * down], legs,
        [eyes - 0.28 * length * down], [eyes + 0.14 * length * down],
    )  # fmt: skip
    half = max(int(0.06 * length), 1)
    out = np.empty((4, 3), np.float32)
    for row, spots in enumerate(places):
        seen = [s for spot in spots if (s := _square(bgr, spot, half)) is not None]
        out[row] = np.mean(seen, axis=0) if seen else 110.0
    return out


def _square(
    bgr: UInt8[np.ndarray, "h w 3"], spot: Float[np.ndarray, "2"], half: int
) -> np.ndarray | None:
    x, y = (int(v) for v in spot)
    part = bgr[max(y - half, 0) : max(y + half + 1, 0), max(x - half, 0) : max(x + half + 1, 0)]
    return np.array(cv2.mean(part)[:3]) if part.size else None
