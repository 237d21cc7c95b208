"""Person boxes by YOLOX-nano."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from veilcam.camera.generator import open_graph

INPUT_HW = (256, 416)
_STRIDES = (8, 16, 32)
_PAD = 114
_MAX_OVERLAP = 0.6
Box = tuple[float, float, float, float]  # left, top, width, height


def _grid() -> tuple[Float32[np.ndarray, "c 2"], Float32[np.ndarray, "c 1"]]:
    cells, strides = [], []
    for stride in _STRIDES:
        ys, xs = np.mgrid[: INPUT_HW[0] // stride, : INPUT_HW[1] // stride]
        cells.append(np.stack([xs.reshape(-1), ys.reshape(-1)], axis=1))
        strides.append(np.full((len(cells[-1]), 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


class PersonBoxes:
    """Finds people.

    Args:
        path: yolox.onnx, see `scripts/person_detector.py`.
        min_score: Boxes of lower confidence are left out.
        threads: Threads of the session.

    Source: Ge et al. 2021, YOLOX: exceeding YOLO series in 2021.
    """

    def __init__(self, path: Path, *, min_score: float = 0.25, threads: int = 1) -> None:
        self._session = open_graph(
            path.read_bytes(), threads=threads, execution_provider="CPUExecutionProvider"
        )
        self._min_score = min_score
        self._cells, self._strides = _grid()

    def __call__(self, bgr: UInt8[np.ndarray, "h w 3"]) -> tuple[tuple[Box, float], ...]:
        """Box in frame pixels and confidence of each person, best first.

        Raises:
            ValueError: The graph gave no numbers.
        """
        height, width = bgr.shape[:2]
        scale = min(INPUT_HW[0] / height, INPUT_HW[1] / width)
        small_wh = (max(round(width * scale), 1), max(round(height * scale), 1))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        canvas = np.full((*INPUT_HW, 3), _PAD, np.uint8)
        canvas[: small_wh[1], : small_wh[0]] = cv2.resize(bgr, small_wh, interpolation=how)
        feed = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], np.float32)
        (out,) = self._session.run(None, {"images": feed})
        if not np.isfinite(out).all():
            raise ValueError("person boxes are not finite")
        score = out[0, :, 4] * out[0, :, 5]
        kept = np.flatnonzero(score >= self._min_score)
        if not len(kept):
            return ()
        center = (out[0, kept, :2] + self._cells[kept]) * self._strides[kept]
        size = np.exp(np.minimum(out[0, kept, 2:4], 8.0)) * self._strides[kept]
        boxes = np.concatenate([center - size / 2, size], axis=1) / scale
        return _without_doubles(boxes, score[kept], (height, width))


def _without_doubles(
    boxes: Float32[np.ndarray, "n 4"], scores: Float32[np.ndarray, " n"], size_hw: tuple[int, int]
) -> tuple[tuple[Box, float], ...]:
    low = np.clip(boxes[:, :2], 0, size_hw[::-1])
    high = np.clip(boxes[:, :2] + boxes[:, 2:], 0, size_hw[::-1])
    boxes = np.concatenate([low, high - low], axis=1)
    usable = np.flatnonzero((boxes[:, 2] >= 2) & (boxes[:, 3] >= 4))
    boxes, scores = boxes[usable], scores[usable]
    chosen = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), 0.0, _MAX_OVERLAP)
    out = []
    for index in np.asarray(chosen, int).reshape(-1):
        x, y, w, h = (float(v) for v in boxes[index])
        out.append(((x, y, w, h), float(scores[index])))
    return tuple(out)
