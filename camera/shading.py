"""From which side a face is lit: brightness of one cheek against the other, brow against chin."""

import numpy as np
from jaxtyping import Float, UInt8

_LEFT, _RIGHT = (50, 205, 101, 187), (280, 425, 330, 411)  # sides of the picture
_UPPER, _LOWER = (151, 108, 337, 9), (200, 199, 208, 428)


def measure_light(
    bgr: UInt8[np.ndarray, "h w 3"], mesh: Float[np.ndarray, "468 3"]
) -> tuple[float, float]:
    """log2 brightness ratios: right over left cheek, forehead over chin; 0 where unseen."""
    half = max(int(np.ptp(mesh[:, 0]) / 24), 1)
    x = _log_brightness(bgr, mesh, _RIGHT, half) - _log_brightness(bgr, mesh, _LEFT, half)
    y = _log_brightness(bgr, mesh, _UPPER, half) - _log_brightness(bgr, mesh, _LOWER, half)
    return (x if np.isfinite(x) else 0.0), (y if np.isfinite(y) else 0.0)


def _log_brightness(
    bgr: UInt8[np.ndarray, "h w 3"],
    mesh: Float[np.ndarray, "468 3"],
    points: tuple[int, ...],
    half: int,
) -> float:
    levels = []
    for x, y in np.floor(mesh[list(points), :2]).astype(int):
        square = bgr[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]
        if square.size:
            levels.append(float(square.mean()))
    return float(np.log2(np.median(levels) + 4)) if levels else float("nan")
