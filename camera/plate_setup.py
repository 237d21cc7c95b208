"""The first value of each background pixel: the median of nine still, person-free moments.

A visit that is in less than five of them cannot move a pixel beyond the values of the others; that
is a robust statistic, not differential privacy, and the ledger says so.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

NUM_SLOTS = 9
SAMPLES_PER_SLOT = 4
_STILL = 24  # grey levels that a pixel may move by within a slot
_MIN_SAMPLES = 2
# exchanges of a sorting network that puts the median of nine in the middle
_NETWORK = (
    (1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3), (5, 8), (4, 7),
    (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2),
)  # fmt: skip
_AROUND = cv2.getStructuringElement(cv2.MORPH_RECT, (9, 9))


def median_of_nine(stack: UInt8[np.ndarray, "9 h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Median over the first axis.

    Source: Devillard 1998, Fast median search: an ANSI C implementation, opt_med9.
    """
    values = list(stack)
    for a, b in _NETWORK:
        low, high = np.minimum(values[a], values[b]), np.maximum(values[a], values[b])
        values[a], values[b] = low, high
    return np.asarray(values[4])


class PlateSetup:
    """Collects slots until each pixel has nine; a pixel's value never changes afterwards.

    Args:
        size_hw: Height and width of the frame.

    Attributes:
        bgr: The plate; 0 where it is not known yet.
        known: Where it is.
    """

    def __init__(self, size_hw: tuple[int, int]) -> None:
        self.bgr = np.zeros((*size_hw, 3), np.uint8)
        self.known: Bool[np.ndarray, "h w"] = np.zeros(size_hw, bool)
        self._stack = np.zeros((NUM_SLOTS, *size_hw, 3), np.uint8)
        self._count = np.zeros(size_hw, np.uint8)
        self.forget()

    @property
    def is_complete(self) -> bool:
        """True where nothing is left to learn."""
        return bool(self.known.all())

    @property
    def progress(self) -> float:
        """Share of all slots of all pixels that is there, 0-1."""
        return float(self._count.mean()) / NUM_SLOTS

    def forget(self) -> None:
        """Drop the slot at hand: something in it cannot be vouched for."""
        self._first: UInt8[np.ndarray, "h w 3"] | None = None
        self._sum: Float32[np.ndarray, "h w 3"] | None = None
        self._free: UInt8[np.ndarray, "h w"] | None = None
        self._samples = 0

    def add(self, bgr: UInt8[np.ndarray, "h w 3"], free: UInt8[np.ndarray, "h w"]) -> None:
        """Take in one moment.

        Args:
            bgr: Frame.
            free: 255 where nobody is, else 0.
        """
        if self._first is None or self._sum is None or self._free is None:
            self._first, self._free = bgr.copy(), free.copy()
            self._sum = bgr.astype(np.float32)
            self._samples = 1
            return
        still = cv2.inRange(cv2.absdiff(bgr, self._first), (0, 0, 0), (_STILL, _STILL, _STILL))
        self._free = cv2.min(cv2.min(self._free, free), cv2.erode(still, _AROUND))
        cv2.accumulate(bgr, self._sum)
        self._samples += 1

    def close_slot(self) -> bool:
        """End the slot; True where pixels became known by it."""
        has_news = False
        if self._samples >= _MIN_SAMPLES and self._sum is not None and self._free is not None:
            value = cv2.convertScaleAbs(self._sum, alpha=1 / self._samples)
            has_news = self._take(value, (self._free > 0) & ~self.known)
        self.forget()
        return has_news

    def _take(self, value: UInt8[np.ndarray, "h w 3"], usable: Bool[np.ndarray, "h w"]) -> bool:
        for count in np.unique(self._count[usable]):
            place = usable & (self._count == count)
            cv2.copyTo(value, place.astype(np.uint8), self._stack[count])
        self._count += usable
        done = usable & (self._count == NUM_SLOTS)
        if not done.any():
            return False
        rows = np.flatnonzero(done.any(axis=1))
        band = slice(rows[0], rows[-1] + 1)
        median = median_of_nine(self._stack[:, band])
        cv2.copyTo(median, done[band].astype(np.uint8), self.bgr[band])
        self.known |= done
        if self.is_complete:
            self._stack = np.zeros((NUM_SLOTS, 0, 0, 3), np.uint8)  # 25 MB at 720p, not needed now
        return True
