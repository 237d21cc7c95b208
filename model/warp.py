"""Turns the head of a portrait and moves its face by a smooth warp along the linear head model.

Portraits are frontal; the generator must also see real looks with other poses and expressions.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from veilcam.model.head_basis import GROUPS, POINTS
from veilcam.model.head_points import Basis, project

PATCH_PX = 128
_CELL = 4  # the flow is solved on every fourth pixel and interpolated between
_REACHES_PX = ((26.0, 1.0), (8.0, 0.5))  # of head turns, and of closing lids; weights
_RIDGE = 0.002
_DARK_BGR = (0.07, 0.055, 0.118)  # the inside of a mouth


def warp(
    basis: Basis,
    picture: Float[Array, "128 128 4"],
    points_px: Float[Array, "p 2"],
    shape: Float[Array, " s"],
    before: Float[Array, " f"],
    after: Float[Array, " f"],
) -> Float[Array, "128 128 4"]:
    """The BGRA picture (0..1) as it would look with the code values `after`.

    The flow is interpolated from the moved points, with a ring around the head held still, by
    inverse multiquadrics: positive definite, so that Cholesky factors solve a whole batch at once.
    """
    count = points_px.shape[0]
    moved = (project(basis, after, shape) - project(basis, before, shape))[:count] * PATCH_PX
    target = points_px + moved
    fixed = jnp.asarray(_fixed_points())
    knots = jnp.concatenate([target, fixed])
    shift = jnp.concatenate([-moved, jnp.zeros_like(fixed)])
    kernel = _radial(knots, knots) + _RIDGE * jnp.eye(len(knots))
    weights = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(kernel), True), shift)
    axis = jnp.arange(0, PATCH_PX + 1, _CELL, dtype=jnp.float32)
    nodes = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    flow = (_radial(nodes, knots) @ weights).reshape(len(axis), len(axis), 2)
    centers = jnp.arange(PATCH_PX, dtype=jnp.float32) + 0.5
    row, column = jnp.meshgrid(centers / _CELL, centers / _CELL, indexing="ij")
    full = _bilinear(flow, column, row)
    column, row = jnp.meshgrid(centers - 0.5, centers - 0.5)
    out = _bilinear(picture, column + full[..., 0], row + full[..., 1])
    opened = after[2] - before[2]
    return _darken_mouth(out, target[jnp.asarray(_mouth())], opened)


def _darken_mouth(
    picture: Float[Array, "128 128 4"], outline: Float[Array, "k 2"], opened: Float[Array, ""]
) -> Float[Array, "128 128 4"]:
    """A warp stretches the lip line into the gap: paint the inside of the mouth dark."""
    soft = _inside(outline) * jnp.clip(opened / 0.12, 0, 1) * 0.85 * (opened > 0.03)
    dark = picture[..., :3] * 0.25 + jnp.array(_DARK_BGR) * 0.75
    color = picture[..., :3] * (1 - soft[..., None]) + dark * soft[..., None]
    return jnp.concatenate([color, picture[..., 3:]], axis=-1)


def _inside(outline: Float[Array, "k 2"]) -> Float[Array, "128 128"]:
    """1 inside of the polygon, 0 outside, with an edge of two pixels."""
    centers = jnp.arange(PATCH_PX, dtype=jnp.float32)
    at = jnp.stack(jnp.meshgrid(centers, centers), -1)[:, :, None]  # h w 1 2
    a, b = outline, jnp.roll(outline, -1, axis=0)
    crosses = (a[:, 1] > at[..., 1]) != (b[:, 1] > at[..., 1])
    height = jnp.where(b[:, 1] == a[:, 1], 1.0, b[:, 1] - a[:, 1])
    x = (b[:, 0] - a[:, 0]) * (at[..., 1] - a[:, 1]) / height + a[:, 0]
    is_inside = ((crosses & (at[..., 0] < x)).sum(-1) % 2) == 1
    edge = b - a
    along = ((at - a) * edge).sum(-1) / jnp.maximum((edge * edge).sum(-1), 1e-6)
    nearest = a + jnp.clip(along, 0, 1)[..., None] * edge
    distance = jnp.sqrt(jnp.square(at - nearest).sum(-1).min(-1))
    return jnp.clip(0.5 + jnp.where(is_inside, distance, -distance) / 2, 0, 1)


def _bilinear(
    image: Float[Array, "h w c"], column: Float[Array, "n m"], row: Float[Array, "n m"]
) -> Float[Array, "n m c"]:
    """The image at fractional positions, its edge repeated outside."""
    height, width = image.shape[:2]
    column, row = jnp.clip(column, 0, width - 1), jnp.clip(row, 0, height - 1)
    left = jnp.clip(jnp.floor(column).astype(jnp.int32), 0, width - 2)
    top = jnp.clip(jnp.floor(row).astype(jnp.int32), 0, height - 2)
    fx, fy = (column - left)[..., None], (row - top)[..., None]
    upper = image[top, left] * (1 - fx) + image[top, left + 1] * fx
    lower = image[top + 1, left] * (1 - fx) + image[top + 1, left + 1] * fx
    return upper * (1 - fy) + lower * fy


def _radial(a: Float[Array, "n 2"], b: Float[Array, "m 2"]) -> Float[Array, "n m"]:
    squared = jnp.square(a[:, None] - b[None]).sum(-1)
    return sum(weight / (1 + squared / reach**2) for reach, weight in _REACHES_PX)


@cache
def _fixed_points() -> Float[np.ndarray, "k 2"]:
    """A ring around the head, the corners and the sides: they do not move."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    ring = np.stack([0.5 + 0.40 * np.cos(angle), 0.46 + 0.44 * np.sin(angle)], 1)
    corner = np.array([[x, y] for x in (0, 0.5, 1) for y in (0, 0.5, 1) if (x, y) != (0.5, 0.5)])
    return (np.concatenate([ring, corner]) * PATCH_PX).astype(np.float32)


@cache
def _mouth() -> np.ndarray:
    position = {point: index for index, point in enumerate(POINTS)}
    upper = [position[p] for p in GROUPS["lip_upper_inner"]]
    lower = [position[p] for p in GROUPS["lip_lower_inner"]]
    return np.array(upper + lower[-2:0:-1])
