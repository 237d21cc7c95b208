"""The light on a head, as far as the code may know it: one skin class a track, and its changes."""

import math

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

SKIN_STEP = 8  # as wide as the code's own steps
DEFAULT_SKIN_BGR = (120.0, 144.0, 184.0)
# Dark to light; round numbers, taken from nobody's picture.
SKIN_CLASSES = ((44.0, 60.0, 96.0), (80.0, 104.0, 144.0), DEFAULT_SKIN_BGR, (164.0, 184.0, 216.0))
LIGHT_LEVELS = 3  # half stops that the light on a track may rise or fall
LIGHT_STEP = 0.5  # log2
# Face mesh points in the middle of the cheeks and on the forehead, away from eyes, mouth and hair.
_SKIN_POINTS = (50, 280, 205, 425, 101, 330, 151, 9, 108, 337)


def measure_skin(
    bgr: UInt8[np.ndarray, "h w 3"], mesh: Float[np.ndarray, "468 2"]
) -> Float[np.ndarray, " 3"] | None:
    """Median colour of small squares on cheeks and forehead, or None where none is in the picture.

    Args:
        bgr: Raw frame.
        mesh: Face mesh points in frame pixels.
    """
    return _median_colour(bgr, mesh[list(_SKIN_POINTS)], float(np.ptp(mesh[:, 0])) / 24)


def measure_skin_coarse(
    bgr: UInt8[np.ndarray, "h w 3"], landmarks: Float[np.ndarray, "5 2"]
) -> Float[np.ndarray, " 3"] | None:
    """As `measure_skin`, from the detector's five landmarks: between each eye and mouth corner."""
    cheeks = np.stack([landmarks[0] + landmarks[3], landmarks[1] + landmarks[4]]) / 2
    size = float(np.hypot(*(landmarks[0] - landmarks[1]))) / 8
    return _median_colour(bgr, cheeks, size)


def _median_colour(
    bgr: UInt8[np.ndarray, "h w 3"], points: Float[np.ndarray, "n 2"], half_size: float
) -> Float[np.ndarray, " 3"] | None:
    half = max(int(half_size), 1)
    height, width = bgr.shape[:2]
    whole = np.floor(points)
    inside = (whole >= half).all(1) & (whole < (width - half, height - half)).all(1)
    if not inside.any():
        return None
    return np.asarray(np.median(square_means(bgr, whole[inside], half), axis=0), float)


def square_means(
    bgr: UInt8[np.ndarray, "h w 3"], points: Float[np.ndarray, "n 2"], half: int
) -> Float32[np.ndarray, "n 3"]:
    """Mean colour, rounded to levels, of a square of side 2 `half` + 1 around each point.

    Args:
        bgr: Raw frame.
        points: x, y of at least one pixel, all inside the frame; squares that reach over the
            frame's edge repeat its pixels.
        half: Half the side in pixels, at least 1.
    """
    places = np.floor(points).astype(int)
    low, high = places.min(0) - half, places.max(0) + half + 1
    left, top = np.maximum(low, 0)
    part = bgr[top : high[1], left : high[0]]
    means = cv2.blur(part, (2 * half + 1, 2 * half + 1), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(means[places[:, 1] - top, places[:, 0] - left], np.float32)


class SkinColour:
    """The slow, quantized skin colour of one track: changes only when it is clearly another level.

    A value on the edge between two levels would flicker with the sensor's noise, and flicker
    averages out the quantization; so a level is kept until the mean is 0.75 steps away.
    """

    def __init__(self) -> None:
        self._mean: np.ndarray | None = None
        self._level: np.ndarray | None = None

    @property
    def bgr(self) -> tuple[float, float, float]:
        """Colour now, each channel the middle of a level of `SKIN_STEP`, 4-252."""
        if self._level is None:
            return DEFAULT_SKIN_BGR
        b, g, r = (float(v) for v in self._level * SKIN_STEP + SKIN_STEP / 2)
        return b, g, r

    def add(self, colour: Float[np.ndarray, " 3"] | None) -> None:
        """Take in one measurement; None leaves the colour as it was."""
        if colour is None:
            return
        self._mean = colour if self._mean is None else self._mean + 0.06 * (colour - self._mean)
        wanted = self._mean / SKIN_STEP - 0.5
        nearest = np.clip(np.round(wanted), 0, 256 // SKIN_STEP - 1)
        if self._level is None:
            self._level = nearest
        self._level = np.where(np.abs(wanted - self._level) > 0.75, nearest, self._level)


def skin_class(bgr: tuple[float, float, float]) -> int:
    """Nearest of `SKIN_CLASSES`, by the ratio of each channel.

    >>> skin_class((150.0, 180.0, 220.0))
    3
    """
    logs = np.log(np.maximum(np.array([bgr, *SKIN_CLASSES]), 8))
    return int(np.square(logs[1:] - logs[0]).sum(1).argmin())


def randomized_response(
    true: int, num_classes: int, *, epsilon: float, random: np.random.Generator
) -> int:
    """The true class with probability e^epsilon / (e^epsilon + k - 1), else one of the others.

    Guarantees: any answer is at most e^epsilon times as likely for one class as for another
    (epsilon-local differential privacy); epsilon 0 says nothing of the true class.

    Source: Kairouz, Oh, Viswanath: Extremal mechanisms for local differential privacy, 2014.
    """
    odds = math.exp(epsilon)
    if random.random() < odds / (odds + num_classes - 1):
        return true
    return int((true + random.integers(1, num_classes)) % num_classes)


class TrackSkin:
    """The skin colour that is sent of one track.

    Its class is drawn once and kept, so that many frames tell no more than one. What changes is
    only the light: half stops from the track's own first frame, in which the tone cancels out.

    Args:
        first: Skin colour in the track's first frame.
        epsilon: Of the class.
        random: Source of the answer.
    """

    def __init__(
        self, first: tuple[float, float, float], *, epsilon: float, random: np.random.Generator
    ) -> None:
        self.skin_class = randomized_response(
            skin_class(first), len(SKIN_CLASSES), epsilon=epsilon, random=random
        )
        self._first = _brightness(first)
        self._level = 0

    def __call__(self, now: tuple[float, float, float]) -> tuple[float, float, float]:
        """Colour to send, BGR 4-252."""
        stops = math.log2(_brightness(now) / self._first) / LIGHT_STEP
        if abs(stops - self._level) > 0.75:
            self._level = min(max(round(stops), -LIGHT_LEVELS), LIGHT_LEVELS)
        gain = 2.0 ** (self._level * LIGHT_STEP)
        b, g, r = (min(max(c * gain, 4.0), 252.0) for c in SKIN_CLASSES[self.skin_class])
        return b, g, r


def _brightness(bgr: tuple[float, float, float]) -> float:
    return max(sum(bgr) / 3, 8.0)
