"""From which side a face is lit: brightness of one cheek against the other, brow against chin."""

import numpy as np
from jaxtyping import Float, UInt8

from veilcam.camera.light import square_means

_LEFT, _RIGHT = (50, 205, 101, 187), (280, 425, 330, 411)  # sides of the picture
_UPPER, _LOWER = (151, 108, 337, 9), (200, 199, 208, 428)
_POINTS = [*_LEFT, *_RIGHT, *_UPPER, *_LOWER]


def measure_light(
    bgr: UInt8[np.ndarray, "h w 3"], mesh: Float[np.ndarray, "468 3"]
) -> tuple[float, float]:
    """log2 brightness ratios: right over left cheek, forehead over chin; 0 where unseen."""
    half = max(int(np.ptp(mesh[:, 0]) / 24), 1)
    places = np.floor(mesh[_POINTS, :2])
    inside = (places >= 0).all(1) & (places < (bgr.shape[1], bgr.shape[0])).all(1)
    levels = np.full(len(places), np.nan)
    if inside.any():
        levels[inside] = square_means(bgr, places[inside], half).mean(1)
    left, right, upper, lower = (_log_brightness(part) for part in levels.reshape(4, 4))
    x, y = right - left, upper - lower
    return (x if np.isfinite(x) else 0.0), (y if np.isfinite(y) else 0.0)


def _log_brightness(levels: Float[np.ndarray, " n"]) -> float:
    seen = levels[np.isfinite(levels)]
    return float(np.log2(np.median(seen) + 4)) if len(seen) else float("nan")
