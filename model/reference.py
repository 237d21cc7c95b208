"""The average head of camera/assets/head_reference.npz, from meshes of machine-made portraits."""

import numpy as np
from jaxtyping import Float32

from veilcam.camera.head_model import ORIGIN_DEPTH, RIGID, fit_pose, rotation_matrix

_EYES = np.array([[33, 133], [362, 263]])


def average_head(
    meshes: Float32[np.ndarray, "n 468 3"], *, rounds: int = 4, pitch_offset_deg: float = 0.0
) -> Float32[np.ndarray, "468 3"]:
    """Generalized Procrustes mean, made symmetric, eye distance 1, origin inside the head.

    Args:
        meshes: Meshes of frontal portraits in picture units.
        rounds: Align-and-average rounds.
        pitch_offset_deg: Turn about the x axis that makes the calibration set's pitch zero.
    """
    mean = _normalize(meshes.mean(0))
    mirror = _mirror_index(mean)
    for _ in range(rounds):
        mean = np.mean([fit_pose(mesh, mean).canonical for mesh in meshes], axis=0)
        reflected = mean[mirror] * np.array([-1, 1, 1])
        mean = _normalize((mean + reflected) / 2)
    return (mean @ rotation_matrix(0, pitch_offset_deg, 0).T).astype(np.float32)


def _normalize(mesh: Float32[np.ndarray, "468 3"]) -> Float32[np.ndarray, "468 3"]:
    eyes = mesh[_EYES].mean(1)
    distance = np.linalg.norm(eyes[1] - eyes[0])
    mouth = mesh[[61, 291]].mean(0)
    center = (eyes.mean(0) + mouth) / 2
    center[2] = mesh[RIGID, 2].mean() + ORIGIN_DEPTH * distance
    return (mesh - center) / distance


def _mirror_index(mesh: Float32[np.ndarray, "468 3"]) -> np.ndarray:
    """For each point the one that lies nearest to its mirror image."""
    reflected = mesh * np.array([-1, 1, 1])
    distance = np.linalg.norm(reflected[:, None] - mesh[None], axis=-1)
    return np.argmin(distance, axis=1)
