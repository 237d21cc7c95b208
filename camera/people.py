"""Frame -> People: boxes every few frames, followed by a tracker, key points of each person."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from veilcam.camera.body import SURE_SCORE, colours_of, completed, facing_features, whole_box
from veilcam.camera.person_boxes import PersonBoxes
from veilcam.camera.pose import PoseModel
from veilcam.camera.scene_types import Box, People, Person
from veilcam.camera.track import Detection, OneEuro, Track, Tracker, box_iou
from veilcam.camera.types import Frame

DETECT_EVERY_S = 0.09
NUM_POSES = 4  # looked at in one frame; the others are carried on
NUM_POSES_FAST = 2  # where frames come quicker than every `_FAST_S`: everybody in turn
_FAST_S = 0.05
NEW_SCORE = 0.4
PROVE_EVERY_S = 10.0
_MARGIN = 0.15  # of a box: no background is learned there
_MIN_POSE_SCORE = 0.25  # mean over points: with this a track is held when it is missed
_MISSED_S, _NO_POSE_SCORE = 0.15, 0.12
_Found = tuple[tuple[Box, float], ...]


@runtime_checkable
class Detect(Protocol):
    """Boxes and scores of the people in a picture."""

    def __call__(self, bgr: UInt8[np.ndarray, "h w 3"]) -> _Found:
        """Best first, frame pixels."""


@runtime_checkable
class Pose(Protocol):
    """Key points of the person in a box."""

    def __call__(
        self, bgr: UInt8[np.ndarray, "h w 3"], box_xywh: Box
    ) -> Float32[np.ndarray, "17 3"]:
        """x, y and score, frame pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """A picture with a person in it who does not exist: what the detector must find."""

    bgr: UInt8[np.ndarray, "h w 3"]
    box_xywh: Box


@dataclass(slots=True)
class _Look:
    """What is remembered of one track; points relative to its box: (x - left) / width, ..."""

    points: Float32[np.ndarray, "17 3"]
    facing: np.ndarray
    colours: Float32[np.ndarray, "4 3"]
    seen_s: float
    smooth: OneEuro = field(default_factory=lambda: OneEuro(2.0, 6.0))


class PeopleAnalyser:
    """Finds and follows people.

    Args:
        facing: Table from `body.facing_features` to cosine and sine, (52, 2).
        proof: Shown to the detector now and then: one that finds nobody there is dead, and
            nothing is learned of the background. Without one it never counts as alive.
        detect, pose: By default YOLOX-nano and MoveNet of the package.
    """

    def __init__(
        self,
        facing: Float32[np.ndarray, "52 2"],
        *,
        proof: Proof | None,
        detect: Detect | None = None,
        pose: Pose | None = None,
    ) -> None:
        assets = Path(str(files("veilcam.camera") / "assets"))
        self._detect = detect or PersonBoxes(assets / "yolox.onnx")
        self._pose = pose or PoseModel(assets / "movenet.onnx")
        self._facing, self._proof = facing, proof
        self._tracker = Tracker(new_score=NEW_SCORE)
        self._looks: dict[int, _Look] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="veilcam-people")
        self._detected_s = self._proved_s = self._last_s = -1e9
        self._is_alive = False
        self._last: _Found = ()

    def warm_up(self, size_hw: tuple[int, int]) -> None:
        """Run both graphs once, so that memory is there."""
        empty = np.zeros((*size_hw, 3), np.uint8)
        self._detect(empty)
        self._pose(empty, (0.0, 0.0, float(size_hw[1]), float(size_hw[0])))

    def __call__(self, frame: Frame) -> People:
        """Everybody in the frame, largest first.

        While the detector searches on a thread of its own, known people are looked at where they
        are expected; nobody may write to the frame.

        Raises:
            ValueError: A model gave no numbers.
        """
        size_hw = (frame.bgr.shape[0], frame.bgr.shape[1])
        search = self._begin(frame)
        due = self._due(self._tracker.predict(frame.time_s), frame.time_s)
        looked = {track.track_id for track in due}
        try:
            for track in due:
                self._look_at(frame, track)
        finally:
            found = search.result() if search is not None else None
        if found is not None:
            self._last = found
            self._tracker.update(_as_detections(found), size_hw=size_hw)
            for track in self._tracker.tracks:
                if track.track_id not in self._looks and len(looked) < 2 * NUM_POSES:
                    self._look_at(frame, track)
                    looked.add(track.track_id)
        tracks = self._tracker.tracks
        self._looks = {t.track_id: v for t in tracks if (v := self._looks.get(t.track_id))}
        people = tuple(
            self._person(frame, t, self._looks[t.track_id], is_predicted=t.track_id not in looked)
            for t in tracks
            if t.track_id in self._looks
        )
        boxes = [box for box, _ in self._last] + [p.box_xywh for p in people]
        hidden = tuple(_grown(box) for box in boxes)
        return People(size_hw=size_hw, people=people, hidden=hidden, is_alive=self._is_alive)

    def _due(self, tracks: tuple[Track, ...], time_s: float) -> tuple[Track, ...]:
        """Who is looked at in this frame: those who were not for the longest time."""
        is_fast = 0 < time_s - self._last_s < _FAST_S
        self._last_s = time_s
        looks = self._looks
        waiting = sorted(
            tracks, key=lambda t: looks[t.track_id].seen_s if t.track_id in looks else -1e9
        )
        return tuple(waiting[: NUM_POSES_FAST if is_fast else NUM_POSES])

    def _begin(self, frame: Frame) -> "Future[_Found] | None":
        elapsed_s = frame.time_s - self._detected_s
        if 0 <= elapsed_s < DETECT_EVERY_S:
            return None
        self._detected_s = frame.time_s
        is_due = not 0 <= frame.time_s - self._proved_s < PROVE_EVERY_S or not self._is_alive
        if is_due:
            self._proved_s = frame.time_s
        return self._thread.submit(self._search, frame.bgr, proves=is_due)

    def _search(self, bgr: UInt8[np.ndarray, "h w 3"], *, proves: bool) -> _Found:
        if proves:
            self._is_alive = False  # stays so where the detector raises
            if self._proof is not None:
                seen = self._detect(self._proof.bgr)
                self._is_alive = any(box_iou(b, self._proof.box_xywh) > 0.5 for b, _ in seen)
        return self._detect(bgr)

    def _look_at(self, frame: Frame, track: Track) -> None:
        box = track.box_xywh
        points = self._pose(frame.bgr, box)
        if points.shape != (17, 3) or not np.isfinite(points).all():
            raise ValueError("key points are not finite")
        pose_score = float(points[:, 2].mean())
        track.is_sure = track.is_sure or pose_score >= _MIN_POSE_SCORE
        if track.missed_s > _MISSED_S and pose_score < _NO_POSE_SCORE:
            track.is_sure = False  # no body is there any more: it is not held to the end
        x, y, width, height = box
        relative = points.copy()
        relative[:, :2] = (points[:, :2] - (x, y)) / (width, height)
        facing = (facing_features(points[None]) @ self._facing)[0]
        look = self._looks.get(track.track_id)
        if look is None:
            colours = colours_of(frame.bgr, completed(points, box, frame.bgr.shape[:2]), box)
            self._looks[track.track_id] = _Look(relative, facing, colours, frame.time_s)
            return
        look.seen_s = frame.time_s
        look.facing = look.facing + 0.3 * (facing - look.facing)
        # a point that was not seen must not pull on one that was
        weight = np.clip(relative[:, 2:] / SURE_SCORE, 0.2, 1.0)
        look.points = look.points + weight * (relative - look.points)

    def _person(self, frame: Frame, track: Track, look: _Look, *, is_predicted: bool) -> Person:
        x, y, width, height = track.box_xywh
        points = look.points.copy()
        points[:, :2] = points[:, :2] * (width, height) + (x, y)
        size_hw = (frame.bgr.shape[0], frame.bgr.shape[1])
        points = completed(points, track.box_xywh, size_hw)
        box = whole_box(track.box_xywh, points, size_hw)
        unit = max(float(track.state[0, 3]), 1.0)
        smooth = look.smooth(np.concatenate([box, points[:, :2].reshape(-1)]) / unit, frame.time_s)
        flat = smooth * unit
        points[:, :2] = flat[4:].reshape(17, 2)
        if not np.isfinite(flat).all():
            raise ValueError("a person's place is not finite")
        left, top, wide, high = (float(v) for v in flat[:4])
        return Person(
            track_id=track.track_id,
            box_xywh=(left, top, max(wide, 2.0), max(high, 4.0)),
            points=points.astype(np.float32),
            facing_deg=float(np.rad2deg(np.arctan2(look.facing[1], look.facing[0]))),
            colours_bgr=look.colours,
            is_predicted=is_predicted,
        )


def _as_detections(found: _Found) -> tuple[Detection, ...]:
    """Boxes as the tracker wants them; it asks for landmarks, a body's are all its middle."""
    out = []
    for (x, y, width, height), score in found:
        numbers = np.array([x, y, width, height, score])
        if not np.isfinite(numbers).all() or width <= 0 or height <= 0:
            raise ValueError("a person's box is not finite")
        middle = np.tile([x + width / 2, y + height / 2], (5, 1))
        out.append(Detection((x, y, width, height), middle, score))
    return tuple(out)


def _grown(box: Box) -> Box:
    x, y, width, height = box
    margin = _MARGIN * max(width, 0.5 * height) + 4
    return x - margin, y - margin, width + 2 * margin, height + 2 * margin
