"""Limbs, trunk, head and face of a pose as soft maps: how key points reach the generator.

A limb is a row of points between two key points, so that a map is one product of matrices; which
side of the body hides the other is told by how bright its map is.
"""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from veilcam.camera.body_points import NUM_POINTS, POINT

_SAMPLES = 8  # points along a limb
_LIMBS = tuple(
    (f"{side}_{a}", f"{side}_{b}")
    for side in ("left", "right")
    for chain in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
    for a, b in pairwise(chain)
)
_HIDDEN = 0.4  # brightness of a limb that is behind something
NUM_MAPS = len(_LIMBS) + 3
FACE_MAP, HEAD_MAP = NUM_MAPS - 1, NUM_MAPS - 2
NUM_DRAWN = NUM_MAPS + 3  # with the sketch


def _between(a: str, b: str, count: int) -> np.ndarray:
    rows = np.zeros((count, NUM_POINTS), np.float32)
    share = np.linspace(0, 1, count, dtype=np.float32)
    rows[:, POINT[a]] += 1 - share
    rows[:, POINT[b]] += share
    return rows


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sample points from key points (n, 17); maps from samples (g, n); brightness (g, 17), (g)."""
    parts = [_between(a, b, _SAMPLES) for a, b in _LIMBS]
    left, right = (_between(f"{side}_shoulder", f"{side}_hip", 7) for side in ("left", "right"))
    parts.append(np.concatenate([left + (right - left) * s for s in np.linspace(0, 1, 6)]))
    head = [_between("left_ear", "right_ear", 5)]
    neck = (_between("left_shoulder", "right_shoulder", 3)[1:2] * 0.65).astype(np.float32)
    head += [0.35 * rows + neck for rows in (_between("left_ear", "right_ear", 3)[1:2],)]
    parts.append(np.concatenate(head))
    parts.append(np.concatenate([_between(n, n, 1) for n in ("nose", "left_eye", "right_eye")]))
    groups = np.zeros((NUM_MAPS, sum(map(len, parts))), np.float32)
    bright, base = np.zeros((NUM_MAPS, NUM_POINTS), np.float32), np.zeros(NUM_MAPS, np.float32)
    start = 0
    for row, part in enumerate(parts):
        groups[row, start : start + len(part)] = 1
        start += len(part)
    for row, (a, b) in enumerate(_LIMBS):
        bright[row, [POINT[a], POINT[b]]] = (1 - _HIDDEN) / 2
        base[row] = _HIDDEN
    base[len(_LIMBS)] = base[HEAD_MAP] = 1
    bright[FACE_MAP, [POINT["nose"], POINT["left_eye"], POINT["right_eye"]]] = 1 / 3
    return np.concatenate(parts), groups, bright, base


_POINTS, _GROUPS, _BRIGHT, _BASE = _tables()


def _colour_table() -> np.ndarray:
    """Which of the colours top, bottom, hair, skin each map is sketched in, (g, 4)."""
    table = np.zeros((NUM_MAPS, 4), np.float32)
    for row, (a, _) in enumerate(_LIMBS):
        table[row, 1 if a.endswith(("hip", "knee")) else 0] = 1
    table[len(_LIMBS), 0] = table[HEAD_MAP, 2] = table[FACE_MAP, 3] = 1
    return table


_COLOUR_TABLE = _colour_table()


def draw_pose(
    points_xy: Float[Array, "17 2"],
    seen: Float[Array, " 17"],
    colours: Float[Array, "4 3"],
    *,
    size_hw: tuple[int, int],
) -> Float[Array, "h w g"]:
    """Maps of one pose, 0 to 1.5, and a sketch of it in its colours.

    Args:
        points_xy: Key points, 0..1 over the patch's width and height.
        seen: 1 where a point is in front of everything else.
        colours: Of top, bottom, hair and skin, BGR 0-1.
        size_hw: Of the maps in pixels.
    """
    height, width = size_hw
    at = _POINTS @ points_xy
    spread = 0.8 + height / 120  # pixels: limbs keep about their width at all sizes
    xs = (jnp.arange(width, dtype=jnp.float32)[:, None] + 0.5) - at[None, :, 0] * width
    ys = (jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5) - at[None, :, 1] * height
    # tails that underflow to denormals make CPUs several times slower: stop at exp(-16)
    across, down = (jnp.exp(-jnp.minimum(0.5 * (d / spread) ** 2, 16.0)) for d in (xs, ys))
    rows = down[None] * _GROUPS[:, None, :]  # g h n
    maps = jnp.clip(rows @ across.T, 0.0, 1.5)
    bright = jnp.sum(_BRIGHT * seen[None], axis=1) + _BASE
    maps = jnp.transpose(maps * bright[:, None, None], (1, 2, 0))
    sketch = maps.reshape(height * width, NUM_MAPS) @ (_COLOUR_TABLE @ colours)
    sketch = jnp.clip(sketch.reshape(height, width, 3), 0.0, 1.5)
    return jnp.concatenate([maps, sketch], axis=-1)
