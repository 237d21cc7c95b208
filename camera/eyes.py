"""Where the eyes look: the dark iris against the corners and lids of its eye."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from veilcam.camera.head_model import EYE_CORNERS, LIDS

_EYE_HW = (24, 40)


def measure_gaze(
    bgr: UInt8[np.ndarray, "h w 3"], mesh: Float[np.ndarray, "468 3"]
) -> tuple[float, float]:
    """Mean iris offset of both eyes, in eye widths: x > 0 right of the picture, y > 0 up.

    The darkest fifth of the opening's pixels, weighted by darkness, stands for the iris.
    """
    offsets = []
    for corners, lids in zip(EYE_CORNERS, LIDS, strict=True):
        left, right = mesh[corners[0], :2], mesh[corners[1], :2]
        width = float(np.linalg.norm(right - left))
        if width < 4:
            continue
        axis = (right - left) / width
        rows, columns = _EYE_HW
        scale = width * 1.2 / columns
        to_frame = np.array([[axis[0], -axis[1]], [axis[1], axis[0]]]) * scale
        middle = (left + right) / 2
        matrix = np.hstack([to_frame, (middle - to_frame @ [columns / 2, rows / 2])[:, None]])
        eye = cv2.warpAffine(
            bgr, matrix, (columns, rows), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        grey = cv2.cvtColor(eye, cv2.COLOR_BGR2GRAY).astype(np.float32)
        points = mesh[[p for pair in lids for p in pair] + list(corners), :2]
        local = (points - middle) @ to_frame / scale**2 + [columns / 2, rows / 2]
        opening = np.zeros((rows, columns), np.uint8)
        hull = cv2.convexHull(local.astype(np.float32)).astype(np.int32)
        cv2.fillConvexPoly(opening, hull, 1)
        inside = opening > 0
        if inside.sum() < 12:
            continue
        dark = np.clip(np.quantile(grey[inside], 0.35) - grey, 0, None) * inside
        total = dark.sum()
        if total <= 0:
            continue
        x = (dark * (np.arange(columns) + 0.5)).sum() / total - columns / 2
        y = (dark * (np.arange(rows) + 0.5)[:, None]).sum() / total - rows / 2
        offsets.append((x * scale / width, -y * scale / width))
    if not offsets:
        return 0.0, 0.0
    gaze = np.mean(offsets, axis=0)
    return float(gaze[0]), float(gaze[1])
