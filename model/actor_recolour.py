"""Other colours for simulated clothes, so that the generator takes them from the code.

A person's colours never change over their pictures: without this, looks could come from the latent
alone and the code's colours would do nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PRNGKeyArray, UInt8

from veilcam.camera.actor_code import PATCH_HW
from veilcam.camera.body_points import POINT

_SKIN_DISTANCE = 0.16  # in log ratios of channels: nearer is skin
_CLEAR_DISTANCE = 0.5  # colours of top and bottom that differ so much tell which is which
_NEAR_WAIST_PX = 16  # where a long jacket or a short top is told by colour
_MIN_SHARE = 0.6  # of a garment that must be found for it to be recoloured
_CHANCE = 0.7
_TOP = (
    ("left_shoulder", "right_hip"), ("right_shoulder", "left_hip"), ("left_shoulder", "left_elbow"),
    ("right_shoulder", "right_elbow"), ("left_elbow", "left_wrist"), ("right_elbow", "right_wrist"),
)  # fmt: skip
_BOTTOM = (
    ("left_hip", "left_knee"), ("right_hip", "right_knee"), ("left_knee", "left_ankle"),
    ("right_knee", "right_ankle"),
)  # fmt: skip


def cloth_mask(
    bgra: UInt8[np.ndarray, "192 96 4"],
    points: Float32[np.ndarray, "17 2"],
    colours: Float32[np.ndarray, " 12"],
) -> UInt8[np.ndarray, "192 96"]:
    """1 on the top, 2 on the bottom, 0 elsewhere; all 0 of a garment that is hard to tell.

    Args:
        bgra: Patch.
        points: Key points in patch units.
        colours: Of top, bottom, hair and skin, BGR 0-1.
    """
    at = points * PATCH_HW[::-1]
    is_body = bgra[..., 3] > 100
    ys, xs = np.mgrid[: PATCH_HW[0], : PATCH_HW[1]].astype(np.float32)
    is_body &= ys > at[[POINT["left_shoulder"], POINT["right_shoulder"]], 1].min() - 5
    is_body &= ys < at[[POINT["left_ankle"], POINT["right_ankle"]], 1].max() - 2
    top, bottom = (_distance(xs, ys, at, limbs) for limbs in (_TOP, _BOTTOM))
    part = np.where(top <= bottom, 1, 2)
    log = np.log(np.maximum(bgra[..., :3].astype(np.float32) / 255, 0.02))
    wanted = np.log(np.maximum(colours.reshape(4, 3), 0.02))
    if np.abs(wanted[0] - wanted[1]).max() > _CLEAR_DISTANCE:
        far = [np.square(log - wanted[i]).sum(-1) for i in (0, 1)]
        near = np.abs(top - bottom) < _NEAR_WAIST_PX
        part = np.where(near, np.where(far[0] <= far[1], 1, 2), part)
    ratio, skin = (v[..., [0, 2]] - v[..., [1]] for v in (log, wanted[3]))
    is_cloth = is_body & (np.square(ratio - skin).sum(-1) > _SKIN_DISTANCE**2)
    out = np.where(is_cloth, part, 0)
    for value, place in ((1, top <= bottom), (2, bottom < top)):
        if (out[is_body & place] == value).mean() < _MIN_SHARE:
            out[out == value] = 0
    return out.astype(np.uint8)


def _distance(
    xs: np.ndarray, ys: np.ndarray, at: np.ndarray, limbs: tuple[tuple[str, str], ...]
) -> np.ndarray:
    best = np.full(xs.shape, np.inf, np.float32)
    for a, b in limbs:
        start, way = at[POINT[a]], at[POINT[b]] - at[POINT[a]]
        along = ((xs - start[0]) * way[0] + (ys - start[1]) * way[1]) / max(way @ way, 1e-6)
        along = along.clip(0, 1)
        best = np.minimum(
            best, np.hypot(xs - start[0] - along * way[0], ys - start[1] - along * way[1])
        )
    return best


def recolour(
    image: Float[Array, "192 96 4"],
    cloth: Float[Array, "192 96"],
    colours: Float[Array, " 6"],
    key: PRNGKeyArray,
) -> tuple[Float[Array, "192 96 4"], Float[Array, " 6"]]:
    """The picture with other colours of top and bottom, and these.

    Args:
        image: BGRA in [0, 1].
        cloth: From `cloth_mask`.
        colours: Of top and bottom as they are, BGR 0-1.
        key: Of the choice.
    """
    keys = jax.random.split(key, 3)
    level = jax.random.uniform(keys[0], (2, 1), minval=0.06, maxval=0.75)
    tint = jnp.exp(0.45 * jax.random.normal(keys[1], (2, 3)))
    wanted = jnp.clip(level * tint, 0.03, 0.95)
    own = jnp.maximum(colours.reshape(2, 3), 0.03)
    gain = jnp.clip(wanted / own, 0.25, 4.0)
    is_there = jnp.stack([(cloth == value).any() for value in (1, 2)])
    is_chosen = is_there & (jax.random.uniform(keys[2], (2,)) < _CHANCE)
    gain = jnp.where(is_chosen[:, None], gain, 1.0)
    mask = jnp.stack([cloth == 1, cloth == 2], axis=-1).astype(jnp.float32)
    factor = 1 + mask @ (gain - 1)
    bgr = jnp.clip(image[..., :3] * factor, 0, 1)
    return jnp.concatenate([bgr, image[..., 3:]], axis=-1), (own * gain).clip(0, 1).reshape(6)
