"""Frame -> Scene: where the heads are, how they are turned, and what must be hidden."""

from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Float32

from veilcam.camera import head_model
from veilcam.camera.eyes import measure_gaze
from veilcam.camera.face_mesh import BOX_FACTOR, FaceMesh
from veilcam.camera.faces import FaceDetector
from veilcam.camera.light import SkinColour, measure_skin, measure_skin_coarse
from veilcam.camera.shading import measure_light
from veilcam.camera.track import SMALL_PX, Detection, OneEuro, Track, Tracker, box_iou
from veilcam.camera.types import Frame, Head, Scene

NUM_MESH_HEADS = 4
# the graph's flag is a probability already, so its sigmoid lies in 0.5-0.73
_MIN_FLAG = 0.62
_SURE_FLAG = 0.70
_MAX_MESH_DRIFT = 0.6  # of box sizes: a mesh whose centre left the box is another thing
_MIN_EXPECTED_IOU = 0.55  # a head found farther from where it was expected is looked at again
_MIN_JUDGED_PX = 40  # of a box: the mesh does not know smaller faces
_SIZE_UNIT_DEG = 30.0  # angles are filtered in units of 30 degrees, lengths in patch sizes
# Hull in eye distances around the point between the eyes: up, down, each side.
HULL_UP, HULL_DOWN, HULL_SIDE = 2.3, 1.95, 1.75
_HULL_POWER = 2.6  # superellipse: fuller than an ellipse at the hair
_THETA = np.linspace(0, 2 * np.pi, 32, endpoint=False)
_COS, _SIN = np.cos(_THETA), np.sin(_THETA)
_CIRCLE = np.stack([_COS, _SIN], axis=1)
_POWER = np.where(_SIN > 0, 1.0, 2 / _HULL_POWER)  # a plain ellipse at the jaw
_ACROSS = HULL_SIDE * np.sign(_COS) * np.abs(_COS) ** _POWER
_ALONG = np.sign(_SIN) * np.abs(_SIN) ** _POWER


@dataclass(slots=True)
class _Look:
    """What is remembered of one track between frames, relative to its box."""

    expression: dict[str, float]
    offset: Float[np.ndarray, " 2"]  # patch centre - box centre, in box widths
    size: float  # patch side in box widths
    angles: Float[np.ndarray, " 3"]
    skin: SkinColour = field(default_factory=SkinColour)
    smooth: OneEuro = field(default_factory=OneEuro)
    smooth_expression: OneEuro = field(default_factory=lambda: OneEuro(4.0, 8.0))
    unit_px: float = 0.0
    mesh: Float32[np.ndarray, "468 3"] | None = None


@dataclass(frozen=True, slots=True)
class _Early:
    """A head as it was measured where it was expected."""

    box: tuple[float, float, float, float]
    head: Head
    flag: float  # probability of a face, 0 where there is no mesh


class Analyser:
    """Finds and follows heads.

    The owner calls `begin`, may paint the heads it got, and then calls `finish`. `begin` looks at
    the heads known so far where they are expected, while the detector searches the frame on a
    thread of its own; `finish` waits for it and tells where all heads really are. In between,
    nobody may write to the frame.

    Args:
        assets: Folder with yunet.onnx and facemesh.onnx; by default the package's own.
        threads: Threads of the mesh session.

    Attributes:
        frame_skin: Skin colour of each head of the last scene, by track id, BGR 0-255.
        late: Tracks of the last scene that `begin` did not know or had at another place.
    """

    def __init__(self, assets: Path | None = None, *, threads: int = 1) -> None:
        folder = assets or Path(str(files("veilcam.camera") / "assets"))
        self._detector = FaceDetector(folder / "yunet.onnx")
        self._mesh = FaceMesh(folder / "facemesh.onnx", threads=threads)
        self._tracker = Tracker()
        self._looks: dict[int, _Look] = {}
        self._begun: tuple[Frame, dict[int, _Early]] | None = None
        self.frame_skin: dict[int, tuple[float, float, float]] = {}
        self.late: frozenset[int] = frozenset()

    def warm_up(self, size_hw: tuple[int, int]) -> None:
        """Run all graphs once on an empty picture of the stream's size, so that memory is there."""
        empty = np.zeros((*size_hw, 3), np.uint8)
        for _ in range(2):
            self._detector(empty)
        self._detector.forget()
        side = float(min(size_hw))
        self._mesh(empty, (side / 2, side / 2), side, 0.0)

    def __call__(self, frame: Frame) -> Scene:
        """Every head of the frame, largest first, with heads that are held unseen."""
        self.begin(frame)
        return self.finish()

    def begin(self, frame: Frame) -> Scene:
        """Heads known from earlier frames where they are expected in this one.

        Their hulls are no more than their boxes: only `finish` tells what must be hidden.
        """
        self._begun = None
        unseen = {track.track_id for track in self._tracker.tracks if track.missed_s > 0}
        tracks = self._tracker.predict(frame.time_s)
        doubts = [t for t in tracks if t.track_id in unseen or max(t.box_xywh[2:]) < SMALL_PX]
        doubts.sort(key=lambda t: (-t.missed_s, t.state[0, 2]))
        self._detector.begin(
            frame.bgr, tuple((float(t.state[0, 0]), float(t.state[0, 1])) for t in doubts)
        )
        early: dict[int, _Early] = {}
        for i, track in enumerate(tracks):
            box, landmarks = track.box_xywh, track.landmarks_xy
            flag = self._look_at(frame, track, box, landmarks, is_near=i < NUM_MESH_HEADS)
            early[track.track_id] = _Early(box, self._head(frame, track, box), flag)
        self._begun = (frame, early)
        self._note_skin()
        size_hw = (frame.bgr.shape[0], frame.bgr.shape[1])
        return Scene(size_hw=size_hw, heads=tuple(e.head for e in early.values()))

    def finish(self) -> Scene:
        """Every head of the frame given to `begin`, largest first, with hulls to hide.

        Raises:
            ValueError: The detector failed, or `begin` did.
        """
        detections = self._detector.finish()
        if self._begun is None:
            raise ValueError("got finish(), wanted begin() before it")
        (frame, early), self._begun = self._begun, None
        size_hw = (frame.bgr.shape[0], frame.bgr.shape[1])
        seen = self._tracker.update(detections, size_hw=size_hw)
        tracks = self._tracker.tracks
        self._looks = {t.track_id: v for t in tracks if (v := self._looks.get(t.track_id))}
        heads, late = [], set()
        for i, track in enumerate(tracks):
            detection, known = seen.get(track.track_id), early.get(track.track_id)
            box, landmarks = track.box_xywh, track.landmarks_xy
            if detection is not None:
                box, landmarks = detection.box_xywh, np.asarray(detection.landmarks, float)
            if known is None or not _is_near(known.box, box):
                late.add(track.track_id)
                is_near = i < NUM_MESH_HEADS
                flag = self._look_at(frame, track, box, landmarks, detection, is_near=is_near)
                known = _Early(box, self._head(frame, track, box), flag)
            elif detection is not None:
                self._take_in(frame, track, known.box, detection)
            look = self._looks[track.track_id]
            track.is_sure = track.is_sure or (detection is not None and known.flag > _SURE_FLAG)
            hull = head_hull(box, landmarks, mesh=look.mesh, missed_s=track.missed_s)
            is_judged = i < NUM_MESH_HEADS and max(box[2:]) >= _MIN_JUDGED_PX
            heads.append(replace(known.head, hull_xy=hull, is_predicted=detection is None,
                                 is_doubted=is_judged and not track.is_sure))  # fmt: skip
        self.late = frozenset(late)
        self._note_skin()
        return Scene(size_hw=size_hw, heads=tuple(heads))

    def _note_skin(self) -> None:
        self.frame_skin = {k: v.skin.bgr for k, v in self._looks.items()}

    def _look_at(
        self,
        frame: Frame,
        track: Track,
        box: tuple[float, float, float, float],
        landmarks: Float[np.ndarray, "5 2"],
        detection: Detection | None = None,
        *,
        is_near: bool,
    ) -> float:
        """Update the track's look in the box; the probability of a face, 0 without a mesh."""
        look = self._looks.get(track.track_id) or _first_look(box, landmarks)
        self._looks[track.track_id] = look
        look.mesh = None
        flag = self._measure_mesh(frame, look, box, landmarks) if is_near else 0.0
        if look.mesh is None and detection is not None:
            self._look_coarse(frame, look, detection)
        return flag

    def _take_in(
        self,
        frame: Frame,
        track: Track,
        expected: tuple[float, float, float, float],
        detection: Detection,
    ) -> None:
        """Bring a look that was measured at the expected place to where the head was found."""
        look = self._looks[track.track_id]
        if look.mesh is None:
            self._look_coarse(frame, look, detection)
            return
        old, new = (np.array(box) for box in (expected, detection.box_xywh))
        patch_xy = old[:2] + old[2:] / 2 + look.offset * old[2]
        look.offset = (patch_xy - new[:2] - new[2:] / 2) / new[2]
        look.size *= old[2] / new[2]

    def _look_coarse(self, frame: Frame, look: _Look, detection: Detection) -> None:
        landmarks = np.asarray(detection.landmarks, float)
        fresh = _first_look(detection.box_xywh, landmarks)
        look.offset, look.size, look.angles = fresh.offset, fresh.size, fresh.angles
        look.skin.add(measure_skin_coarse(frame.bgr, landmarks))

    def _head(self, frame: Frame, track: Track, box: tuple[float, float, float, float]) -> Head:
        """The head of a look at its box, smoothed over time; its hull is still the box."""
        look = self._looks[track.track_id]
        values = _placement(look, box)
        if not np.isfinite(values).all():
            raise ValueError("head pose is not finite")
        if look.unit_px == 0.0:
            look.unit_px = float(values[2])
        units = np.array([look.unit_px] * 3 + [_SIZE_UNIT_DEG] * 3)
        smooth = look.smooth(values / units, frame.time_s) * units
        names = tuple(look.expression)
        wanted = np.array([look.expression[name] for name in names])
        scalars = look.smooth_expression(wanted, frame.time_s)
        x, y, w, h = box
        return Head(
            track_id=track.track_id,
            center_xy=(float(smooth[0]), float(smooth[1])),
            size_px=float(smooth[2]),
            yaw_deg=float(smooth[3]),
            pitch_deg=float(smooth[4]),
            roll_deg=float(smooth[5]),
            expression={n: float(v) for n, v in zip(names, scalars, strict=True)},
            hull_xy=np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]]),
            is_predicted=True,
        )

    def _measure_mesh(
        self,
        frame: Frame,
        look: _Look,
        box: tuple[float, float, float, float],
        landmarks: Float[np.ndarray, "5 2"],
    ) -> float:
        """Update the look from the face mesh where it sees a face in the box; its probability."""
        x, y, w, h = box
        center = np.array([x + w / 2, y + h / 2])
        middle = (float(center[0]), float(center[1]))
        mesh, flag = self._mesh(frame.bgr, middle, BOX_FACTOR * max(w, h), _roll(landmarks))
        drift = np.abs(mesh[:, :2].mean(0) - center) / (w, h)
        if flag < _MIN_FLAG or not np.isfinite(mesh).all() or drift.max() > _MAX_MESH_DRIFT:
            return 0.0
        pose = head_model.fit_pose(mesh)
        patch_center, size_px = head_model.patch_placement(pose)
        look.mesh = mesh
        look.offset = (np.asarray(patch_center) - center) / w
        look.size = size_px / w
        look.angles = np.array([pose.yaw_deg, pose.pitch_deg, pose.roll_deg])
        gaze, light = measure_gaze(frame.bgr, mesh), measure_light(frame.bgr, mesh)
        look.expression = {
            **head_model.measure_expression(pose.canonical),
            **dict(zip(("gaze_x", "gaze_y", "light_x", "light_y"), (*gaze, *light), strict=True)),
        }
        look.skin.add(measure_skin(frame.bgr, mesh[:, :2].astype(float)))
        return flag


def head_hull(
    box: tuple[float, float, float, float],
    landmarks: Float[np.ndarray, "5 2"],
    *,
    mesh: Float32[np.ndarray, "468 3"] | None = None,
    missed_s: float = 0.0,
) -> Float[np.ndarray, "n 2"]:
    """Convex polygon that covers the whole head: hair, ears and chin.

    Guarantees: it contains the ellipse in the box, every mesh point and the landmarks, and grows
    with `missed_s`.

    Args:
        box: Face box, left, top, width, height, frame pixels.
        landmarks: Five face landmarks, frame pixels.
        mesh: Face mesh points, frame pixels, where one was measured.
        missed_s: Time since the face was last seen; the hull grows by 80 % a second.
    """
    x, y, w, h = box
    eyes = landmarks[:2].mean(0)
    unit = max(float(np.hypot(*(landmarks[0] - landmarks[1]))), 0.42 * w, 0.32 * h)
    angle = np.deg2rad(_roll(landmarks))
    right = np.array([np.cos(angle), np.sin(angle)])
    down = np.array([-right[1], right[0]])
    # a turned head shows its back on the side that the nose turns away from
    turn = float(np.clip((eyes - landmarks[2]) @ right / unit, -1.0, 1.0))
    across = _ACROSS * np.where(_COS * turn > 0, 1 + 1.2 * abs(turn), 1 - 0.3 * abs(turn))
    along = np.where(_ALONG < 0, HULL_UP * _ALONG, HULL_DOWN * _ALONG)
    shell = eyes + unit * (across[:, None] * right + along[:, None] * down)
    face = np.array([x + w / 2, y + h / 2]) + 0.51 * _CIRCLE * (w, h)
    points = [shell, face, np.asarray(landmarks, float)]
    if mesh is not None:
        points.append(mesh[:, :2].astype(float))
    hull = cv2.convexHull(np.concatenate(points).astype(np.float32))[:, 0].astype(float)
    middle = hull.mean(0)
    return np.asarray(middle + (1 + 0.8 * missed_s) * (hull - middle))


def _is_near(
    expected: tuple[float, float, float, float], found: tuple[float, float, float, float]
) -> bool:
    return box_iou(expected, found) >= _MIN_EXPECTED_IOU


def _roll(landmarks: Float[np.ndarray, "5 2"]) -> float:
    """Degrees clockwise by which the line through the eyes is turned."""
    dx, dy = landmarks[1] - landmarks[0]
    return float(np.rad2deg(np.arctan2(dy, max(abs(dx), 1e-6))))


def _first_look(
    box: tuple[float, float, float, float], landmarks: Float[np.ndarray, "5 2"]
) -> _Look:
    """Pose from five landmarks alone: for heads that no mesh was measured on."""
    x, y, w, h = box
    roll_deg = _roll(landmarks)
    unit = max(float(np.hypot(*(landmarks[0] - landmarks[1]))), 0.42 * w, 0.32 * h)
    across = landmarks[:2].mean(0) - landmarks[2]
    yaw_deg = float(np.clip(-60 * across[0] / unit, -60, 60))
    pose = head_model.HeadPose(
        yaw_deg=yaw_deg,
        pitch_deg=0.0,
        roll_deg=roll_deg,
        scale=unit,
        center_xy=(x + w / 2, y + h / 2),
        canonical=head_model.reference_mesh(),
    )
    center, size_px = head_model.patch_placement(pose)
    return _Look(
        expression={
            **head_model.measure_expression(pose.canonical),
            **dict.fromkeys(("gaze_x", "gaze_y", "light_x", "light_y"), 0.0),
        },
        offset=(np.asarray(center) - (x + w / 2, y + h / 2)) / w,
        size=size_px / w,
        angles=np.array([yaw_deg, 0.0, roll_deg]),
    )


def _placement(look: _Look, box: tuple[float, float, float, float]) -> Float[np.ndarray, " 6"]:
    """Patch centre x, y, side (px), yaw, pitch, roll (degrees) of a look at the box's place."""
    x, y, w, h = box
    center = np.array([x + w / 2, y + h / 2]) + look.offset * w
    return np.concatenate([center, [look.size * w], look.angles])
