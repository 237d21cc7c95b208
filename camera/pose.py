"""Seventeen key points of one person, by MoveNet on a crop."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from veilcam.camera.body_points import NUM_POINTS
from veilcam.camera.generator import open_graph

INPUT_PX = 192
CROP_FACTOR = 1.2  # of the longer side of the person's box


class PoseModel:
    """MoveNet lightning, int8.

    Args:
        path: movenet.onnx.
        threads: Threads of the session.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self._session = open_graph(
            path.read_bytes(), threads=threads, execution_provider="CPUExecutionProvider"
        )
        self._input = self._session.get_inputs()[0].name

    def __call__(
        self, bgr: UInt8[np.ndarray, "h w 3"], box_xywh: tuple[float, float, float, float]
    ) -> Float32[np.ndarray, "17 3"]:
        """Points of the person in the box.

        Args:
            bgr: Frame.
            box_xywh: Left, top, width, height in frame pixels.

        Returns:
            x and y in frame pixels and the model's score, COCO order (left is the person's left).

        Raises:
            ValueError: The box has no size, or the model gave no numbers.
        """
        x, y, width, height = box_xywh
        side = CROP_FACTOR * max(width, height)
        if not np.isfinite([x, y, side]).all() or side < 2:
            raise ValueError("the box of a person has no size")
        scale = INPUT_PX / side
        left, top = x + width / 2 - side / 2, y + height / 2 - side / 2
        matrix = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
        crop = cv2.warpAffine(bgr, matrix, (INPUT_PX, INPUT_PX), flags=cv2.INTER_LINEAR)
        rgb = cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)[None]
        found = self._session.run(None, {self._input: rgb})[0].reshape(NUM_POINTS, 3)
        if not np.isfinite(found).all():
            raise ValueError("key points are not finite")
        points = found[:, [1, 0, 2]].astype(np.float32)
        points[:, :2] = points[:, :2] * side + (left, top)
        return np.asarray(points)
