"""The judge's own eyes: faces in a picture, with landmarks measured upright."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

_PASSES = 8
_UPRIGHT_DEG = 4.0  # a head turned less than this needs no second look
_STEADY_DEG = 1.5  # an angle that moves less between two looks is the angle
_SIDE_PX = 256  # of the upright crop
_CROP_FACTOR = 2.0  # its side over the longer side of the face box


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face seen by the judge.

    Attributes:
        box_xywh: Left, top, width, height in picture pixels, measured in the upright view.
        landmarks: Right eye, left eye, nose, mouth corners (the person's own sides), pixels.
        score: Detector's confidence, 0-1.
    """

    box_xywh: tuple[float, float, float, float]
    landmarks: Float[np.ndarray, "5 2"]
    score: float

    @property
    def center(self) -> Float[np.ndarray, " 2"]:
        """Centre of the box."""
        x, y, w, h = self.box_xywh
        return np.array([x + w / 2, y + h / 2])

    @property
    def roll_deg(self) -> float:
        """Angle of the line through the eyes, clockwise in the picture."""
        across = self.landmarks[1] - self.landmarks[0]
        return float(np.rad2deg(np.arctan2(across[1], across[0])))

    @property
    def yaw(self) -> float:
        """Nose beside the middle of the eyes, in eye distances; > 0 to the picture's right."""
        across = self.landmarks[1] - self.landmarks[0]
        span = max(float(np.hypot(*across)), 1e-6)
        aside = self.landmarks[2] - self.landmarks[:2].mean(0)
        return float(aside @ across / span**2)

    def is_at(self, other: "Face") -> bool:
        """True where another face lies in the same place at a like size."""
        size, theirs = np.array(self.box_xywh[2:]), np.array(other.box_xywh[2:])
        ratio = float(theirs.prod() / max(size.prod(), 1e-6))
        is_near = np.all(np.abs(self.center - other.center) < size / 2)
        return bool(is_near) and 0.25 < ratio < 4


class FaceFinder:
    """Finds faces at full resolution, independent of the product's detector settings.

    The detector pulls the landmarks of tilted heads toward upright: heads tilted by 40 degrees
    were measured at 16-18. A recognizer that is aligned by such landmarks sees skewed crops, and
    skewed crops of different people look alike to it. So every face is turned upright and
    measured again until the angle stays.

    Args:
        model: YuNet ONNX file; by default the package's own.
        min_score: Score from which a face counts.
    """

    def __init__(self, model: Path | None = None, *, min_score: float = 0.5) -> None:
        path = model or Path(str(files("veilcam.camera") / "assets" / "yunet_320.onnx"))
        self._detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), min_score, 0.3, 200)

    def __call__(self, bgr: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Every face, largest first."""
        found = [self._turn_upright(bgr, face) for face in self._detect(bgr)]
        return sorted(found, key=lambda f: -f.box_xywh[2] * f.box_xywh[3])

    def _detect(self, bgr: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        self._detector.setInputSize((bgr.shape[1], bgr.shape[0]))
        rows = self._detector.detect(np.ascontiguousarray(bgr))[1]
        return [] if rows is None else [_face(row) for row in np.asarray(rows, float)]

    def _turn_upright(self, bgr: UInt8[np.ndarray, "h w 3"], face: Face) -> Face:
        best, angle = face, face.roll_deg
        if abs(angle) < _UPRIGHT_DEG:
            return face
        for _ in range(_PASSES):
            side = _CROP_FACTOR * max(best.box_xywh[2:])
            matrix = turned_square(best.center, side, angle, _SIDE_PX)
            crop = cv2.warpAffine(
                bgr, matrix, (_SIDE_PX, _SIDE_PX), borderMode=cv2.BORDER_REPLICATE
            )
            middle = np.full(2, _SIDE_PX / 2)
            near = [f for f in self._detect(crop) if np.abs(f.center - middle).max() < _SIDE_PX / 4]
            if not near:
                return best
            best = _moved(max(near, key=lambda f: f.score), matrix, side / _SIDE_PX)
            change, angle = abs(best.roll_deg - angle), best.roll_deg
            if change < _STEADY_DEG:
                return best
        return best


def fit_similarity(
    source: Float[np.ndarray, "n 2"], target: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "2 3"]:
    """Affine matrix of the rotation, scale and shift that take source nearest to target.

    All points count alike (a robust fit drops two of five landmarks and tilts the crop).

    Source: Umeyama 1991, Least-squares estimation of transformation parameters.
    """
    source, target = np.asarray(source, float), np.asarray(target, float)
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = float((singular * sign).sum() / max(np.square(a).sum(), 1e-9))
    matrix = np.zeros((2, 3))
    matrix[:, :2] = scale * rotation
    matrix[:, 2] = target_mean - scale * rotation @ source_mean
    return matrix


def turned_square(
    center: Float[np.ndarray, " 2"], side_px: float, roll_deg: float, out_px: int
) -> Float[np.ndarray, "2 3"]:
    """Affine matrix that takes a turned square of the picture to an upright one of `out_px`."""
    angle, scale = np.deg2rad(roll_deg), out_px / max(side_px, 1e-6)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[cos, sin, 0.0], [-sin, cos, 0.0]])
    matrix[:, 2] = out_px / 2 - matrix[:, :2] @ center
    return matrix


def _face(row: Float[np.ndarray, " 15"]) -> Face:
    x, y, w, h = (float(v) for v in row[:4])
    return Face((x, y, w, h), row[4:14].reshape(5, 2), float(row[14]))


def _moved(face: Face, matrix: Float[np.ndarray, "2 3"], scale: float) -> Face:
    """A face of an upright crop, back in the picture."""
    back = cv2.invertAffineTransform(matrix)
    x, y = back[:, :2] @ face.center + back[:, 2]
    w, h = face.box_xywh[2] * scale, face.box_xywh[3] * scale
    landmarks = face.landmarks @ back[:, :2].T + back[:, 2]
    return Face((float(x - w / 2), float(y - h / 2), w, h), landmarks, face.score)
