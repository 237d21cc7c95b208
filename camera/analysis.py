"""Frame -> Scene: where the heads are, how they are turned, and what must be hidden."""

from dataclasses import dataclass, field
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
from veilcam.camera.track import Detection, OneEuro, Track, Tracker
from veilcam.camera.types import Frame, Head, Scene

NUM_MESH_HEADS = 4
# the graph's flag is a probability already, so its sigmoid lies in 0.5-0.73
_MIN_FLAG = 0.62
_SURE_FLAG = 0.70
_MAX_MESH_DRIFT = 0.6  # of box sizes: a mesh whose centre left the box is another thing
_SIZE_UNIT_DEG = 30.0  # angles are filtered in units of 30 degrees, lengths in patch sizes
# Hull in eye distances around the point between the eyes: up, down, each side.
HULL_UP, HULL_DOWN, HULL_SIDE = 2.3, 1.95, 1.75
_HULL_POWER = 2.6  # superellipse: fuller than an ellipse at the hair


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


class Analyser:
    """Finds and follows heads.

    Args:
        assets: Folder with yunet.onnx and facemesh.onnx; by default the package's own.
        threads: Threads of the mesh session.

    Attributes:
        frame_skin: Skin colour of each head of the last scene, by track id, BGR 0-255.
    """

    def __init__(self, assets: Path | None = None, *, threads: int = 2) -> None:
        folder = assets or Path(str(files("veilcam.camera") / "assets"))
        self._detector = FaceDetector(folder / "yunet.onnx")
        self._mesh = FaceMesh(folder / "facemesh.onnx", threads=threads)
        self._tracker = Tracker()
        self._looks: dict[int, _Look] = {}
        self.frame_skin: dict[int, tuple[float, float, float]] = {}

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
        size_hw = (frame.bgr.shape[0], frame.bgr.shape[1])
        predicted = self._tracker.predict(frame.time_s)
        doubt_xy = tuple(
            (float(t.state[0, 0]), float(t.state[0, 1]))
            for t in sorted(predicted, key=lambda t: (-t.missed_s, t.state[0, 2]))
        )
        seen = self._tracker.update(self._detector(frame.bgr, doubt_xy), size_hw=size_hw)
        tracks = self._tracker.tracks
        self._looks = {t.track_id: v for t in tracks if (v := self._looks.get(t.track_id))}
        heads = tuple(
            self._head(frame, track, seen.get(track.track_id), is_near=i < NUM_MESH_HEADS)
            for i, track in enumerate(tracks)
        )
        self.frame_skin = {k: v.skin.bgr for k, v in self._looks.items()}
        return Scene(size_hw=size_hw, heads=heads)

    def _head(
        self, frame: Frame, track: Track, detection: Detection | None, *, is_near: bool
    ) -> Head:
        box, landmarks = track.box_xywh, track.landmarks_xy
        if detection is not None:
            box, landmarks = detection.box_xywh, np.asarray(detection.landmarks, float)
        look = self._looks.get(track.track_id) or _first_look(box, landmarks)
        self._looks[track.track_id] = look
        look.mesh = None
        if is_near:
            flag = self._measure_mesh(frame, look, box, landmarks)
            track.is_sure = track.is_sure or (detection is not None and flag > _SURE_FLAG)
        if look.mesh is None and detection is not None:
            fresh = _first_look(box, landmarks)
            look.offset, look.size, look.angles = fresh.offset, fresh.size, fresh.angles
            look.skin.add(measure_skin_coarse(frame.bgr, landmarks))
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
        return Head(
            track_id=track.track_id,
            center_xy=(float(smooth[0]), float(smooth[1])),
            size_px=float(smooth[2]),
            yaw_deg=float(smooth[3]),
            pitch_deg=float(smooth[4]),
            roll_deg=float(smooth[5]),
            expression={n: float(v) for n, v in zip(names, scalars, strict=True)},
            hull_xy=head_hull(box, landmarks, mesh=look.mesh, missed_s=track.missed_s),
            is_predicted=detection is None,
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
    theta = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    cos, sin = np.cos(theta), np.sin(theta)
    power = np.where(sin > 0, 1.0, 2 / _HULL_POWER)  # a plain ellipse at the jaw
    across = HULL_SIDE * np.sign(cos) * np.abs(cos) ** power
    across = across * np.where(cos * turn > 0, 1 + 1.2 * abs(turn), 1 - 0.3 * abs(turn))
    along = np.sign(sin) * np.abs(sin) ** power
    along = np.where(along < 0, HULL_UP * along, HULL_DOWN * along)
    shell = eyes + unit * (across[:, None] * right + along[:, None] * down)
    face = np.array([x + w / 2, y + h / 2]) + 0.51 * np.stack([w * cos, h * sin], axis=1)
    points = [shell, face, np.asarray(landmarks, float)]
    if mesh is not None:
        points.append(mesh[:, :2].astype(float))
    hull = cv2.convexHull(np.concatenate(points).astype(np.float32))[:, 0].astype(float)
    middle = hull.mean(0)
    return np.asarray(middle + (1 + 0.8 * missed_s) * (hull - middle))


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
