"""The training pack in memory, and batches of it with turned heads and changed expressions."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray, UInt8

from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.errors import InputError
from veilcam.model.head_points import mirror_index, mirror_shape, mirror_values
from veilcam.model.warp import warp

PATCH_PX = 128
SIMULATED = 2
FIELD_INDEX = {field.name: index for index, field in enumerate(HEAD_FIELDS)}
Arrays = dict[str, jax.Array]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pack:
    """Public pictures, aligned, with their code values and head model.

    Attributes:
        bgra: Patches, colours valid under alpha 0 too where the picture had a background.
        points_xy: Mesh points `head_basis.POINTS` in patch pixels.
        values: Code values in `code.HEAD_FIELDS` order.
        shape: Shape numbers of the head model, unit variance.
        domain: 0 generated, 1 synthetic, 2 simulated.
        person: Latent of each picture: one per portrait, one per simulated identity.
        people: Name of each latent, by which a resumed run finds it again in another pack.
        basis: Arrays of the head model.
    """

    bgra: UInt8[np.ndarray, "n 128 128 4"]
    points_xy: Float32[np.ndarray, "n p 2"]
    values: Float32[np.ndarray, "n f"]
    shape: Float32[np.ndarray, "n s"]
    domain: Int[np.ndarray, " n"]
    person: Int[np.ndarray, " n"]
    people: tuple[str, ...]
    basis: dict[str, np.ndarray]
    manifest: dict[str, object]

    @classmethod
    def load(cls, path: Path) -> "Pack":
        """Decodes a pack written by `veilcam.model.prepare`."""
        if not path.is_file():
            raise InputError(f"{path}: no training pack; make it: python -m veilcam.model.prepare")
        with np.load(path) as file:
            blob, ends = file["blob"], np.concatenate([[0], file["ends"]])
            count = len(file["domain"])
            bgra = np.empty((count, PATCH_PX, PATCH_PX, 4), np.uint8)
            for row in range(count):
                color, alpha = (blob[ends[2 * row + i] : ends[2 * row + i + 1]] for i in (0, 1))
                bgra[row, ..., :3] = cv2.imdecode(color, cv2.IMREAD_COLOR)
                bgra[row, ..., 3] = cv2.imdecode(alpha, cv2.IMREAD_GRAYSCALE)
            return cls(
                bgra=bgra,
                points_xy=file["mesh"][:, :, :2].astype(np.float32) / 64,
                values=file["values"],
                shape=file["shape"].astype(np.float32),
                domain=file["domain"],
                person=file["person"],
                people=tuple(file["people"].tolist()),
                basis={k[6:]: file[k] for k in file.files if k.startswith("basis_")},
                manifest=json.loads(str(file["manifest"])),
            )

    def with_mirrored(self) -> "Pack":
        """This pack and its portraits mirrored, each with a latent of its own."""
        rows = np.flatnonzero(self.domain != SIMULATED)
        mirror = mirror_index(self.basis)[: self.points_xy.shape[1]]
        points = self.points_xy[rows][:, mirror] * np.array([-1, 1], np.float32)
        names = [f"{self.people[p]}/mirrored" for p in self.person[rows]]
        index = {name: len(self.people) + i for i, name in enumerate(dict.fromkeys(names))}
        person = np.array([index[name] for name in names], self.person.dtype)
        return Pack(
            bgra=np.concatenate([self.bgra, self.bgra[rows][:, :, ::-1]]),
            points_xy=np.concatenate([self.points_xy, points + np.float32([PATCH_PX, 0])]),
            values=np.concatenate([self.values, mirror_values(self.values[rows])]),
            shape=np.concatenate([self.shape, mirror_shape(self.basis, self.shape[rows])]),
            domain=np.concatenate([self.domain, self.domain[rows]]),
            person=np.concatenate([self.person, person]),
            people=self.people + tuple(index),
            basis=self.basis,
            manifest=self.manifest,
        )

    def arrays(self) -> Arrays:
        """The pack on the device, as `sample` wants it."""
        portraits = np.flatnonzero(self.domain != SIMULATED)
        # the diverse set is four times smaller than the clean one: draw both about equally often
        weight = np.where(self.domain[portraits] == 1, 2.5, 1.0)
        return {
            "bgra": jnp.asarray(self.bgra),
            "points": jnp.asarray(self.points_xy),
            "values": jnp.asarray(self.values),
            "shape": jnp.asarray(self.shape),
            "person": jnp.asarray(self.person),
            "portraits": jnp.asarray(portraits),
            "cumulative": jnp.asarray(np.cumsum(weight) / weight.sum(), jnp.float32),
            "simulated": jnp.asarray(np.flatnonzero(self.domain == SIMULATED)),
        }


def sample(
    arrays: Arrays,
    basis: Arrays,
    num_portraits: int,
    num_simulated: int,
    *,
    key: PRNGKeyArray,
) -> Arrays:
    """A random batch, portraits first: three in four turned and made to speak by warping.

    Returns:
        `image` (b, 128, 128, 4) BGRA in [0, 1], straight colour; `values`, `shape`, `person`.
    """
    keys = jax.random.split(key, 4)
    place = jnp.searchsorted(arrays["cumulative"], jax.random.uniform(keys[0], (num_portraits,)))
    portraits = arrays["portraits"][jnp.minimum(place, len(arrays["portraits"]) - 1)]
    simulated = jax.random.choice(keys[1], arrays["simulated"], (num_simulated,))
    rows = jnp.concatenate([portraits, simulated])
    image = arrays["bgra"][rows].astype(jnp.float32) / 255
    values = arrays["values"][rows]
    changed = jax.vmap(_change)(values[:num_portraits], jax.random.split(keys[2], num_portraits))
    is_changed = jax.random.uniform(keys[3], (num_portraits, 1)) < 0.75
    after = jnp.where(is_changed, changed, values[:num_portraits])
    warped = jax.vmap(warp, in_axes=(None, 0, 0, 0, 0, 0))(
        basis,
        image[:num_portraits],
        arrays["points"][portraits],
        arrays["shape"][portraits],
        values[:num_portraits],
        after,
    )
    return {
        "image": jnp.concatenate([warped, image[num_portraits:]]),
        "values": jnp.concatenate([after, values[num_portraits:]]),
        "shape": arrays["shape"][rows],
        "person": arrays["person"][rows],
    }


def _change(values: Float[Array, " f"], key: PRNGKeyArray) -> Float[Array, " f"]:
    """Other pose and expression, as far as a warp of one picture stays believable."""
    normal = jax.random.normal(jax.random.fold_in(key, 0), (5,))
    chance = jax.random.uniform(jax.random.fold_in(key, 1), (3,))
    size = jax.random.uniform(jax.random.fold_in(key, 2), (2,))
    at = FIELD_INDEX
    out = values.at[at["yaw"]].set(jnp.clip(values[at["yaw"]] + 10 * normal[0], -50, 50))
    out = out.at[at["pitch"]].set(jnp.clip(values[at["pitch"]] + 6 * normal[1], -28, 28))
    opens = (chance[0] < 0.4) & (values[at["mouth_open"]] < 0.2)
    out = out.at[at["mouth_open"]].add(jnp.where(opens, 0.22 * size[0], 0.0))
    shut = jnp.where(chance[1] < 0.3, 0.1 + 0.9 * size[1], 1.0)
    for name in ("eyelid_left", "eyelid_right"):
        out = out.at[at[name]].multiply(shut)
    speaks = jnp.where(chance[2] < 0.4, 1.0, 0.0)
    for name, spread, draw in (("smile", 0.025, 2), ("mouth_wide", 0.04, 3), ("brow", 0.02, 4)):
        out = out.at[at[name]].add(spread * normal[draw] * speaks)
    return out
