"""Turns the head of a portrait and moves its face by a smooth warp along the linear head model.

Portraits are frontal; the generator must also see real looks with other poses and expressions.
"""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from veilcam.model.head_basis import GROUPS, POINTS

PATCH_PX = 128
_GRID = 33


class Warper:
    """Warps patches from one set of code values to another.

    Args:
        basis: Arrays of the head model (see `head_basis.fit_basis`).
        num_points: Mesh points of the model, without the two irises.
    """

    def __init__(self, basis: dict[str, np.ndarray], num_points: int) -> None:
        self._basis = basis
        self._num_points = num_points
        angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        ring = np.stack([0.5 + 0.40 * np.cos(angle), 0.46 + 0.44 * np.sin(angle)], 1)
        corner = np.array(
            [[x, y] for x in (0, 0.5, 1) for y in (0, 0.5, 1) if (x, y) != (0.5, 0.5)]
        )
        self._fixed = (np.concatenate([ring, corner]) * PATCH_PX).astype(np.float32)
        axis = np.linspace(0, PATCH_PX, _GRID)
        self._grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        position = {point: index for index, point in enumerate(POINTS)}
        upper = [position[p] for p in GROUPS["lip_upper_inner"]]
        lower = [position[p] for p in GROUPS["lip_lower_inner"]]
        self._mouth = upper + lower[::-1]

    def __call__(
        self,
        bgra: UInt8[np.ndarray, "128 128 4"],
        points_xy: Float32[np.ndarray, "p 2"],
        shape: Float32[np.ndarray, " s"],
        before: Float32[np.ndarray, " f"],
        after: Float32[np.ndarray, " f"],
    ) -> UInt8[np.ndarray, "128 128 4"]:
        """The patch as it would look with the code values `after`."""
        moved = self.project(after, shape) - self.project(before, shape)
        target = points_xy + moved
        knots = np.concatenate([target, self._fixed]).astype(np.float64)
        shift = np.concatenate([-moved, np.zeros_like(self._fixed)]).astype(np.float64)
        flow = _thin_plate(knots, shift, self._grid).reshape(_GRID, _GRID, 2).astype(np.float32)
        # node (i, j) of the grid lies at pixel position i * 4: sample between nodes, not centres
        size = PATCH_PX * _GRID // (_GRID - 1)
        full = cv2.resize(flow, (size, size), interpolation=cv2.INTER_LINEAR)[2:130, 2:130]
        xs, ys = np.meshgrid(np.arange(PATCH_PX), np.arange(PATCH_PX))
        source_x = (xs + full[..., 0]).astype(np.float32)
        source_y = (ys + full[..., 1]).astype(np.float32)
        out = cv2.remap(bgra, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        opened = float(after[2] - before[2])
        return self._darken_mouth(out, target, opened) if opened > 0.03 else out

    def project(
        self, values: Float32[np.ndarray, " f"], shape: Float32[np.ndarray, " s"]
    ) -> Float32[np.ndarray, "p 2"]:
        """Points of the posed head model in patch pixels."""
        basis = self._basis
        count = self._num_points
        num_expression = len(basis["expression"])
        delta = values[2 : 2 + num_expression] - basis["value_mean"][2 : 2 + num_expression]
        flat = basis["mean"] + np.tensordot(delta, basis["expression"], 1)
        flat = flat + np.tensordot(shape, basis["shape"], 1)
        x, y, z = flat[:count].T
        yaw, pitch = np.deg2rad(values[:2])
        y, z = y * np.cos(pitch) + z * np.sin(pitch), z * np.cos(pitch) - y * np.sin(pitch)
        x = x * np.cos(yaw) - z * np.sin(yaw)
        points = np.stack([x, y], 1) * basis["patch_scale"] + basis["patch_center"]
        return (points * PATCH_PX).astype(np.float32)

    def _darken_mouth(
        self,
        bgra: UInt8[np.ndarray, "128 128 4"],
        target: Float32[np.ndarray, "p 2"],
        opened: float,
    ) -> UInt8[np.ndarray, "128 128 4"]:
        """A warp stretches the lip line into the gap: paint the inside of the mouth dark."""
        mask = np.zeros(bgra.shape[:2], np.uint8)
        cv2.fillPoly(mask, [np.round(target[self._mouth] * 16).astype(np.int32)], 255, shift=4)
        soft = cv2.GaussianBlur(mask, (0, 0), 0.8).astype(np.float32)[..., None] / 255
        soft *= min(opened / 0.12, 1.0) * 0.85
        dark = bgra[..., :3] * np.float32(0.25) + np.array([18, 14, 30], np.float32) * 0.75
        out = bgra.copy()
        out[..., :3] = np.clip(bgra[..., :3] * (1 - soft) + dark * soft, 0, 255)
        return out


def _thin_plate(knots: np.ndarray, shift: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Thin-plate spline with an affine part. Source: Bookstein 1989, Principal warps."""
    count = len(knots)
    kernel = _radial(knots, knots) + np.eye(count) * 20.0
    affine = np.concatenate([np.ones((count, 1)), knots], 1)
    system = np.block([[kernel, affine], [affine.T, np.zeros((3, 3))]])
    solution = np.linalg.solve(system, np.concatenate([shift, np.zeros((3, 2))]))
    basis = np.concatenate([_radial(at, knots), np.ones((len(at), 1)), at], 1)
    return basis @ solution


def _radial(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
    squared = np.maximum(squared, 1e-6)
    return 0.5 * squared * np.log(squared)
