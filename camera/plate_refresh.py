"""Slow changes of the plate's light and colour: a clipped, noised mean over long windows."""

import secrets

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from veilcam.camera.plate_privacy import PlateConfig

CELLS_HW = (9, 16)
_FINE = 4  # a cell is that many small pixels on each side
FINE_WH = (CELLS_HW[1] * _FINE, CELLS_HW[0] * _FINE)
_MIN_SHARE = 0.25  # of a cell that must be free of people in a slot


def clipped(vector: Float[np.ndarray, "*d"], l2_clip_norm: float) -> Float[np.ndarray, "*d"]:
    """The vector, shortened to the norm where it is longer; 0 where it is not finite."""
    if not np.isfinite(vector).all():
        return np.zeros_like(vector)
    norm = float(np.sqrt(np.square(vector).sum()))
    return vector if norm <= l2_clip_norm else vector * (l2_clip_norm / norm)


class PlateRefresh:
    """Collects the slots of one window after the other.

    Every slot gives one vector: how far the cells lie from the plate. A window's release is the
    mean of its clipped vectors plus noise; a slot that saw nothing gives 0, so that the number of
    slots in a window is fixed.
    """

    def __init__(self, config: PlateConfig) -> None:
        self._config = config
        self._random = np.random.default_rng(secrets.randbits(128))
        self._sum = np.zeros((*CELLS_HW, 3))
        self._num_slots = 0
        self._forget()

    def _forget(self) -> None:
        self._slot_sum = np.zeros((*CELLS_HW, 3))
        self._slot_weight = np.zeros((*CELLS_HW, 1))

    def add(
        self,
        bgr: UInt8[np.ndarray, "h w 3"],
        plate: UInt8[np.ndarray, "h w 3"],
        free: UInt8[np.ndarray, "h w"],
    ) -> None:
        """Take in one moment of a slot.

        Args:
            bgr: Frame.
            plate: What the plate shows in the light of now.
            free: 255 where nobody is and the plate is known, else 0.
        """
        share = cv2.resize(free, FINE_WH, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        usable = (share > 0.99).astype(np.float32)  # an edge of a person must not count
        difference = small(bgr) - small(plate)
        cells = CELLS_HW[::-1]
        weight = cv2.resize(usable, cells, interpolation=cv2.INTER_AREA)[..., None]
        mean = cv2.resize(difference * usable[..., None], cells, interpolation=cv2.INTER_AREA)
        is_seen = weight >= _MIN_SHARE
        self._slot_sum += np.where(is_seen, mean / np.maximum(weight, _MIN_SHARE), 0)
        self._slot_weight += is_seen

    def close_slot(self) -> Float32[np.ndarray, "9 16 3"] | None:
        """End the slot; the window's release where it was the last one, grey levels."""
        vector = self._slot_sum / np.maximum(self._slot_weight, 1)
        self._sum += clipped(vector, self._config.l2_clip_norm)
        self._num_slots += 1
        self._forget()
        if self._num_slots < self._config.window_slots:
            return None
        mean = self._sum / self._config.window_slots
        self._sum, self._num_slots = np.zeros_like(self._sum), 0
        return np.asarray(mean + self.noise(), np.float32)

    def noise(self) -> Float[np.ndarray, "9 16 3"]:
        """Fresh Gaussian noise of one release."""
        return self._random.normal(0.0, self._config.noise_stddev, (*CELLS_HW, 3))


def small(bgr: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "36 64 3"]:
    """The picture's means over small pixels, 0-255."""
    return cv2.resize(bgr, FINE_WH, interpolation=cv2.INTER_AREA).astype(np.float32)
