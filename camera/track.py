"""Face detections over time: a compact Kalman tracker that rather holds than loses a face."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

NEW_TRACK_SCORE = 0.6
NEW_SMALL_SCORE = 0.5  # small faces score lower than large ones, hands and prints are mostly large
SMALL_PX = 64
KEEP_TRACK_SCORE = 0.3
SURE_SCORE = 0.8
MAX_HOLD_S = 1.0
UNSURE_HOLD_S = 0.07
_ACCELERATION = 12.0  # of box sizes per s^2: standard deviation of what the model does not know
_MEASUREMENT = 0.04  # of box sizes: standard deviation of a detector's box


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One face seen by the detector.

    Attributes:
        box_xywh: Left, top, width, height in frame pixels, may reach over the border.
        landmarks: Right eye, left eye, nose, right and left mouth corner (the person's own sides).
        score: Detector's confidence, 0-1.
    """

    box_xywh: tuple[float, float, float, float]
    landmarks: Float[np.ndarray, "5 2"]
    score: float


@dataclass(slots=True, eq=False)
class Track:
    """One face over time. The tracker owns and changes it; others read it in the same step.

    Attributes:
        state: Box centre x, y, width, height (px), row 0; their speeds (px/s), row 1.
        landmarks: Five landmarks relative to the box: (x - centre) / size.
        missed_s: Time since the face was last detected; 0 when it was in this frame.
        is_sure: A second look (face mesh, or a high score) agreed that this is a face. What is not
            sure is hidden where it is seen, but not held for long: hands look like faces at times.
    """

    track_id: int
    state: Float[np.ndarray, "2 4"]
    landmarks: Float[np.ndarray, "5 2"]
    covariance: Float[np.ndarray, "2 2"] = field(default_factory=lambda: np.diag([0.01, 4.0]))
    hits: int = 1
    missed_s: float = 0.0
    is_sure: bool = False

    @property
    def box_xywh(self) -> tuple[float, float, float, float]:
        """Left, top, width, height now."""
        x, y, w, h = (float(v) for v in self.state[0])
        return x - w / 2, y - h / 2, w, h

    @property
    def landmarks_xy(self) -> Float[np.ndarray, "5 2"]:
        """The five landmarks now, in frame pixels."""
        return self.state[0, :2] + self.landmarks * self.state[0, 2:]

    @property
    def hold_s(self) -> float:
        """How long this face is held without being seen: longer once it has been seen often."""
        return min(MAX_HOLD_S, 0.5 + 0.1 * self.hits) if self.is_sure else UNSURE_HOLD_S

    def predict(self, elapsed_s: float) -> None:
        """Move on by `elapsed_s`; while the face is unseen its speed dies away."""
        step = np.array([[1.0, elapsed_s], [0.0, 1.0]])
        if self.missed_s > 0:
            self.state[1] *= np.exp(-4.0 * elapsed_s)
        self.state[1, 2:] *= np.exp(-8.0 * elapsed_s)
        self.state = step @ self.state
        self.state[0, 2:] = np.maximum(self.state[0, 2:], 4.0)
        half = np.array([[elapsed_s**2 / 2], [elapsed_s]])
        self.covariance = step @ self.covariance @ step.T + _ACCELERATION**2 * (half @ half.T)
        self.missed_s += elapsed_s

    def correct(self, detection: Detection) -> None:
        """Take in a detection: the centre and size follow by the Kalman gain."""
        x, y, w, h = detection.box_xywh
        measured = np.array([x + w / 2, y + h / 2, w, h])
        gain = self.covariance[:, :1] / (self.covariance[0, 0] + _MEASUREMENT**2)
        self.state = self.state + gain * (measured - self.state[0])
        self.covariance = self.covariance - gain @ self.covariance[:1]
        self.landmarks = _relative_landmarks(detection)
        self.hits += 1
        self.missed_s = 0.0
        self.is_sure = self.is_sure or detection.score >= SURE_SCORE


class Tracker:
    """Joins detections to tracks, nearest first; unseen tracks are predicted and held.

    Args:
        new_score: Score from which a large detection starts a track.
    """

    def __init__(self, *, new_score: float = NEW_TRACK_SCORE) -> None:
        self._new_score = new_score
        self._tracks: list[Track] = []
        self._next_id = 0
        self._time_s: float | None = None

    @property
    def tracks(self) -> tuple[Track, ...]:
        """All tracks now held, largest first."""
        return tuple(sorted(self._tracks, key=lambda t: -t.state[0, 2] * t.state[0, 3]))

    def predict(self, time_s: float) -> tuple[Track, ...]:
        """Move all tracks to `time_s` and return them; a clock that jumps counts as one frame."""
        elapsed_s = 0.0 if self._time_s is None else time_s - self._time_s
        if self._time_s is not None and not 0.0 < elapsed_s <= MAX_HOLD_S:
            elapsed_s = 1 / 30
        self._time_s = time_s
        if elapsed_s > 0:
            for track in self._tracks:
                track.predict(elapsed_s)
        return self.tracks

    def update(
        self, detections: tuple[Detection, ...], *, size_hw: tuple[int, int]
    ) -> dict[int, Detection]:
        """Correct tracks, start new ones, end those unseen too long or out of the picture.

        Args:
            detections: Faces of this frame, at most one for each face, scores >= 0.3.
            size_hw: Frame height and width in pixels.

        Returns:
            The detection of each track that was seen in this frame, by track id.
        """
        seen: dict[int, Detection] = {}
        free = list(self._tracks)
        for distance, track, detection in _pairs(free, detections):
            if track.track_id in seen or any(detection is d for d in seen.values()):
                continue
            if distance < 1.0:
                track.correct(detection)
                seen[track.track_id] = detection
        for detection in detections:
            is_new = all(detection is not d for d in seen.values())
            is_small = max(detection.box_xywh[2:]) < SMALL_PX
            if is_new and detection.score >= (
                min(NEW_SMALL_SCORE, self._new_score) if is_small else self._new_score
            ):
                seen[self._start(detection)] = detection
        self._end_lost(seen, size_hw)
        return {k: v for k, v in seen.items() if any(t.track_id == k for t in self._tracks)}

    def _start(self, detection: Detection) -> int:
        x, y, w, h = detection.box_xywh
        state = np.array([[x + w / 2, y + h / 2, w, h], [0.0, 0.0, 0.0, 0.0]])
        track = Track(self._next_id, state, _relative_landmarks(detection))
        track.is_sure = detection.score >= SURE_SCORE
        self._tracks.append(track)
        self._next_id += 1
        return track.track_id

    def _end_lost(self, seen: dict[int, Detection], size_hw: tuple[int, int]) -> None:
        kept: list[Track] = []
        for track in sorted(self._tracks, key=lambda t: (t.track_id not in seen, t.track_id)):
            x, y, w, h = track.box_xywh
            is_inside = x + w > 0 and y + h > 0 and x < size_hw[1] and y < size_hw[0]
            is_double = track.track_id not in seen and any(
                box_iou(track.box_xywh, other.box_xywh) > 0.5 for other in kept
            )
            if track.missed_s <= track.hold_s and is_inside and not is_double:
                kept.append(track)
        self._tracks = kept


class OneEuro:
    """One Euro filter over a vector: still when still, quick when quick.

    Source: Casiez, Roussel, Vogel: 1 Euro Filter, CHI 2012.
    """

    def __init__(self, min_cutoff_hz: float = 1.5, beta: float = 4.0) -> None:
        self._min_cutoff_hz, self._beta = min_cutoff_hz, beta
        self._value: np.ndarray | None = None
        self._speed: np.ndarray | None = None
        self._time_s = 0.0

    def __call__(self, value: Float[np.ndarray, " n"], time_s: float) -> Float[np.ndarray, " n"]:
        """The smoothed value at `time_s`; the first value passes unchanged."""
        elapsed_s = time_s - self._time_s
        if not 0.0 < elapsed_s <= MAX_HOLD_S:
            elapsed_s = 1 / 30
        self._time_s = time_s
        if self._value is None or self._speed is None:
            self._value, self._speed = value, np.zeros_like(value)
            return value
        speed = (value - self._value) / elapsed_s
        self._speed = self._speed + _smoothing(1.0, elapsed_s) * (speed - self._speed)
        cutoff_hz = self._min_cutoff_hz + self._beta * np.abs(self._speed)
        self._value = self._value + _smoothing(cutoff_hz, elapsed_s) * (value - self._value)
        return self._value


def _smoothing(cutoff_hz: float | np.ndarray, elapsed_s: float) -> float | np.ndarray:
    rate = 2 * np.pi * cutoff_hz * elapsed_s
    return rate / (rate + 1)


def box_iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes (left, top, width, height).

    >>> box_iou((0.0, 0.0, 2.0, 2.0), (1.0, 0.0, 2.0, 2.0))
    0.3333333333333333
    """
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    overlap = max(w, 0) * max(h, 0)
    return overlap / max(a[2] * a[3] + b[2] * b[3] - overlap, 1e-9)


def _relative_landmarks(detection: Detection) -> Float[np.ndarray, "5 2"]:
    x, y, w, h = detection.box_xywh
    return (np.asarray(detection.landmarks, float) - (x + w / 2, y + h / 2)) / (w, h)


def _pairs(
    tracks: list[Track], detections: tuple[Detection, ...]
) -> list[tuple[float, Track, Detection]]:
    """Every pair with its distance in box sizes (centre and scale), nearest first."""
    pairs: list[tuple[float, Track, Detection]] = []
    for track in tracks:
        for detection in detections:
            x, y, w, h = detection.box_xywh
            size = float(np.sqrt(max(w * h, 1.0) * track.state[0, 2] * track.state[0, 3])) ** 0.5
            move = np.hypot(x + w / 2 - track.state[0, 0], y + h / 2 - track.state[0, 1]) / size
            scale = abs(np.log(max(w * h, 1.0) / (track.state[0, 2] * track.state[0, 3]))) / 4
            reach = 1.0 + 2.0 * min(track.missed_s, 0.5)
            pairs.append((float(move + scale) / reach, track, detection))
    return sorted(pairs, key=lambda p: p[0])
