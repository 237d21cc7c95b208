"""Layout code -> what the painter is given: colour maps of fixed size, whatever the grid."""

from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from veilcam.camera.layout_code import LayoutCode
from veilcam.camera.layout_denoise import likely_ycrcb
from veilcam.camera.layout_plan import layout_plan
from veilcam.camera.strength import Strength

PATCH_HW = (216, 384)  # of the painter's picture
COARSE_HW, FINE_HW = (9, 16), (27, 48)
NUM_COARSE, NUM_FINE = 5, 4  # maps of each size
NUM_VALUES = COARSE_HW[0] * COARSE_HW[1] * NUM_COARSE + FINE_HW[0] * FINE_HW[1] * NUM_FINE
NOISE_SIZE = COARSE_HW[0] * COARSE_HW[1]  # the latent is a coarse map of noise
_FRAME_WEIGHT = 0.3  # of a new frame: changes fade in, for a cell changes by whole levels


def colours_of(
    cells: UInt8[np.ndarray, "h w 3"], is_covered: Bool[np.ndarray, "h w"], strength: Strength
) -> Float32[np.ndarray, "h w 3"]:
    """BGR 0-1 that the answers of cells make likely; nearby ones where persons cover a cell."""
    ycrcb = likely_ycrcb(cells, is_covered, strength)
    y, red, blue = ycrcb[..., 0], ycrcb[..., 1] - 128, ycrcb[..., 2] - 128
    # ITU-R BT.601, as OpenCV's conversion
    bgr = np.stack([y + 1.773 * blue, y - 0.714 * red - 0.344 * blue, y + 1.403 * red], axis=-1)
    return filled(np.clip(bgr / 255, 0, 1).astype(np.float32), is_covered)


def filled(
    bgr: Float32[np.ndarray, "h w 3"], is_covered: Bool[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w 3"]:
    """Covered cells in the colours of those around; grey where all are covered."""
    if not is_covered.any():
        return bgr
    known = (~is_covered).astype(np.float32)
    if not known.any():
        return np.full_like(bgr, 0.45)
    out = bgr * known[..., None]
    weight = known
    for sigma in (1.0, 2.0, 4.0, 16.0):  # the nearest that are known
        blurred = cv2.GaussianBlur(bgr * known[..., None], (0, 0), sigma, borderType=_BORDER)
        share = cv2.GaussianBlur(known, (0, 0), sigma, borderType=_BORDER)
        use = (weight == 0) & (share > 0.02)
        out[use] = (blurred / np.maximum(share, 1e-6)[..., None])[use]
        weight = weight + use
    out[weight == 0] = bgr[~is_covered].mean(0)
    return np.asarray(out, np.float32)


_BORDER = cv2.BORDER_REPLICATE


def maps_of(
    bgr: Float32[np.ndarray, "h w 3"],
    covered: Float32[np.ndarray, "h w"],
    strength: Strength,
) -> Float32[np.ndarray, " v"]:
    """The painter's vector: coarse maps (colour, covered, noise level), then fine ones, 0-1.

    Args:
        bgr: Colours of the cells, filled.
        covered: 1 where persons cover a cell.
        strength: Whose noise is in the colours.
    """
    four = np.concatenate([bgr, covered[..., None]], axis=-1)
    coarse = cv2.resize(four, COARSE_HW[::-1], interpolation=_way(four.shape[:2], COARSE_HW))
    fine = cv2.resize(four, FINE_HW[::-1], interpolation=cv2.INTER_LINEAR)
    level = np.full((*COARSE_HW, 1), _noise_level(strength), np.float32)
    parts = np.concatenate([coarse, level], axis=-1), fine
    return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float32)


def _way(size_hw: tuple[int, ...], wanted_hw: tuple[int, int]) -> int:
    return int(cv2.INTER_AREA if size_hw[0] > wanted_hw[0] else cv2.INTER_LINEAR)


@lru_cache
def _noise_level(strength: Strength) -> float:
    """0 for nearly exact colours to 1 for noise; what epsilon says."""
    return float(np.exp(-layout_plan(strength).epsilon[0] / 3))


class Decoder:
    """Codes of one run -> vectors for the painter, changes faded in.

    Everything here comes after the randomized response, so it can tell nothing more.

    Args:
        strength: Of the codes.
    """

    def __init__(self, strength: Strength) -> None:
        self._strength = strength
        self._bgr: Float32[np.ndarray, "h w 3"] | None = None
        self._covered: Float32[np.ndarray, "h w"] | None = None
        self._last: tuple[bytes, Float32[np.ndarray, "h w 3"]] | None = None

    def _colours(self, code: LayoutCode) -> Float32[np.ndarray, "h w 3"]:
        """Colours of a code; those of a still scene are found once."""
        key = code.cells.tobytes() + code.is_covered.tobytes()
        if self._last is None or self._last[0] != key:
            self._last = key, colours_of(code.cells, code.is_covered, self._strength)
        return self._last[1]

    def __call__(self, code: LayoutCode) -> Float32[np.ndarray, " v"]:
        """The vector of one frame."""
        bgr = self._colours(code)
        covered = code.is_covered.astype(np.float32)
        if self._bgr is None or self._covered is None or self._bgr.shape != bgr.shape:
            self._bgr, self._covered = bgr, covered
        weight = np.float32(_FRAME_WEIGHT)
        self._bgr = self._bgr + weight * (bgr - self._bgr)
        self._covered = self._covered + weight * (covered - self._covered)
        return maps_of(self._bgr, self._covered, self._strength)
