"""What a federation learns: a vector, a camera's contribution to it, and the server's step.

`head`: a discriminator D of the fleet's people against public faces, on frozen features. exp(D(x))
is the ratio of the two densities, so it weighs public faces, latents or a generator's draws toward
what the fleet sees. `moments`: mean and covariance of the people's features (`statistics`).
`latents`: the same of the face bundle's latents (`federate_latents`).

Everything here sees one camera; what leaves it is clipped and noised in `federate_share`.
"""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from veilcam.camera.errors import InputError
from veilcam.model.federate import Federation
from veilcam.model.statistics import nearest_psd, to_ball, unvech, vech

Rows = Float[Array, "n d"]
_MEAN_SHARE = 0.8


@runtime_checkable
class Task(Protocol):
    """What is learned.

    `contribution(params, rows, weights)` is traced by JAX and must be zero for weights of zero;
    `step(params, velocity, mean)` is the server's and sees noisy sums only.
    """

    size: int

    def contribution(
        self, params: Float[Array, " p"], rows: Rows, weights: Float[Array, " n"]
    ) -> Float[Array, " p"]:
        """A camera's vector, not yet clipped."""

    def initial(self) -> Float[np.ndarray, " p"]:
        """Where all begin."""

    def step(
        self, params: np.ndarray, velocity: np.ndarray, mean: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The next parameters and velocity."""


def load_public(path: Path, federation: Federation) -> Float[np.ndarray, "n d"]:
    """The public faces' features.

    Raises:
        InputError: The file can't be read or has other columns than agreed.
    """
    try:
        with np.load(path) as file:
            rows: np.ndarray = file["x"].astype(np.float32)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: wanted public features as the array x: {error}") from error
    if rows.ndim != 2 or rows.shape[1] != federation.feature_size:
        raise InputError(f"{path}: x has shape {rows.shape}; wanted (n, {federation.feature_size})")
    return rows


def task_of(federation: Federation, public: Float[np.ndarray, "n d"]) -> Task:
    """The task that the federation names."""
    return Head(federation, public) if federation.task == "head" else MomentsTask(federation)


def read_task(path: Path, federation: Federation) -> Task:
    """The task with its public file: features of public faces, or for `latents` the encoder.

    Raises:
        InputError: The file is not what the task needs.
    """
    if federation.task == "latents":
        from veilcam.model.federate_latents import load_task

        return load_task(path, federation)
    return task_of(federation, load_public(path, federation))


class Head:
    """A linear or two-layer discriminator."""

    def __init__(self, federation: Federation, public: Float[np.ndarray, "n d"]) -> None:
        self._f = federation
        self._public = jnp.asarray(public, jnp.float32)
        d, h = federation.feature_size, federation.hidden
        self._shapes = [(d,), ()] if not h else [(d, h), (h,), (h,), ()]
        self.size = int(sum(np.prod(shape) for shape in self._shapes))

    def initial(self) -> Float[np.ndarray, " p"]:
        """Zero, or for a hidden layer a fixed random start: it is public."""
        d, h = self._f.feature_size, self._f.hidden
        params = np.zeros(self.size)
        if h:
            random = np.random.default_rng(0)
            params[: d * h] = random.normal(0, d**-0.5, d * h)
            params[d * h + h : -1] = random.normal(0, h**-0.5, h)
        return params

    def score(self, params: Float[Array, " p"], rows: Rows) -> Float[Array, " n"]:
        """D of each row: the logarithm of the density ratio."""
        parts, start = [], 0
        for shape in self._shapes:
            count = int(np.prod(shape))
            parts.append(params[start : start + count].reshape(shape))
            start += count
        if len(parts) == 2:
            return rows @ parts[0] + parts[1]
        return jnp.tanh(rows @ parts[0] + parts[1]) @ parts[2] + parts[3]

    def scores(
        self, params: Float[np.ndarray, " p"], rows: Float[np.ndarray, "n d"]
    ) -> Float[np.ndarray, " n"]:
        """`score` outside of JAX."""
        return np.asarray(self.score(jnp.asarray(params, jnp.float32), jnp.asarray(rows)))

    def contribution(
        self, params: Float[Array, " p"], rows: Rows, weights: Float[Array, " n"]
    ) -> Float[Array, " p"]:
        """How far some steps on the camera's people against public faces move the parameters."""
        total = weights.sum()
        share = weights / jnp.maximum(total, 1e-9)

        def loss(w: Float[Array, " p"]) -> Float[Array, ""]:
            private = (jax.nn.softplus(-self.score(w, rows)) * share).sum()
            public = jax.nn.softplus(self.score(w, self._public)).mean()
            return private + public + self._f.weight_decay / 2 * (w @ w)

        def step(_: Any, w: Float[Array, " p"]) -> Float[Array, " p"]:
            return jnp.asarray(w - self._f.learning_rate * jax.grad(loss)(w))

        moved = jax.lax.fori_loop(0, self._f.local_steps, step, params)
        return jnp.asarray(jnp.where(total > 0, moved - params, 0.0))

    def step(
        self, params: np.ndarray, velocity: np.ndarray, mean: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Momentum along the mean update."""
        velocity = self._f.momentum * velocity + mean
        return params + self._f.server_rate * velocity, velocity


class MomentsTask:
    """Mean and covariance of whitened features over cameras, in one round."""

    def __init__(self, federation: Federation) -> None:
        self._d = federation.feature_size
        self._clip = federation.l2_clip_norm
        self.size = self._d + self._d * (self._d + 1) // 2

    def initial(self) -> Float[np.ndarray, " p"]:
        """Nothing is known."""
        return np.zeros(self.size)

    def contribution(
        self, params: Float[Array, " p"], rows: Rows, weights: Float[Array, " n"]
    ) -> Float[Array, " p"]:
        """(a u, b vech(u u')), averaged over the camera's people; u is in the unit ball."""
        total = weights.sum()
        share = weights / jnp.maximum(total, 1e-9)
        unit = jax.vmap(to_ball)(rows / self._d**0.5)
        pairs = jax.vmap(lambda u: vech(jnp.outer(u, u)))(unit)
        both = jnp.concatenate([_MEAN_SHARE**0.5 * unit, (1 - _MEAN_SHARE) ** 0.5 * pairs], axis=1)
        return jnp.where(total > 0, self._clip * share @ both, 0.0)

    def step(
        self, params: np.ndarray, velocity: np.ndarray, mean: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The noisy mean is the result."""
        return mean.copy(), velocity

    def moments(self, params: Float[np.ndarray, " p"]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance in the features' units."""
        mean = params[: self._d] / _MEAN_SHARE**0.5 / self._clip
        second = unvech(params[self._d :] / (1 - _MEAN_SHARE) ** 0.5 / self._clip, self._d)
        return mean * self._d**0.5, nearest_psd(second - np.outer(mean, mean)) * self._d
