"""Mesh points -> pose, expression and placement in the frame of one average head.

The average head (468 points, `assets/head_reference.npz`) is the mean mesh of machine-made
portraits. Its unit is the distance between the eye centres; x goes right, y down, z away from the
camera.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from jaxtyping import Float, Float32

EXPRESSION_FIELDS = (
    "mouth_open",
    "mouth_wide",
    "smile",
    "eyelid_left",
    "eyelid_right",
    "gaze_x",
    "gaze_y",
    "brow",
)
PATCH_SIDE = 4.4  # side of the generator's patch in eye distances
PATCH_CENTER_XY = (0.5, 0.56)  # where the head model's origin lies in the patch
ORIGIN_DEPTH = 0.6  # the origin lies this far behind the face: the middle of the head turns least

# mesh points that an expression moves little: forehead, temples, nose bridge and base, eye corners
RIGID = np.array(
    [
        10,
        338,
        297,
        332,
        284,
        251,
        389,
        21,
        54,
        103,
        67,
        109,
        162,
        9,
        8,
        168,
        6,
        197,
        195,
        5,
        4,
        33,
        133,
        263,
        362,
        98,
        327,
        127,
        356,
        234,
        454,
        93,
        323,
    ]
)
EYE_CORNERS = ((33, 133), (362, 263))  # eye at the left of the picture, then the other
LIDS = (((159, 145), (158, 153), (160, 144)), ((386, 374), (385, 380), (387, 373)))
BROWS = (105, 66, 334, 296)
MOUTH_CORNERS = (61, 291)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadPose:
    """Where a head is and how it is turned.

    Attributes:
        yaw_deg, pitch_deg, roll_deg: yaw > 0 nose to picture right, pitch > 0 looks up, roll > 0
            clockwise in the picture.
        scale: Frame pixels per head-model unit (eye distance of the unturned head).
        center_xy: Frame position of the head model's origin.
        canonical: Mesh turned back to the front, head-model units, (468, 3).
    """

    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    scale: float
    center_xy: tuple[float, float]
    canonical: Float32[np.ndarray, "468 3"]


@cache
def reference_mesh() -> Float32[np.ndarray, "468 3"]:
    """The average head in head-model units."""
    with (files("veilcam.camera") / "assets" / "head_reference.npz").open("rb") as stream:
        return np.load(stream)["mesh"].astype(np.float32)


def fit_pose(
    mesh: Float[np.ndarray, "468 3"], reference: Float[np.ndarray, "468 3"] | None = None
) -> HeadPose:
    """Similarity transform from the average head to the mesh, over points that stay rigid.

    Source: Umeyama 1991, Least-squares estimation of transformation parameters.
    """
    reference = reference_mesh() if reference is None else reference
    source, target = reference[RIGID].astype(float), mesh[RIGID].astype(float)
    source_mean, target_mean = source.mean(0), target.mean(0)
    source, target = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(target.T @ source)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = float((singular * sign).sum() / np.square(source).sum())
    offset = target_mean - scale * rotation @ source_mean
    canonical = ((mesh - offset) @ rotation / scale).astype(np.float32)
    yaw_deg, pitch_deg, roll_deg = angles(rotation)
    return HeadPose(
        yaw_deg=yaw_deg,
        pitch_deg=pitch_deg,
        roll_deg=roll_deg,
        scale=scale,
        center_xy=(float(offset[0]), float(offset[1])),
        canonical=canonical,
    )


def rotation_matrix(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Float[np.ndarray, "3 3"]:
    """Rz(roll) Ry(yaw) Rx(pitch) in picture axes."""
    yaw, pitch, roll = np.deg2rad([yaw_deg, pitch_deg, roll_deg])
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw),
        np.sin(yaw),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(roll),
        np.sin(roll),
    )
    turn_pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    turn_yaw = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    turn_roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return turn_roll @ turn_yaw @ turn_pitch


def angles(rotation: Float[np.ndarray, "3 3"]) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees of a rotation made as in `rotation_matrix`.

    >>> [round(a) for a in angles(rotation_matrix(20, -10, 5))]
    [20, -10, 5]
    """
    # row 2 of Ry Rx is (sin yaw, -cos yaw sin pitch, cos yaw cos pitch); roll leaves it alone
    yaw = np.arcsin(np.clip(rotation[2, 0], -1, 1))
    pitch = np.arctan2(-rotation[2, 1], rotation[2, 2])
    roll = np.arctan2(rotation[1, 0], rotation[0, 0])
    return float(np.rad2deg(yaw)), float(np.rad2deg(pitch)), float(np.rad2deg(roll))


def patch_placement(pose: HeadPose) -> tuple[tuple[float, float], float]:
    """Centre (frame pixels) and side (frame pixels) of the generator's patch for a pose."""
    side = PATCH_SIDE * pose.scale
    shift = side * (0.5 - np.array(PATCH_CENTER_XY))
    roll = np.deg2rad(pose.roll_deg)
    turned = (
        shift[0] * np.cos(roll) - shift[1] * np.sin(roll),
        shift[0] * np.sin(roll) + shift[1] * np.cos(roll),
    )
    return (pose.center_xy[0] + float(turned[0]), pose.center_xy[1] + float(turned[1])), side


def measure_expression(canonical: Float[np.ndarray, "468 3"]) -> dict[str, float]:
    """Expression scalars of a front-turned mesh, in eye distances; gaze is left at 0."""
    lids = [
        float(np.mean([np.linalg.norm(canonical[a] - canonical[b]) for a, b in eye]))
        for eye in LIDS
    ]
    corners = canonical[list(MOUTH_CORNERS)]
    lips_y = 0.5 * (canonical[0, 1] + canonical[17, 1])
    eye_y = canonical[[33, 133, 362, 263], 1].mean()
    return {
        "mouth_open": float(np.linalg.norm(canonical[13] - canonical[14])),
        "mouth_wide": float(np.linalg.norm(corners[0] - corners[1])),
        "smile": float(lips_y - corners[:, 1].mean()),
        "eyelid_left": lids[0],
        "eyelid_right": lids[1],
        "gaze_x": 0.0,
        "gaze_y": 0.0,
        "brow": float(eye_y - canonical[list(BROWS), 1].mean()),
    }
