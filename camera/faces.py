"""Frame -> face detections: YuNet on the small frame, and on finer tiles that take turns."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from jaxtyping import UInt8

from veilcam.camera.errors import GraphError
from veilcam.camera.track import KEEP_TRACK_SCORE, Detection, box_iou

WHOLE_AREA_PX = 340_000  # frames up to this are searched whole in full resolution, without tiles
COARSE_AREA_PX = 480 * 270
FINE_AREA_PX = 960 * 540
TILE_HW = (270, 320)
_OVERLAP_PX = 48
_TILES_AFTER_CUT = 4  # per frame, until all were searched
_MIN_CUT_LEVELS = 18.0  # mean change of a thumbnail that counts as another scene
_MAX_FACES = 64
_STRIDES = (8, 16, 32)
_HEADS = ("cls", "obj", "bbox", "kps")
_OUTPUTS = tuple(f"{name}_{stride}" for stride in _STRIDES for name in _HEADS)


class FaceDetector:
    """Finds faces at two scales within a steady budget.

    A frame of up to 640x480 is searched whole as it is. A larger one is searched whole at about
    480x270 and in one tile at up to 960x540. The tiles walk over the frame in turns, and in every
    other frame go to a place of doubt instead. The first frame is searched whole at both scales;
    after a cut to a new scene that is spread over a few frames, to keep the time of each steady.

    Args:
        model: Path of the YuNet ONNX file, with free height and width.
    """

    def __init__(self, model: Path) -> None:
        if not model.is_file():
            raise GraphError(f"face detector {model} is missing; reinstall veilcam")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # the two scales run side by side instead
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self._pool = ThreadPoolExecutor(1, "veilcam-faces")
        self._size_hw: tuple[int, int] | None = None
        self._turn = 0
        self._urgent: list[tuple[int, int]] = []
        self._thumbnail: np.ndarray | None = None

    def __call__(
        self, bgr: UInt8[np.ndarray, "h w 3"], doubt_xy: tuple[tuple[float, float], ...] = ()
    ) -> tuple[Detection, ...]:
        """Faces with score >= 0.3, in frame pixels, each once.

        Args:
            bgr: Raw frame.
            doubt_xy: Places in frame pixels worth a finer look, most urgent first.
        """
        if self._size_hw != bgr.shape[:2]:
            self._prepare(bgr.shape[0], bgr.shape[1])
        small = cv2.resize(bgr, self._coarse_wh, interpolation=cv2.INTER_LINEAR)
        height, width = bgr.shape[:2]
        scale_xy = (width / self._coarse_wh[0], height / self._coarse_wh[1])
        corners = self._corners(self._is_new_scene(small), doubt_xy)
        tiles = [self._pool.submit(self._detect_tile, bgr, left, top) for left, top in corners]
        found = _detect(self._session, small, scale_xy, (0.0, 0.0))
        for tile in tiles:
            found += tile.result()
        return _merge(found)

    def forget(self) -> None:
        """Take the next frame for the first one."""
        self._size_hw = None

    def _prepare(self, height: int, width: int) -> None:
        self._size_hw = (height, width)
        is_small = width * height <= WHOLE_AREA_PX
        self._coarse_wh = _fit(width, height, WHOLE_AREA_PX if is_small else COARSE_AREA_PX)
        self._fine_wh = _fit(width, height, FINE_AREA_PX)
        self._thumbnail, self._turn, self._urgent = None, 0, []
        fine_w, fine_h = self._fine_wh
        self._tile_wh = (min(TILE_HW[1], fine_w), min(TILE_HW[0], fine_h))
        is_finer = fine_w * fine_h > 1.2 * self._coarse_wh[0] * self._coarse_wh[1]
        self._tiles = [
            (left, top)
            for top in _starts(fine_h, self._tile_wh[1])
            for left in _starts(fine_w, self._tile_wh[0])
            if is_finer
        ]

    def _corners(
        self, is_new_scene: bool, doubt_xy: tuple[tuple[float, float], ...]
    ) -> list[tuple[int, int]]:
        if not self._tiles:
            return []
        if is_new_scene:
            is_first = not self._turn
            self._turn, self._urgent = 1, list(self._tiles)
            if is_first:
                self._urgent = []
                return self._tiles
        if self._urgent:
            now, self._urgent = self._urgent[:_TILES_AFTER_CUT], self._urgent[_TILES_AFTER_CUT:]
            return now
        self._turn += 1
        if doubt_xy and self._turn % 2:
            assert self._size_hw is not None
            x, y = doubt_xy[(self._turn // 2) % min(len(doubt_xy), 2)]
            fine_w, fine_h = self._fine_wh
            left = x * fine_w / self._size_hw[1] - self._tile_wh[0] / 2
            top = y * fine_h / self._size_hw[0] - self._tile_wh[1] / 2
            return [
                (
                    int(np.clip(left, 0, fine_w - self._tile_wh[0])),
                    int(np.clip(top, 0, fine_h - self._tile_wh[1])),
                )
            ]
        step = self._turn // 2 if doubt_xy else self._turn
        return [self._tiles[step % len(self._tiles)]]

    def _detect_tile(self, bgr: UInt8[np.ndarray, "h w 3"], left: int, top: int) -> list[Detection]:
        tile_w, tile_h = self._tile_wh
        scale_xy = (bgr.shape[1] / self._fine_wh[0], bgr.shape[0] / self._fine_wh[1])
        x, y = int(left * scale_xy[0]), int(top * scale_xy[1])
        right = min(int(np.ceil((left + tile_w) * scale_xy[0])), bgr.shape[1])
        bottom = min(int(np.ceil((top + tile_h) * scale_xy[1])), bgr.shape[0])
        tile = cv2.resize(bgr[y:bottom, x:right], self._tile_wh, interpolation=cv2.INTER_LINEAR)
        found = _detect(self._session, tile, scale_xy, (float(x), float(y)))
        return [d for d in found if not _is_cut(d, (x, y, right, bottom), bgr.shape)]

    def _is_new_scene(self, small: UInt8[np.ndarray, "h w 3"]) -> bool:
        thumbnail = cv2.resize(small, (32, 18), interpolation=cv2.INTER_AREA).astype(np.float32)
        before, self._thumbnail = self._thumbnail, thumbnail
        if before is None:
            return True
        return float(np.abs(thumbnail - before).mean()) > _MIN_CUT_LEVELS


def _detect(
    session: ort.InferenceSession,
    bgr: UInt8[np.ndarray, "h w 3"],
    scale_xy: tuple[float, float],
    offset_xy: tuple[float, float],
) -> list[Detection]:
    """Faces of one picture whose pixel (0, 0) lies at `offset_xy` of the frame.

    Source: Wu, Peng, Yu: YuNet, a tiny millisecond-level face detector, 2023 (anchor-free heads).
    """
    height, width = bgr.shape[:2]
    full = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.float32)
    full[:height, :width] = bgr
    heads = session.run(_OUTPUTS, {"input": full.transpose(2, 0, 1)[None]})
    rows = []
    for i, stride in enumerate(_STRIDES):
        cls, obj, box, points = (v[0] for v in heads[4 * i : 4 * i + 4])
        score = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
        if not np.isfinite(score).all():
            raise ValueError("face detector scores are not finite")
        found = np.flatnonzero(score >= KEEP_TRACK_SCORE)
        y, x = np.divmod(found, full.shape[1] // stride)
        corner = np.stack([x, y], 1)
        middle = (corner + box[found, :2]) * stride
        size = np.exp(box[found, 2:]) * stride
        marks = (corner[:, None] + points[found].reshape(-1, 5, 2)) * stride
        rows += list(zip(score[found], middle, size, marks, strict=True))
    rows = sorted(rows, key=lambda row: -row[0])[: 4 * _MAX_FACES]
    scale, offset = np.asarray(scale_xy), np.asarray(offset_xy)
    faces = []
    for score_one, middle_one, size_one, marks_one in rows:
        x1, y1 = (middle_one - size_one / 2) * scale + offset
        w, h = size_one * scale
        box_xywh = (float(x1), float(y1), float(w), float(h))
        faces.append(Detection(box_xywh, marks_one * scale + offset, float(score_one)))
    return faces


def _is_cut(detection: Detection, tile: tuple[int, int, int, int], shape: tuple[int, ...]) -> bool:
    """A face at a tile's inner edge: its box is wrong, the neighbour tile sees it whole."""
    x, y, w, h = detection.box_xywh
    margin = 2
    return bool(
        (x < tile[0] + margin and tile[0] > 0)
        or (y < tile[1] + margin and tile[1] > 0)
        or (x + w > tile[2] - margin and tile[2] < shape[1])
        or (y + h > tile[3] - margin and tile[3] < shape[0])
    )


def _merge(found: list[Detection]) -> tuple[Detection, ...]:
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


def _fit(width: int, height: int, area_px: int) -> tuple[int, int]:
    """Width and height of the frame shrunk to `area_px` (never grown), at least 32."""
    scale = min(1.0, float(np.sqrt(area_px / (width * height))))
    return max(round(width * scale), 32), max(round(height * scale), 32)


def _starts(length: int, tile: int) -> list[int]:
    """First pixel of tiles that cover `length` with an overlap."""
    if length <= tile:
        return [0]
    num_tiles = int(np.ceil((length - _OVERLAP_PX) / (tile - _OVERLAP_PX)))
    return [round(i * (length - tile) / (num_tiles - 1)) for i in range(num_tiles)]
