"""Where the eyes look: the dark iris against the corners and lids of its eye."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from veilcam.camera.head_model import EYE_CORNERS, LIDS

_EYE_HW = (24, 40)
_EYE_MIDDLE = np.array([_EYE_HW[1] / 2, _EYE_HW[0] / 2])


def measure_gaze(
    bgr: UInt8[np.ndarray, "h w 3"], mesh: Float[np.ndarray, "468 3"]
) -> tuple[float, float]:
    """Mean iris offset of both eyes, in eye widths: x > 0 right of the picture, y > 0 up.

    The darkest fifth of the opening's pixels, weighted by darkness, stands for the iris.
    """
    offsets = []
    for corners, lids in zip(EYE_CORNERS, LIDS, strict=True):
        axis = mesh[corners[1], :2] - mesh[corners[0], :2]
        width = float(np.hypot(axis[0], axis[1]))
        if width < 4:
            continue
        offset = _iris_offset(bgr, mesh[[*np.ravel(lids), *corners], :2], axis / width, width)
        if offset is not None:
            offsets.append(offset)
    if not offsets:
        return 0.0, 0.0
    x, y = (sum(values) / len(offsets) for values in zip(*offsets, strict=True))
    return x, y


def _iris_offset(
    bgr: UInt8[np.ndarray, "h w 3"],
    points: Float[np.ndarray, "n 2"],
    axis: Float[np.ndarray, " 2"],
    width: float,
) -> tuple[float, float] | None:
    """Offset of one iris in eye widths, or None where the eye is too small or too even.

    Args:
        bgr: Raw frame.
        points: Lids and then the two corners of the eye, frame pixels.
        axis: Direction of the line from corner to corner.
        width: Its length.
    """
    rows, columns = _EYE_HW
    scale = width * 1.2 / columns
    turn = np.array([[axis[0], -axis[1]], [axis[1], axis[0]]], float)
    middle = points[-2:].mean(0)
    matrix = np.empty((2, 3))
    matrix[:, :2] = turn * scale
    matrix[:, 2] = middle - matrix[:, :2] @ _EYE_MIDDLE
    eye = cv2.warpAffine(
        bgr, matrix, (columns, rows), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    grey = cv2.cvtColor(eye, cv2.COLOR_BGR2GRAY)
    local = (points - middle) @ turn / scale + _EYE_MIDDLE
    opening = np.zeros((rows, columns), np.uint8)
    hull = cv2.convexHull(local.astype(np.float32)).astype(np.int32)
    cv2.fillConvexPoly(opening, hull, 255)
    inside = np.sort(grey[opening > 0])
    if len(inside) < 12:
        return None
    threshold = int(np.ceil(inside[int(0.35 * (len(inside) - 1))]))
    dark = cv2.bitwise_and(cv2.subtract(np.full_like(grey, threshold), grey), opening)
    moments = cv2.moments(dark)
    total = moments["m00"]
    if total <= 0:
        return None
    x = moments["m10"] / total + 0.5 - columns / 2
    y = moments["m01"] / total + 0.5 - rows / 2
    return x * scale / width, -y * scale / width
