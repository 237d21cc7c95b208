"""Picture -> faces: one pass of YuNet, a tiny anchor-free face detector."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from jaxtyping import UInt8

from veilcam.camera.changes import Box
from veilcam.camera.errors import GraphError
from veilcam.camera.track import KEEP_TRACK_SCORE, Detection, box_iou

GRID_PX = 32  # the coarsest stride: sides of a picture are multiples of it
_MAX_FACES = 64
_STRIDES = (8, 16, 32)
_HEADS = ("cls", "obj", "bbox", "kps")
_OUTPUTS = tuple(f"{name}_{stride}" for stride in _STRIDES for name in _HEADS)


class YuNet:
    """The net on one thread.

    Args:
        model: Path of the ONNX file, with free height and width.

    Raises:
        GraphError: There is no such file.

    Source: Wu, Peng, Yu: YuNet, a tiny millisecond-level face detector, 2023.
    """

    def __init__(self, model: Path) -> None:
        if not model.is_file():
            raise GraphError(f"face detector {model} is missing; reinstall veilcam")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # it runs beside mesh and generator instead
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )

    def __call__(
        self,
        bgr: UInt8[np.ndarray, "h w 3"],
        scale_xy: tuple[float, float] = (1.0, 1.0),
        offset_xy: tuple[float, float] = (0.0, 0.0),
    ) -> list[Detection]:
        """Faces with score >= 0.3; one face may be there several times.

        Args:
            bgr: Picture; sides are multiples of 32.
            scale_xy: Frame pixels per pixel of the picture.
            offset_xy: Where in the frame the picture's pixel (0, 0) lies.

        Raises:
            ValueError: The net's scores are not finite.
        """
        planes = np.ascontiguousarray(bgr.transpose(2, 0, 1)[None], np.float32)
        heads = self._session.run(_OUTPUTS, {"input": planes})
        rows = []
        for i, stride in enumerate(_STRIDES):
            cls, obj, box, points = (v[0] for v in heads[4 * i : 4 * i + 4])
            score = cls[:, 0] * obj[:, 0]
            found = np.flatnonzero(~(score < KEEP_TRACK_SCORE**2))  # NaN is found, and refused
            if not len(found):
                continue
            sure = np.sqrt(np.clip(cls[found, 0], 0, 1) * np.clip(obj[found, 0], 0, 1))
            if not np.isfinite(sure).all():
                raise ValueError("face detector scores are not finite")
            y, x = np.divmod(found, bgr.shape[1] // stride)
            corner = np.stack([x, y], 1)
            middle = (corner + box[found, :2]) * stride
            size = np.exp(box[found, 2:]) * stride
            marks = (corner[:, None] + points[found].reshape(-1, 5, 2)) * stride
            rows += list(zip(sure.tolist(), middle, size, marks, strict=True))
        rows = sorted(rows, key=lambda row: -row[0])[: 4 * _MAX_FACES]
        return [_detection(row, np.asarray(scale_xy), np.asarray(offset_xy)) for row in rows]


def _detection(
    row: tuple[float, np.ndarray, np.ndarray, np.ndarray], scale: np.ndarray, offset: np.ndarray
) -> Detection:
    score, middle, size, marks = row
    x1, y1 = (middle - size / 2) * scale + offset
    w, h = size * scale
    box_xywh = (float(x1), float(y1), float(w), float(h))
    return Detection(box_xywh, marks * scale + offset, float(score))


def is_cut(detection: Detection, inner: Box) -> bool:
    """A face across an inner edge of what was searched: its box is wrong there."""
    x, y, w, h = detection.box_xywh
    margin = 2
    return bool(
        x < inner[0] + margin
        or y < inner[1] + margin
        or x + w > inner[2] - margin
        or y + h > inner[3] - margin
    )


def merge(found: list[Detection]) -> tuple[Detection, ...]:
    """Each face once: the better score wins where two boxes are the same face."""
    kept: list[Detection] = []
    for detection in sorted(found, key=lambda d: -d.score):
        if all(not _is_same(detection, other) for other in kept):
            kept.append(detection)
    return tuple(kept[:_MAX_FACES])


def _is_same(a: Detection, b: Detection) -> bool:
    if box_iou(a.box_xywh, b.box_xywh) > 0.3:
        return True
    x, y = a.landmarks[2]
    left, top, w, h = b.box_xywh
    is_nose_inside = abs(x - left - w / 2) < w / 4 and abs(y - top - h / 2) < h / 4
    return bool(is_nose_inside and a.box_xywh[2] < 1.5 * w)
