"""The linear head model: how mesh points move with the code's fields and differ between people."""

import numpy as np
from jaxtyping import Float32

from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.head_model import (
    EXPRESSION_FIELDS,
    EYE_CORNERS,
    PATCH_CENTER_XY,
    PATCH_SIDE,
)

NUM_SHAPE = 12

_OVAL = [10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377]
_OVAL += [152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109]
GROUPS = {
    "oval": _OVAL,
    "brow_left": [70, 63, 105, 66, 107, 46, 53, 52, 65, 55],
    "brow_right": [300, 293, 334, 296, 336, 276, 283, 282, 295, 285],
    "lid_upper_left": [33, 246, 161, 160, 159, 158, 157, 173, 133],
    "lid_lower_left": [33, 7, 163, 144, 145, 153, 154, 155, 133],
    "lid_upper_right": [263, 466, 388, 387, 386, 385, 384, 398, 362],
    "lid_lower_right": [263, 249, 390, 373, 374, 380, 381, 382, 362],
    "nose": [168, 6, 197, 195, 5, 4, 1, 98, 97, 2, 326, 327, 129, 358],
    "lip_upper_outer": [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291],
    "lip_lower_outer": [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291],
    "lip_upper_inner": [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308],
    "lip_lower_inner": [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308],
}
POINTS = np.array(sorted({point for group in GROUPS.values() for point in group}))
IRIS_GROUP = "iris"


def group_weights() -> Float32[np.ndarray, "g p"]:
    """Which point belongs to which landmark map; the two iris points come last."""
    position = {point: index for index, point in enumerate(POINTS)}
    weights = np.zeros((len(GROUPS) + 1, len(POINTS) + 2), np.float32)
    for row, group in enumerate(GROUPS.values()):
        weights[row, [position[point] for point in group]] = 1
    weights[-1, -2:] = 1.5
    return weights


def fit_basis(
    canonical: Float32[np.ndarray, "n 468 3"],
    expression: Float32[np.ndarray, "n e"],
    values: Float32[np.ndarray, "n f"],
    weight: Float32[np.ndarray, " n"],
) -> tuple[dict[str, np.ndarray], Float32[np.ndarray, "n s"]]:
    """Head-model arrays for the generator, and each picture's shape numbers (unit variance).

    Expression directions are a ridge regression of points on the fields; shape directions are the
    principal components of what is left.
    """
    points = canonical[:, POINTS]
    irises = [_iris(canonical, eye, expression, side) for side, eye in enumerate(EYE_CORNERS)]
    points = np.concatenate([points, np.stack(irises, axis=1)], axis=1)
    flat = points.reshape(len(points), -1).astype(np.float64)
    center = np.average(expression, axis=0, weights=weight)
    delta = np.concatenate([expression - center, np.ones((len(flat), 1))], axis=1)
    gram = (delta * weight[:, None]).T @ delta + np.diag([1e-3] * delta.shape[1])
    solution = np.linalg.solve(gram, (delta * weight[:, None]).T @ flat)
    rest = flat - delta @ solution
    _, singular, vt = np.linalg.svd(rest * np.sqrt(weight)[:, None], full_matrices=False)
    deviation = singular[:NUM_SHAPE] / np.sqrt(weight.sum())
    shape = (rest @ vt[:NUM_SHAPE].T) / deviation
    num_points = points.shape[1]
    value_mean = np.average(values, axis=0, weights=weight)
    value_mean[2 : 2 + len(EXPRESSION_FIELDS)] = center
    half_range = np.array([(field.high - field.low) / 2 for field in HEAD_FIELDS])
    basis = {
        "mean": solution[-1].reshape(num_points, 3),
        "expression": solution[:-1].reshape(-1, num_points, 3),
        "shape": (vt[:NUM_SHAPE] * deviation[:, None]).reshape(-1, num_points, 3),
        "groups": group_weights(),
        "value_mean": value_mean,
        "value_scale": 1 / half_range,
        "patch_scale": np.array(1 / PATCH_SIDE),
        "patch_center": np.array(PATCH_CENTER_XY),
    }
    return {k: v.astype(np.float32) for k, v in basis.items()}, shape.astype(np.float32)


def _iris(
    canonical: Float32[np.ndarray, "n 468 3"],
    eye: tuple[int, int],
    expression: Float32[np.ndarray, "n e"],
    side: int,
) -> Float32[np.ndarray, "n 3"]:
    """Iris centres: the middle of the opening, moved by gaze in eye widths."""
    lids = ((159, 145), (386, 374))[side]
    corners = canonical[:, list(eye)]
    middle = canonical[:, list(lids)].mean(1)
    width = np.linalg.norm(corners[:, 0] - corners[:, 1], axis=1)
    gaze_x = expression[:, EXPRESSION_FIELDS.index("gaze_x")]
    gaze_y = expression[:, EXPRESSION_FIELDS.index("gaze_y")]
    out = middle.copy()
    out[:, 0] = corners[:, :, 0].mean(1) + gaze_x * width * 1.5
    out[:, 1] -= gaze_y * width * 1.5
    return out
