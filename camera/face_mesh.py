"""Picture crop -> 468 mesh points (MediaPipe face mesh in ONNX Runtime)."""

from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from jaxtyping import Float32, UInt8

from veilcam.camera.prelu import without_prelu

INPUT_PX = 192
_CORNERS = np.array([[0, 0], [INPUT_PX, 0], [0, INPUT_PX], [INPUT_PX, INPUT_PX]], np.float32)
BOX_FACTOR = 1.5  # side of the crop over the longer side of the detector's box


class FaceMesh:
    """Runs the face mesh on roll-aligned crops.

    Args:
        model: Path of the ONNX file (1x192x192x3 RGB 0-1 -> 1404, face probability).
        threads: Threads of the session.
    """

    def __init__(self, model: Path, *, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            without_prelu(model.read_bytes()), options, providers=["CPUExecutionProvider"]
        )

    def __call__(
        self,
        bgr: UInt8[np.ndarray, "h w 3"],
        center_xy: tuple[float, float],
        side_px: float,
        roll_deg: float,
    ) -> tuple[Float32[np.ndarray, "468 3"], float]:
        """Mesh in picture pixels (z in the same unit, smaller is nearer) and the face probability.

        Args:
            bgr: Picture, uint8.
            center_xy: Centre of the face, pixels.
            side_px: Side of the square crop, pixels.
            roll_deg: Head roll, clockwise in the picture; the crop is turned upright by it.
        """
        to_crop = similarity(center_xy, side_px, roll_deg, INPUT_PX)
        rgb = _crop(bgr, to_crop).astype(np.float32)
        rgb *= np.float32(1 / 255)
        mesh, flag = self._session.run(["output_mesh", "output_faceflag"], {"input_1": rgb[None]})
        points = mesh.reshape(468, 3).astype(np.float32)
        back = cv2.invertAffineTransform(to_crop).astype(np.float32)
        out = np.empty_like(points)
        out[:, :2] = points[:, :2] @ back[:, :2].T + back[:, 2]
        out[:, 2] = points[:, 2] * (side_px / INPUT_PX)
        return out, float(flag.reshape(-1)[0])


def _crop(
    bgr: UInt8[np.ndarray, "h w 3"], to_crop: Float32[np.ndarray, "2 3"]
) -> UInt8[np.ndarray, "p p 3"]:
    """The crop in RGB; black where it reaches out of the picture.

    Only what it shows is given a fourth channel: OpenCV warps four twice as fast as three.
    """
    back = cv2.invertAffineTransform(to_crop)
    corners = _CORNERS @ back[:, :2].T + back[:, 2]
    left, top = np.maximum(np.floor(corners.min(0)).astype(int) - 2, 0)
    right, bottom = np.maximum(np.ceil(corners.max(0)).astype(int) + 3, 0)
    part = bgr[top:bottom, left:right]
    if not part.size:
        return np.zeros((INPUT_PX, INPUT_PX, 3), np.uint8)
    shifted = to_crop.copy()
    shifted[:, 2] += to_crop[:, :2] @ np.array([left, top], np.float32)
    wide = cv2.cvtColor(part, cv2.COLOR_BGR2BGRA)
    crop = cv2.warpAffine(wide, shifted, (INPUT_PX, INPUT_PX), flags=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGRA2RGB))


def similarity(
    center_xy: tuple[float, float], side_px: float, roll_deg: float, out_px: int
) -> Float32[np.ndarray, "2 3"]:
    """Affine that takes a turned square of the picture to an upright one of `out_px`."""
    angle = np.deg2rad(roll_deg)
    scale = out_px / side_px
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[cos, sin, 0], [-sin, cos, 0]])
    matrix[:, 2] = out_px / 2 - matrix[:, :2] @ np.asarray(center_xy, dtype=float)
    return matrix.astype(np.float32)
