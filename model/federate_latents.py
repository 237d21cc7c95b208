"""Latents of the face bundle over cameras: where the fleet's people lie, in one secure round.

A camera encodes its people as `private_latents` does on one machine and sends, clipped as a whole,

    (c, a m, b vech S),   c^2 + a^2 + b^2 = 1,

m the mean and S the second moment of u = (latent - public mean) / radius over its people, each u
in the unit ball. So its norm is at most 1 before clipping, and what one camera changes in the sum
is at most `l2_clip_norm`, however many people it sees. Clipping shortens the three parts alike, so
the sum of the c parts is the weight by which mean and second moment are divided: cameras that saw
nobody send zero and pull nothing toward the public mean.

The server sees the noisy sum alone. Dividing, `private_latents.moved` and the export are
post-processing.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from veilcam.camera.errors import InputError
from veilcam.model.federate import Federation
from veilcam.model.federate_data import load_public_mean, pictures_of, write_rows
from veilcam.model.federate_result import read_result
from veilcam.model.private_latents import Describe, Encoder, write_run
from veilcam.model.statistics import Moments, nearest_psd, to_ball, unvech, vech

_log = logging.getLogger(__name__)
# Squared shares of count, mean and second moment. For some dozen cameras the second moment is below
# its noise; the count's noise moves the mean along itself, and from 0.01 on less than its own does.
_COUNT, _MEAN, _PAIRS = 0.03, 0.88, 0.09
_LEAST = 0.5  # of the cameras: with fewer the mean moves less far, not by a division's noise
Cut = Callable[[np.ndarray], np.ndarray | None]
Encode = Callable[[np.ndarray], np.ndarray]


class LatentsTask:
    """Weight, mean and second moment of encoded latents over cameras.

    Args:
        federation: Its `feature_size` is the latents' length.
        center: Public mean (d,) of latents as encoded.
        radius: Bound of a person's distance from it.
    """

    def __init__(
        self, federation: Federation, center: Float[np.ndarray, " d"], radius: float
    ) -> None:
        self._d = federation.feature_size
        self._center, self._radius = jnp.asarray(center, jnp.float32), radius
        self._clip = federation.l2_clip_norm
        self._noise = federation.mean_stddev
        self.center, self.radius = np.asarray(center, np.float64), radius
        self.size = 1 + self._d + self._d * (self._d + 1) // 2

    def initial(self) -> Float[np.ndarray, " p"]:
        """Nothing is known."""
        return np.zeros(self.size)

    def contribution(
        self,
        params: Float[Array, " p"],
        rows: Float[Array, "n d"],
        weights: Float[Array, " n"],
    ) -> Float[Array, " p"]:
        """A camera's three parts, not yet clipped; zero without people."""
        total = weights.sum()
        share = weights / jnp.maximum(total, 1e-9)
        unit = jax.vmap(to_ball)((rows - self._center) / self._radius)
        second = (unit * share[:, None]).T @ unit
        parts = (jnp.full(1, _COUNT**0.5), _MEAN**0.5 * share @ unit, _PAIRS**0.5 * vech(second))
        return jnp.where(total > 0, jnp.concatenate(parts), 0.0)

    def step(
        self, params: np.ndarray, velocity: np.ndarray, mean: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The noisy mean over cameras is the result."""
        return mean.copy(), velocity

    def weight(self, params: Float[np.ndarray, " p"]) -> float:
        """Share of the cameras that count: what noise can't be is taken off."""
        most = min(1.0, self._clip / _COUNT**0.5)
        return float(np.clip(params[0] / _COUNT**0.5, _LEAST * most, most))

    def moments(self, params: Float[np.ndarray, " p"]) -> Moments:
        """What `private_latents.moved` takes."""
        weight = self.weight(params)
        mean = params[1 : self._d + 1] / _MEAN**0.5 / weight
        second = unvech(params[self._d + 1 :] / _PAIRS**0.5 / weight, self._d)
        return Moments(
            mean=mean * self.radius + self.center,
            covariance=nearest_psd(second - np.outer(mean, mean)) * self.radius**2,
            mean_stddev=self._noise / _MEAN**0.5 / weight * self.radius,
            covariance_stddev=self._noise / _PAIRS**0.5 / 2**0.5 / weight * self.radius**2,
        )


def load_task(path: Path, federation: Federation) -> LatentsTask:
    """From the encoder that every node holds as `public.npz`.

    Raises:
        InputError: It is no encoder, or of latents of another length than agreed.
    """
    center, radius = load_public_mean(path)
    if center.shape != (federation.feature_size,):
        raise InputError(
            f"{path}: encodes {center.shape} numbers; federation.toml agrees on feature_size = "
            f"{federation.feature_size}"
        )
    return LatentsTask(federation, center, radius)


def encode_people(
    folders: tuple[Path, ...], out: Path, encode: Encode, describe: Describe, cut: Cut
) -> dict[str, Any]:
    """Writes one row for each person of the folders: the mean over pictures with a face.

    Args:
        folders: Each with a manifest.csv.
        out: Features, 0600.
        encode: Descriptions (n, d) -> rows: an `Encoder`, or a critic's `Basis`.
        describe: Cut heads -> descriptions.
        cut: Picture -> its head; None without a face.

    Raises:
        InputError: No manifest, or no face at all. The message names no picture.
    """
    heads, names = [], []
    num_pictures = 0
    for folder in folders:
        for path, person in pictures_of(folder):
            num_pictures += 1
            bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
            head = None if bgr is None else cut(bgr)
            if head is not None:
                heads.append(head)
                names.append(person)
    if not heads:
        raise InputError(f"no face was found in any of {num_pictures} pictures")
    encoded = encode(describe(np.stack(heads)))
    people, index = np.unique(np.array(names), return_inverse=True)
    rows = np.zeros((len(people), encoded.shape[1]))
    np.add.at(rows, index, encoded)
    rows /= np.bincount(index)[:, None]
    write_rows(out, rows.astype(np.float32), people)
    return {"out": str(out), "faces": len(heads), "people": len(people)}


def finish(folder: Path, run_dir: Path, out: Path) -> dict[str, Any]:
    """Moves a public run by what the federation of `folder` found; returns the promise.

    The run in `out` goes on with the federation's ledger, whose unit is the camera, and is
    exported as every run is. Doing it again costs nothing: the sum is public by then.

    Raises:
        ConfigError, PrivacyError: See `read_result`.
    """
    result = read_result(folder, run_dir, "latents")
    federation, params = result.federation, result.params
    task = load_task(folder / "public.npz", federation)
    moments = task.moments(params)
    facts = {
        "federation": federation.name, "fingerprint": federation.fingerprint,
        "cameras": federation.num_nodes, "min_nodes": federation.min_nodes,
        "l2_clip_norm": federation.l2_clip_norm, "noise_stddev": federation.noise_stddev,
        "radius": task.radius, "weight": round(task.weight(params), 4),
        "mean_stddev": moments.mean_stddev, "covariance_stddev": moments.covariance_stddev,
        "moved": round(float(np.linalg.norm(moments.mean - task.center)), 4),
    }  # fmt: skip
    result.give(out)
    more = {"training": result.training, "data": result.data, "federated_latents": facts}
    write_run(run_dir, out, Encoder.load(folder / "public.npz"), moments, more)
    return {"out": str(out), "training": result.training, "federated_latents": facts}
