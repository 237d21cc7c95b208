"""The training pack in memory, and batches of it with turned heads and changed expressions."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, Int, UInt8

from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.errors import InputError
from veilcam.model.head_basis import POINTS
from veilcam.model.warp import Warper

PATCH_PX = 128
SIMULATED = 2
FIELD_INDEX = {field.name: index for index, field in enumerate(HEAD_FIELDS)}


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


class Sampler:
    """Random batches: portraits turned and made to speak by warping, simulated heads as they are.

    Args:
        pack: The pack.
        seed: Seed of pictures and warps.
    """

    def __init__(self, pack: Pack, *, seed: int) -> None:
        self.pack = pack
        self._random = np.random.default_rng(seed)
        self._portraits = np.flatnonzero(pack.domain != SIMULATED)
        self._simulated = np.flatnonzero(pack.domain == SIMULATED)
        # the diverse set is four times smaller than the clean one: draw both about equally often
        weight = np.where(pack.domain[self._portraits] == 1, 2.5, 1.0)
        self._weight = weight / weight.sum()
        self._warper = Warper(pack.basis, len(POINTS))

    def batch(self, num_portraits: int, num_simulated: int) -> dict[str, np.ndarray]:
        """Arrays `image`, `values`, `shape` and `person`; portraits come first.

        `image` is (b, 128, 128, 4) float32: BGR over grey in [-1, 1], alpha in [0, 1].
        """
        rows = np.concatenate(
            [
                self._random.choice(self._portraits, num_portraits, p=self._weight),
                self._random.choice(self._simulated, num_simulated),
            ]
        )
        values = self.pack.values[rows].copy()
        images = np.empty((len(rows), PATCH_PX, PATCH_PX, 4), np.float32)
        for out, row in enumerate(rows):
            bgra = self.pack.bgra[row]
            if out < num_portraits and self._random.random() < 0.75:
                values[out] = self._change(values[out])
                bgra = self._warper(
                    bgra,
                    self.pack.points_xy[row],
                    self.pack.shape[row],
                    self.pack.values[row],
                    values[out],
                )
            images[out] = to_float(bgra)
        return {
            "image": images,
            "values": values,
            "shape": self.pack.shape[rows],
            "person": self.pack.person[rows],
        }

    def _change(self, values: Float32[np.ndarray, " f"]) -> Float32[np.ndarray, " f"]:
        """Other pose and expression, as far as a warp of one picture stays believable."""
        out, random = values.copy(), self._random
        index = FIELD_INDEX
        out[index["yaw"]] = np.clip(out[index["yaw"]] + random.normal(0, 10), -50, 50)
        out[index["pitch"]] = np.clip(out[index["pitch"]] + random.normal(0, 6), -28, 28)
        if random.random() < 0.4 and out[index["mouth_open"]] < 0.2:
            out[index["mouth_open"]] += random.uniform(0, 0.22)
        if random.random() < 0.3:
            shut = random.uniform(0.1, 1.0)
            for name in ("eyelid_left", "eyelid_right"):
                out[index[name]] *= shut
        if random.random() < 0.4:
            out[index["smile"]] += random.normal(0, 0.025)
            out[index["mouth_wide"]] += random.normal(0, 0.04)
            out[index["brow"]] += random.normal(0, 0.02)
        return out


def to_float(bgra: UInt8[np.ndarray, "128 128 4"]) -> Float32[np.ndarray, "128 128 4"]:
    """BGR laid over grey in [-1, 1], alpha in [0, 1]."""
    out = bgra.astype(np.float32) / 255
    out[..., :3] = (out[..., :3] * 2 - 1) * out[..., 3:]
    return out
