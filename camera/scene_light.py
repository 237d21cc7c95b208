"""The light of now over the plate's: three quantized numbers for the whole picture.

Cameras answer light about as v = 1 - exp(-e) (v from 0 to 1): a change of exposure multiplies e,
and highlights do not burn out when the rest gets brighter. The numbers are ratios of e, the median
over many cells, rounded to twelfths of a stop, at most one step each in half a second: what
people change of it is small, and what it can carry is counted (`BITS_PER_S`). It has no noise and
no epsilon.
"""

import math

import numpy as np
from jaxtyping import Bool, Float32, UInt8

STEPS_PER_STOP = 12
MAX_STEPS = 2 * STEPS_PER_STOP
CHANGE_EVERY_S = 0.5
BITS_PER_S = 3 * math.log2(3) / CHANGE_EVERY_S  # down, up or as it was, for each number
_HYSTERESIS = 0.75
_MIN_CELLS = 0.2  # share of all cells that must tell
_DARK = 12.0  # grey levels: cells of the plate that are darker tell nothing
_BURNT = 250.0
Steps = tuple[int, int, int]


class SceneLight:
    """Follows the light.

    Attributes:
        steps: Gain of blue, green and red in steps.
    """

    def __init__(self) -> None:
        self.steps: Steps = (0, 0, 0)
        self._changed_s: float | None = None

    def add(
        self,
        now: Float32[np.ndarray, "h w 3"],
        plate: Float32[np.ndarray, "h w 3"],
        usable: Bool[np.ndarray, "h w"],
        time_s: float,
    ) -> None:
        """Take in one moment.

        Args:
            now: Small picture, 0-255.
            plate: The same of the plate.
            usable: Where nobody is and the plate is known.
            time_s: Of the source's clock.
        """
        if self._changed_s is not None and 0 <= time_s - self._changed_s < CHANGE_EVERY_S:
            return
        self._changed_s = time_s
        steps = list(self.steps)
        for channel in range(3):
            good = usable & (plate[..., channel] > _DARK) & (now[..., channel] < _BURNT)
            if good.mean() < _MIN_CELLS:
                continue
            ratio = _exposure(now[..., channel][good]) / _exposure(plate[..., channel][good])
            wanted = STEPS_PER_STOP * math.log2(float(np.median(ratio)))
            if abs(wanted - steps[channel]) > _HYSTERESIS:
                steps[channel] += 1 if wanted > steps[channel] else -1
        b, g, r = (min(max(step, -MAX_STEPS), MAX_STEPS) for step in steps)
        self.steps = (b, g, r)


def _exposure(level: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    return np.asarray(-np.log1p(-np.clip(level, 0.5, 255) / 256), np.float32)


def gain_table(steps: Steps) -> UInt8[np.ndarray, "1 256 3"]:
    """Look-up table that brings the plate into the light of now."""
    gains = 2.0 ** (np.array(steps) / STEPS_PER_STOP)
    darkness = 1 - np.arange(256)[:, None] / 256
    levels = np.clip(256 * (1 - darkness**gains) + 0.5, 0, 255)
    return np.asarray(levels, np.uint8)[None]
