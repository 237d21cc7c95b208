"""The actor's training pack in memory, and random batches of it."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray, UInt8

from veilcam.camera.actor_code import NUM_GARMENTS, PATCH_HW, build_value
from veilcam.camera.body_points import NUM_POINTS, POINT_NAMES
from veilcam.camera.errors import InputError
from veilcam.model.actor_recolour import recolour

Arrays = dict[str, jax.Array]
# a pose model's points are taken for seen above this score
SEEN_SCORE = 0.3
_FOUND_SHARE = 0.1
_JITTER = 0.003  # of the patch's sides: a third of a quantization step
_HELD_OUT = 10  # every tenth picture of a person is kept for the test
MIRRORED = np.array(
    [
        POINT_NAMES.index(
            name.replace("left", "LEFT").replace("right", "left").replace("LEFT", "right")
        )
        for name in POINT_NAMES
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActorPack:
    """Simulated people, framed, with pose and looks.

    Attributes:
        bgra: Patches, straight colour.
        cloth: 1 on the top, 2 on the bottom, else 0.
        points, found: Key points in patch units: exact (n, 17, 2), and as the camera's pose model
            finds them, with its score (n, 17, 3).
        seen: Exact visibility (n, 17).
        yaw: Degrees, 0 faces the camera.
        light: Light and camera pitch, (n, 9): see `light_numbers`.
        identity: Person of each picture.
        statics: Static part of the code's vector for each person, (i, 21).
    """

    bgra: UInt8[np.ndarray, "n 192 96 4"]
    cloth: UInt8[np.ndarray, "n 192 96"]
    points: Float32[np.ndarray, "n 17 2"]
    found: Float32[np.ndarray, "n 17 3"]
    seen: Float32[np.ndarray, "n 17"]
    yaw: Float32[np.ndarray, " n"]
    light: Float32[np.ndarray, "n 9"]
    identity: Int[np.ndarray, " n"]
    statics: Float32[np.ndarray, "i 21"]
    manifest: dict[str, object]

    @classmethod
    def load(cls, path: Path) -> "ActorPack":
        """Decodes a pack written by `veilcam.model.actor_prepare`."""
        if not path.is_file():
            raise InputError(
                f"{path}: no training pack; make it: python -m veilcam.model.actor_prepare"
            )
        with np.load(path) as file:
            blob, ends = file["blob"], np.concatenate([[0], file["ends"]])
            bgra = np.empty((len(file["yaw"]), *PATCH_HW, 4), np.uint8)
            cloth = np.empty(bgra.shape[:3], np.uint8)
            for row in range(len(bgra)):
                colour, alpha, mask = (
                    blob[ends[3 * row + i] : ends[3 * row + i + 1]] for i in range(3)
                )
                bgra[row, ..., :3] = cv2.imdecode(colour, cv2.IMREAD_COLOR)
                bgra[row, ..., 3] = cv2.imdecode(alpha, cv2.IMREAD_GRAYSCALE)
                cloth[row] = cv2.imdecode(mask, cv2.IMREAD_GRAYSCALE) // 120
            return cls(
                bgra=bgra,
                cloth=cloth,
                points=file["points"],
                found=file["found"],
                seen=file["seen"].astype(np.float32),
                yaw=file["yaw"].astype(np.float32),
                light=light_numbers(file["light"], file["pitch"]),
                identity=file["identity"],
                statics=static_numbers(file["colours"], file["garment"], file["build"]),
                manifest=json.loads(str(file["manifest"])),
            )

    @property
    def people(self) -> tuple[str, ...]:
        """Name of each latent, by which a resumed run finds it again."""
        return tuple(f"person/{index:04d}" for index in range(len(self.statics)))

    def rows(self, *, held_out: bool) -> Int[np.ndarray, " m"]:
        """Rows to train on, or those kept for the test: one picture of each person."""
        is_last = np.arange(len(self.yaw)) % _HELD_OUT == _HELD_OUT - 1
        return np.flatnonzero(is_last if held_out else ~is_last)

    def arrays(self) -> Arrays:
        """The pack on the device, as `sample` wants it."""
        names = ("bgra", "cloth", "points", "found", "seen", "yaw", "light", "identity", "statics")
        out = {name: jnp.asarray(getattr(self, name)) for name in names}
        return out | {"rows": jnp.asarray(self.rows(held_out=False))}


def light_numbers(
    light: Float[np.ndarray, "n 7"], pitch: Float[np.ndarray, " n"]
) -> Float32[np.ndarray, "n 9"]:
    """Azimuth as sine and cosine, elevation, levels and colours of the lights, camera pitch."""
    azimuth = np.deg2rad(light[:, 0])
    middle, spread = (1.17, 0.0, 0.52, 0.0, 0.25), (0.27, 0.44, 0.22, 0.33, 0.46)
    rest = (light[:, 2:] - middle) / spread
    columns = [np.sin(azimuth), np.cos(azimuth), light[:, 1] / 45 - 1, *rest.T, (pitch - 13) / 8]
    return np.stack(columns, axis=1).astype(np.float32)


# from the front, a little from the side and above; everything else as it is on average
EVEN_LIGHT = light_numbers(np.array([[20.0, 50.0, 1.2, 0.0, 0.6, 0.0, 0.1]]), np.array([13.0]))[0]


def static_numbers(
    colours: Float[np.ndarray, "i 12"], garment: Int[np.ndarray, " i"], build: Int[np.ndarray, " i"]
) -> Float32[np.ndarray, "i 21"]:
    """The static part of the vector of `camera.actor_code`."""
    one_hot = np.eye(NUM_GARMENTS, dtype=np.float32)[garment]
    builds = np.array([[build_value(level)] for level in build.tolist()], np.float32)
    return np.concatenate([colours, one_hot, builds], axis=1).astype(np.float32)


def sample(arrays: Arrays, count: int, *, key: PRNGKeyArray) -> Arrays:
    """A random batch.

    Most points are exact: where they are not, the best guess is a blurred outline, and a sharp
    figure at a slightly wrong place looks better. What is seen is mostly told as the pose model
    tells it. Half of the pictures are mirrored.

    Returns:
        `image` (b, 192, 96, 4) BGRA in [0, 1], straight colour; `values`, `light`, `identity`,
        `face` (b, 2): where the head is, in patch units.
    """
    keys = jax.random.split(key, 6)
    rows = jax.random.choice(keys[0], arrays["rows"], (count,))
    found, exact = arrays["found"][rows], arrays["points"][rows]
    chance = jax.random.uniform(keys[1], (2, count, 1))
    points = jnp.where(chance[0, ..., None] < _FOUND_SHARE, found[..., :2], exact)
    is_seen = (found[..., 2] > SEEN_SCORE).astype(jnp.float32)
    seen = jnp.where(chance[1] < 0.7, is_seen, arrays["seen"][rows])
    points = points + _JITTER * jax.random.normal(keys[2], points.shape)
    yaw = jnp.deg2rad(arrays["yaw"][rows])
    yaw = yaw + jax.random.uniform(keys[3], yaw.shape, minval=-0.5, maxval=0.5) * jnp.pi / 4
    identity = arrays["identity"][rows]
    statics = arrays["statics"][identity]
    image, colours = jax.vmap(recolour)(
        arrays["bgra"][rows].astype(jnp.float32) / 255,
        arrays["cloth"][rows].astype(jnp.float32),
        statics[:, :6],
        jax.random.split(keys[5], count),
    )
    statics = statics.at[:, :6].set(colours)
    light = arrays["light"][rows]
    flips = jax.random.uniform(keys[4], (count,)) < 0.5
    image = jnp.where(flips[:, None, None, None], image[:, :, ::-1], image)
    turned = points[:, MIRRORED] * jnp.array([-1.0, 1.0]) + jnp.array([1.0, 0.0])
    points = jnp.where(flips[:, None, None], turned, points)
    seen = jnp.where(flips[:, None], seen[:, MIRRORED], seen)
    side = jnp.where(flips, -1.0, 1.0)
    facing = jnp.stack([jnp.cos(yaw), jnp.sin(yaw) * side], axis=1)
    flat = points.reshape(count, 2 * NUM_POINTS)
    values = jnp.concatenate([flat, seen, facing, statics], axis=1)
    return {
        "image": image,
        "values": values,
        "light": light.at[:, 0].multiply(side),
        "identity": identity,
        "face": points[:, :5].mean(1),
    }


def face_window(face: Float[Array, "b 2"]) -> Float[Array, "b 192 96 1"]:
    """1 at the head, falling off around it: where a look matters more than its few pixels."""
    ys = (jnp.arange(PATCH_HW[0]) + 0.5) / PATCH_HW[0]
    xs = (jnp.arange(PATCH_HW[1]) + 0.5) / PATCH_HW[1]
    down = jnp.square((ys[None] - face[:, 1:]) / 0.06)
    across = jnp.square((xs[None] - face[:, :1]) / 0.12)
    return jnp.exp(-0.5 * (down[:, :, None] + across[:, None]))[..., None]
