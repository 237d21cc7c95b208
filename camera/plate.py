"""The background without people: learned once from still, free moments, refreshed under noise.

The last place that sees background pixels. What it hands out is a `Plate` and three light numbers;
nothing is learned while the detector cannot prove that it finds people (`People.is_alive`).
"""

from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from veilcam.camera.plate_privacy import PlateConfig
from veilcam.camera.plate_refresh import CELLS_HW, FINE_WH, PlateRefresh, small
from veilcam.camera.plate_setup import SAMPLES_PER_SLOT, PlateSetup
from veilcam.camera.scene_light import SceneLight, gain_table
from veilcam.camera.scene_types import Box, Plate

READY_SHARE = 0.5  # of the picture that must be known before it is shown
_REFRESH_GAIN = 0.3  # of a release that goes into the plate: noise does not add up
_REFRESH_SAMPLE_S = 1.0
_LEDGER_LENGTH = 1000
_FILL_WH = (160, 90)


class PlateLearner:
    """Learns the plate of one fixed camera.

    Args:
        size_hw: Height and width of the frames.
        config: See `plate_privacy.PlateConfig`.

    Attributes:
        ledger: Every release so far, oldest first: its kind, and its claim or None.
    """

    def __init__(self, size_hw: tuple[int, int], config: PlateConfig | None = None) -> None:
        self.config = config or PlateConfig()
        self.ledger: list[dict[str, Any]] = []
        self._size_hw = size_hw
        self._setup, self._refresh = PlateSetup(size_hw), PlateRefresh(self.config)
        self._light = SceneLight()
        self._correction = np.zeros((*CELLS_HW, 3), np.float32)
        self._plate = Plate(bgr=None, known=0.0, version=0)
        self._small: Float32[np.ndarray, "h w 3"] | None = None
        self._setup_end_s = self._slot_end_s = self._sampled_s = self._refreshed_s = -1.0
        self._num_refreshes = 0

    @property
    def plate(self) -> Plate:
        """As it was released last."""
        return self._plate

    @property
    def light(self) -> tuple[int, int, int]:
        """Light of now over the plate's, in steps of `scene_light`."""
        return self._light.steps

    def forget_slot(self) -> None:
        """Something of this moment cannot be vouched for: what was collected last is dropped."""
        self._setup.forget()
        self._setup_end_s = -1.0

    def add(self, bgr: UInt8[np.ndarray, "h w 3"], hidden: tuple[Box, ...], time_s: float) -> None:
        """Take in one frame; most are left out.

        Args:
            bgr: Frame.
            hidden: Where nothing may be learned, boxes in frame pixels.
            time_s: Of the source's clock.
        """
        if self._is_due(time_s, self._sampled_s, self.config.setup_slot_s / SAMPLES_PER_SLOT):
            self._sampled_s = time_s
            free = _free(self._size_hw, hidden)
            if not self._setup.is_complete:
                self._learn(bgr, free, time_s)
            if self._plate.bgr is not None:
                self._follow(bgr, free, time_s)

    @staticmethod
    def _is_due(time_s: float, last_s: float, every_s: float) -> bool:
        return not 0 <= time_s - last_s < every_s * 0.99

    def _learn(
        self, bgr: UInt8[np.ndarray, "h w 3"], free: UInt8[np.ndarray, "h w"], time_s: float
    ) -> None:
        length = self.config.setup_slot_s
        if self._setup_end_s < 0 or not 0 <= self._setup_end_s - time_s <= length:
            has_news = self._setup_end_s >= 0 and self._setup.close_slot()
            self._setup_end_s = time_s + length * 0.999
            if has_news and self._setup.known.mean() >= READY_SHARE:
                self._note({"kind": "setup", "claim": None})
                self._publish()
            elif self._plate.bgr is None:
                self._plate = Plate(bgr=None, known=self._setup.progress, version=0)
        self._setup.add(bgr, free)

    def _publish(self) -> None:
        known = float(self._setup.known.mean())
        bgr = _filled(self._setup.bgr, self._setup.known)
        if self._correction.any():
            wide = cv2.resize(self._correction, self._size_hw[::-1], interpolation=cv2.INTER_CUBIC)
            bgr = np.clip(bgr + wide + 0.5, 0, 255).astype(np.uint8)
        self._small = small(bgr)
        self._plate = Plate(bgr=bgr, known=known, version=self._plate.version + 1)

    def _follow(
        self, bgr: UInt8[np.ndarray, "h w 3"], free: UInt8[np.ndarray, "h w"], time_s: float
    ) -> None:
        """Light at every sample, cells once a second."""
        assert self._plate.bgr is not None
        assert self._small is not None
        if not self._setup.is_complete:
            free = cv2.min(free, self._setup.known.astype(np.uint8) * 255)
        usable = cv2.resize(free, FINE_WH, interpolation=cv2.INTER_AREA) > 252
        self._light.add(small(bgr), self._small, usable, time_s)
        if self._slot_end_s < 0:
            self._slot_end_s = time_s + self.config.slot_s
        if self._is_due(time_s, self._slot_end_s - self.config.slot_s, self.config.slot_s):
            self._slot_end_s = time_s + self.config.slot_s
            release = self._refresh.close_slot()
            if release is not None:
                self._take_in(release)
        if self._is_due(time_s, self._refreshed_s, _REFRESH_SAMPLE_S):
            self._refreshed_s = time_s
            lit = cv2.LUT(self._plate.bgr, gain_table(self._light.steps))
            self._refresh.add(bgr, lit, free)

    def _take_in(self, release: Float32[np.ndarray, "9 16 3"]) -> None:
        self._num_refreshes += 1
        self._note({"kind": "refresh", "claim": self.config.claim()})
        # measured in the light of then: brought back to the plate's own
        gains = 2.0 ** (np.array(self._light.steps) / 12)
        self._correction += (_REFRESH_GAIN * release / gains).astype(np.float32)
        self._publish()

    def _note(self, entry: dict[str, Any]) -> None:
        self.ledger.append(entry)
        del self.ledger[:-_LEDGER_LENGTH]

    def describe(self) -> dict[str, Any]:
        """What the report of a run says of the plate."""
        return {
            "known": round(self._plate.known, 3),
            "releases": self._plate.version,
            "setup_claim": "none: median of nine still moments without a detected person",
            "refreshes": self._num_refreshes,
            "refresh_epsilon": self.config.claim()["epsilon"],
            "refresh_delta": self.config.delta,
            "refresh_unit": self.config.claim()["unit"],
        }


def _free(size_hw: tuple[int, int], hidden: tuple[Box, ...]) -> UInt8[np.ndarray, "h w"]:
    """255 where no hidden box is; boxes are rounded outward."""
    free = np.full(size_hw, 255, np.uint8)
    for x, y, width, height in hidden:
        numbers = np.array([x, y, x + width, y + height])
        if not np.isfinite(numbers).all():
            return np.zeros(size_hw, np.uint8)
        left, top = (max(int(np.floor(v)), 0) for v in numbers[:2])
        right, bottom = (max(int(np.ceil(v)), 0) for v in numbers[2:])
        free[top:bottom, left:right] = 0
    return free


def _filled(bgr: UInt8[np.ndarray, "h w 3"], known: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """The plate with what is not known taken from around it, without detail."""
    if known.all():
        return bgr.copy()
    share = cv2.resize(known.astype(np.float32), _FILL_WH, interpolation=cv2.INTER_AREA)
    colour = cv2.resize(bgr.astype(np.float32), _FILL_WH, interpolation=cv2.INTER_AREA)
    colour = colour / np.maximum(share, 1e-3)[..., None]
    unknown = (share < 0.5).astype(np.uint8)
    small_bgr = np.clip(colour, 0, 255).astype(np.uint8)
    fill = cv2.inpaint(small_bgr, unknown, 3, cv2.INPAINT_TELEA)
    wide = cv2.resize(fill, known.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(known[..., None], bgr, wide)
