"""The linear head model in JAX: landmarks of a code, their mirror image, and soft maps of them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from veilcam.camera.code import HEAD_FIELDS

Basis = dict[str, jax.Array]
_INDEX = {field.name: index for index, field in enumerate(HEAD_FIELDS)}


def project(
    basis: Basis, values: Float[Array, " f"], shape: Float[Array, " s"]
) -> Float[Array, "p 2"]:
    """Points of the posed head model in patch units, 0..1 from the upper left corner.

    Args:
        basis: Arrays `mean (p, 3)`, `expression (e, p, 3)`, `shape (s, p, 3)`, ...: see
            `model.head_basis`.
        values: Code values in their units (degrees, eye distances, ...).
        shape: Shape numbers of a person, unit variance.
    """
    num_expression, num_shape = basis["expression"].shape[0], basis["shape"].shape[0]
    delta = values[2 : 2 + num_expression] - basis["value_mean"][2 : 2 + num_expression]
    flat = basis["mean"].reshape(1, -1)
    flat = flat + delta[None] @ basis["expression"].reshape(num_expression, -1)
    flat = flat + shape[None] @ basis["shape"].reshape(num_shape, -1)
    yaw, pitch = jnp.deg2rad(values[0]), jnp.deg2rad(values[1])
    x, y, z = jnp.split(flat.reshape(-1, 3), 3, axis=1)
    # picture axes: x right, y down, z away from the camera; pitch first, then yaw
    y, z = y * jnp.cos(pitch) + z * jnp.sin(pitch), z * jnp.cos(pitch) - y * jnp.sin(pitch)
    x = x * jnp.cos(yaw) - z * jnp.sin(yaw)
    points = jnp.concatenate([x, y], axis=1)
    return points * basis["patch_scale"] + basis["patch_center"]


def draw(
    groups: Float[Array, "g p"], points: Float[Array, "p 2"], size: int
) -> Float[Array, "n n g"]:
    """Groups of landmarks (lids, lips, brows, ...) as sums of Gaussians, one channel each."""
    grid = (jnp.arange(size, dtype=jnp.float32)[:, None] + 0.5) / size
    distance = jnp.square((grid[None] - points.T[:, None, :]) * size)
    # tails that underflow to denormals make CPUs several times slower: stop at exp(-16)
    fall = jnp.exp(-jnp.minimum(0.5 * distance, 16.0))
    rows = fall[1][None] * groups[:, None, :]  # g n p
    return jnp.clip(jnp.transpose(rows @ fall[0].T, (1, 2, 0)), 0.0, 1.5)


def mirror_values(values: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n f"]:
    """Code values of the mirrored pictures."""
    out = values.copy()
    for name in ("yaw", "gaze_x", "light_x"):
        out[:, _INDEX[name]] *= -1
    left, right = _INDEX["eyelid_left"], _INDEX["eyelid_right"]
    out[:, [left, right]] = values[:, [right, left]]
    return out


def mirror_index(basis: dict[str, np.ndarray]) -> Int[np.ndarray, " p"]:
    """For each point the one that lies nearest to its mirror image in the mean head."""
    mean = basis["mean"]
    center = np.array([2 * np.median(mean[:, 0]), 0, 0], np.float32)
    reflected = mean * np.array([-1, 1, 1], np.float32) + center
    return np.argmin(np.linalg.norm(reflected[:, None] - mean[None], axis=-1), axis=1)


def mirror_shape(
    basis: dict[str, np.ndarray], shape: Float[np.ndarray, "n s"]
) -> Float[np.ndarray, "n s"]:
    """Shape numbers of the mirrored heads, by least squares in the shape directions."""
    directions = basis["shape"]
    reflected = directions[:, mirror_index(basis)] * np.array([-1, 1, 1], np.float32)
    count = len(directions)
    table = np.linalg.lstsq(
        directions.reshape(count, -1).T, reflected.reshape(count, -1).T, rcond=None
    )[0]
    return (shape.astype(np.float32) @ table.T).astype(np.float32)
