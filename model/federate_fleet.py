"""A whole fleet in one process, and the same training without a fleet to compare it with."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from jaxtyping import Float

from veilcam.model.federate import Federation
from veilcam.model.federate_keys import Identity, Roster, public_line
from veilcam.model.federate_node import Node
from veilcam.model.federate_task import Head, Task
from veilcam.model.federate_wire import Payload
from veilcam.model.private_data import PrivateSet


class LocalFleet:
    """Nodes that answer in this process; use `with`.

    Args:
        federation: What was agreed.
        task: What is learned.
        cameras: People of each node.
        folder: Of the ledgers.
    """

    def __init__(
        self,
        federation: Federation,
        task: Task,
        cameras: list[PrivateSet | None],
        folder: Path,
    ) -> None:
        names = [f"camera{index:06d}" for index in range(len(cameras))]
        identities = [Identity(name, ec.generate_private_key(ec.SECP384R1())) for name in names]
        self.roster = Roster({who.name: public_line(who.key) for who in identities})
        self.nodes: dict[str, Node] = {}
        for identity, people in zip(identities, cameras, strict=True):
            place = folder / identity.name
            self.nodes[identity.name] = Node(
                federation, task, identity, self.roster, people=people, folder=place
            )

    def exchange(self, messages: Mapping[str, Payload], timeout_s: float) -> dict[str, Payload]:
        """For a `Conductor`."""
        return {name: self.nodes[name].handle(message) for name, message in messages.items()}

    def __enter__(self) -> "LocalFleet":
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            node.close()


def updates_of(
    federation: Federation, task: Task, params: Float[np.ndarray, " p"], cameras: list[np.ndarray]
) -> Float[np.ndarray, "n p"]:
    """Clipped updates without noise, one for each camera's rows: what must never be sent."""
    rows, weights = _padded(cameras, federation.feature_size)
    clip = federation.l2_clip_norm
    return np.asarray(_clipped(task, jnp.asarray(params, jnp.float32), rows, weights, clip))


@partial(jax.jit, static_argnums=0)
def _clipped(
    task: Task, params: jax.Array, rows: jax.Array, weights: jax.Array, bound: Any
) -> jax.Array:
    def one(camera: jax.Array, weight: jax.Array) -> jax.Array:
        update = task.contribution(params, camera, weight)
        return update * jnp.minimum(1.0, bound / jnp.maximum(jnp.linalg.norm(update), 1e-12))

    return jax.vmap(one)(rows, weights)


def train_plain(
    federation: Federation,
    task: Task,
    cameras: list[np.ndarray],
    *,
    noise_stddev: float,
    random: np.random.Generator,
    is_alone: bool = False,
) -> Float[np.ndarray, " p"]:
    """The same rounds by somebody who holds everybody's rows (n_i, d); for comparison only.

    With the federation's `noise_stddev` this is central DP training; with 0 it protects nobody.
    `is_alone`: cameras that share nothing need neither clipping nor sampling.
    """
    rows, weights = _padded(cameras, federation.feature_size)
    bound = np.inf if is_alone else federation.l2_clip_norm
    prob = 1.0 if is_alone else federation.sampling_prob

    params = task.initial()
    velocity, average, count = np.zeros_like(params), np.zeros_like(params), 0
    expected = len(cameras) * prob
    for index in range(federation.rounds):
        chosen = random.random(len(cameras)) < prob
        start = jnp.asarray(params, jnp.float32)
        added = chosen @ np.asarray(_clipped(task, start, rows, weights, bound))
        noisy = added + random.normal(0.0, noise_stddev, task.size)
        params, velocity = task.step(params, velocity, noisy / expected)
        if (index + 1) * 2 > federation.rounds:
            count += 1
            average = average + (params - average) / count
    return average


def _padded(cameras: list[np.ndarray], size: int) -> tuple[jax.Array, jax.Array]:
    longest = max(max(map(len, cameras)), 1)
    rows = np.zeros((len(cameras), longest, size), np.float32)
    weights = np.zeros((len(cameras), longest), np.float32)
    for index, camera in enumerate(cameras):
        rows[index, : len(camera)], weights[index, : len(camera)] = camera, 1.0
    return jnp.asarray(rows), jnp.asarray(weights)


def auc(positive: Float[np.ndarray, " n"], negative: Float[np.ndarray, " m"]) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    both = np.concatenate([positive, negative])
    order, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    del order
    above = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(above / (len(positive) * len(negative)))


def likeness(
    head: Head,
    params: Float[np.ndarray, " p"],
    people: Float[np.ndarray, "n d"],
    public: Float[np.ndarray, "m d"],
) -> float:
    """Share of the squared kernel distance between public faces and people that weighing removes.

    Public faces are drawn in proportion to exp(D), as the head would choose latents. The kernel is
    KID's, in the features' space; 0 means nothing gained, 1 that the two can't be told apart.
    """
    score = head.scores(params, public)
    weight = np.exp(np.minimum(score, np.quantile(score, 0.99)))
    uniform = np.full(len(public), 1 / len(public))
    before = _kernel_distance(people, public, uniform)
    return 1 - _kernel_distance(people, public, weight / weight.sum()) / before


def _kernel_distance(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> float:
    """Unbiased in `a`; in `b` without a point's similarity to itself."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)

    aa, bb = kernel(a, a), kernel(b, b)
    within_a = (aa.sum() - np.trace(aa)) / (len(a) * (len(a) - 1))
    pairs = np.outer(weight, weight)
    np.fill_diagonal(pairs, 0.0)
    within_b = (pairs * bb).sum() / pairs.sum()
    return float(within_a + within_b - 2 * (kernel(a, b) @ weight).mean())
