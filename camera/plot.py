"""The latency plot, drawn with OpenCV so that the runtime needs no plotting library."""

import cv2
import numpy as np
from jaxtyping import UInt8

_SIZE_HW = (520, 1000)
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 30, 60, 70
_INK, _GRID = (60, 60, 60), (225, 225, 225)
_COLOURS = {  # BGR
    "analyse": (176, 114, 76),
    "encode": (96, 78, 129),
    "generate": (82, 132, 221),
    "compose": (104, 168, 85),
}
BUDGET_MS = 33.3


def draw_latency(timings: dict[str, list[float]], title: str) -> UInt8[np.ndarray, "520 1000 3"]:
    """Milliseconds of each frame, stages stacked, with the budget of 30 frames per second.

    Args:
        timings: Milliseconds of each stage and frame; `total` too.
        title: One line above the plot.
    """
    stages = [name for name in _COLOURS if timings.get(name)]
    num_frames = min((len(timings[name]) for name in stages), default=0)
    picture = np.full((*_SIZE_HW, 3), 255, np.uint8)
    top_ms = max(BUDGET_MS, *timings.get("total", [0.0]), 1.0) * 1.1
    _draw_axes_into(picture, top_ms, num_frames, title)
    if num_frames == 0:
        return picture
    stacked = np.cumsum([timings[name][-num_frames:] for name in stages], axis=0)
    x = np.linspace(_LEFT, _SIZE_HW[1] - _RIGHT, num_frames)
    below = np.zeros(num_frames)
    for name, above in zip(stages, stacked, strict=True):
        outline = np.concatenate(
            [np.stack([x, _y(above, top_ms)], 1), np.stack([x, _y(below, top_ms)], 1)[::-1]]
        )
        cv2.fillPoly(picture, [outline.round().astype(np.int32)], _COLOURS[name], cv2.LINE_AA)
        below = above
    _draw_budget_into(picture, top_ms)
    _draw_legend_into(picture, stages, timings)
    return picture


def _y(ms: np.ndarray | float, top_ms: float) -> np.ndarray:
    height = _SIZE_HW[0] - _TOP - _BOTTOM
    return np.asarray(_SIZE_HW[0] - _BOTTOM - np.asarray(ms) / top_ms * height)


def _text_into(picture: np.ndarray, text: str, at: tuple[int, int], scale: float = 0.45) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, 1, cv2.LINE_AA)


def _draw_axes_into(picture: np.ndarray, top_ms: float, num_frames: int, title: str) -> None:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if top_ms / s <= 10)
    for ms in np.arange(0, top_ms, step):
        y = int(_y(ms, top_ms))
        cv2.line(picture, (_LEFT, y), (_SIZE_HW[1] - _RIGHT, y), _GRID, 1)
        _text_into(picture, f"{ms:.0f}", (_LEFT - 40, y + 5))
    _text_into(picture, title, (_LEFT, 32), 0.6)
    _text_into(picture, "ms", (20, _TOP))
    _text_into(picture, f"frames 1 to {num_frames}", (_LEFT, _SIZE_HW[0] - _BOTTOM + 22))


def _draw_budget_into(picture: np.ndarray, top_ms: float) -> None:
    y = int(_y(BUDGET_MS, top_ms))
    cv2.line(picture, (_LEFT, y), (_SIZE_HW[1] - _RIGHT, y), (40, 40, 200), 1, cv2.LINE_AA)
    _text_into(picture, "33 ms: 30 frames per second", (_LEFT + 6, y - 6))


def _draw_legend_into(
    picture: np.ndarray, stages: list[str], timings: dict[str, list[float]]
) -> None:
    x = _LEFT
    for name in stages:
        y = _SIZE_HW[0] - 22
        cv2.rectangle(picture, (x, y - 11), (x + 12, y + 1), _COLOURS[name], -1)
        label = f"{name} (p50 {np.median(timings[name]):.1f} ms)"
        _text_into(picture, label, (x + 18, y))
        x += 225
