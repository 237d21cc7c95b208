"""A class-conditional mixture of Gaussians from one-shot DP statistics of pictures.

Pictures are seen through their low 2-D cosine frequencies (a basis that depends on no data), then
through the principal axes of the released covariance. Each class gets K cells whose centres are
moved by noisy means (Lloyd), and a covariance. All releases go through the mechanism.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from veilcam.model.ledger import Ledger
from veilcam.model.privacy import Mechanism
from veilcam.model.private_data import PrivateSet
from veilcam.model.statistics import (
    nearest_psd,
    noisy_moments,
    noisy_sum,
    to_ball,
    unvech,
    vech,
)

NUM_CLASSES = 10
SIDE = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureConfig:
    """Public settings of the mixture.

    Attributes:
        num_frequencies: Cosine coefficients that are kept.
        num_axes: Principal axes in which classes are modelled.
        num_cells: Cells of each class.
        num_rounds: Lloyd rounds; the last also releases the cells' covariances if `own_shape`.
        radius: Clip radius of a picture around the mean, in pixel-vector length.
        own_shape: Whether each cell has its own covariance (needs a larger epsilon).
    """

    num_frequencies: int = 200
    num_axes: int = 60
    num_cells: int = 10
    num_rounds: int = 3
    radius: float = 9.0
    own_shape: bool = False


def stages(config: MixtureConfig, num_people: int) -> list[Mechanism]:
    """Mechanisms with relative noise: how the budget is shared."""

    def one(stage: str, noise: float) -> Mechanism:
        return Mechanism(
            stage=stage, num_persons=num_people, l2_clip_norm=1.0, noise_multiplier=noise
        )

    rounds = [one(f"cells_{index}", 1.4) for index in range(config.num_rounds)]
    if config.own_shape:
        rounds[-1] = one(f"cells_{config.num_rounds - 1}", 0.7)
    return [one("axes", 2.0), one("classes", 1.0), *rounds]


@dataclass(kw_only=True, eq=False)
class Mixture:
    """Released numbers only; sampling costs nothing more."""

    basis: np.ndarray  # (num_axes, 784)
    mean: np.ndarray  # (784,)
    centers: np.ndarray  # (10, k, d)
    shapes: np.ndarray  # (10, k, d, d)
    weights: np.ndarray  # (10, k)

    def sample(self, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`count` pictures (n, 28, 28) float32 in [0, 1] and their classes, in equal numbers."""
        labels = np.arange(count) % NUM_CLASSES
        out = np.empty((count, SIDE * SIDE), np.float32)
        for label in range(NUM_CLASSES):
            rows = np.flatnonzero(labels == label)
            cells = random.choice(self.weights.shape[1], len(rows), p=self.weights[label])
            for cell in np.unique(cells):
                these = rows[cells == cell]
                factor = factor_of(self.shapes[label, cell])
                noise = random.standard_normal((len(these), len(factor)))
                codes = self.centers[label, cell] + noise @ factor.T
                out[these] = self.mean + codes @ self.basis
        return out.clip(0, 1).reshape(-1, SIDE, SIDE), labels


def fit(
    config: MixtureConfig, private: PrivateSet, ledger: Ledger, random: np.random.Generator
) -> Mixture:
    """Releases axes, class moments and cells, in this order."""
    plan, radius = ledger.plan, config.radius
    frequencies = jnp.asarray(cosines(config.num_frequencies))
    guess = np.zeros(len(frequencies))
    guess[0] = 0.3 * SIDE  # a third of the ink: public guess of the mean brightness
    stage = plan.stage("axes")
    moments = noisy_moments(
        stage,
        private,
        ledger.spend(stage),
        lambda picture: frequencies @ flat(picture),
        radius=radius * 1.3,
        center=guess,
        mean_share=0.2,
    )
    values, vectors = np.linalg.eigh(moments.covariance)
    axes = vectors[:, np.argsort(-values)[: config.num_axes]].T
    basis = (axes @ np.asarray(frequencies)).astype(np.float32)
    mean = (moments.mean @ np.asarray(frequencies)).astype(np.float32)
    project = make_projection(basis, mean, radius)
    classes = release_classes(plan.stage("classes"), private, ledger, project, radius)
    centers, shapes, weights = release_cells(config, private, ledger, project, classes, random)
    return Mixture(basis=basis, mean=mean, centers=centers, shapes=shapes, weights=weights)


def release_classes(
    stage: Mechanism, private: PrivateSet, ledger: Ledger, project: Any, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (10, d) and covariance (10, d, d) of each class."""

    def statistic(person: dict[str, jax.Array]) -> dict[str, jax.Array]:
        unit = project(person)
        one_hot = jax.nn.one_hot(person["label"][0], NUM_CLASSES)
        return {
            "mean": 0.4 * one_hot[:, None] * unit,
            "pairs": 0.9 * one_hot[:, None] * vech(jnp.outer(unit, unit)),
            "count": 0.17 * one_hot,
        }

    total = noisy_sum(stage, private, ledger.spend(stage), statistic)
    count = np.maximum(total["count"] / 0.17, 1.0)
    mean = total["mean"] / 0.4 / count[:, None]
    shape = np.stack(
        [
            nearest_psd(unvech(pairs / 0.9 / n, len(m)) - np.outer(m, m))
            for pairs, n, m in zip(total["pairs"], count, mean, strict=True)
        ]
    )
    noise = stage.noise_stddev / 0.9 / 2**0.5 / count.mean()
    shape = np.stack([shrink(s, noise) for s in shape])
    return mean * radius, shape * radius**2


def release_cells(
    config: MixtureConfig,
    private: PrivateSet,
    ledger: Ledger,
    project: Any,
    classes: tuple[np.ndarray, np.ndarray],
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lloyd rounds from random draws of each class; centres (10, k, d), shapes, weights."""
    mean, shape = classes
    size, radius, d = config.num_cells, config.radius, mean.shape[1]
    draws = random.standard_normal((NUM_CLASSES, size, d))
    factors = np.stack([factor_of(s) for s in shape])
    centers = mean[:, None] + 0.7 * np.einsum("cij,ckj->cki", factors, draws)
    weights, sums, pairs = np.zeros((NUM_CLASSES, size)), None, None
    for index in range(config.num_rounds):
        stage = ledger.plan.stage(f"cells_{index}")
        with_pairs = config.own_shape and index == config.num_rounds - 1
        statistic = cell_statistic(project, centers / radius, with_pairs)
        total = noisy_sum(stage, private, ledger.spend(stage), statistic)
        count = np.maximum(total["count"] / total_share(with_pairs)[0], 1.0)
        sums = total["sum"] / total_share(with_pairs)[1] / count[..., None]
        noise = stage.noise_stddev / total_share(with_pairs)[1] / count * radius
        centers = wiener(sums * radius, noise, mean, shape)
        weights = np.where(count > 4 * stage.noise_stddev, count, 1e-9)
        weights = weights / weights.sum(1, keepdims=True)
        if with_pairs:
            pairs = total["pairs"] / total_share(True)[2] / count[..., None]
    shapes = cell_shapes(centers, weights, mean, shape)
    if pairs is not None and sums is not None:
        noise = stage.noise_stddev / total_share(True)[2] / 2**0.5 / count
        shapes = own_shapes(pairs, sums, noise, shapes / radius**2) * radius**2
    return centers, shapes, weights


def total_share(with_pairs: bool) -> tuple[float, float, float]:
    """Weights of count, sum and pairs in a cell's release: squares add up to 1."""
    return (0.17, 0.4, 0.9) if with_pairs else (0.3, 0.95, 0.0)


def cell_statistic(project: Any, centers: np.ndarray, with_pairs: bool) -> Any:
    """One person's entry of the table of cells (nearest centre of the person's class)."""
    table = jnp.asarray(centers, jnp.float32)
    share = total_share(with_pairs)

    def statistic(person: dict[str, jax.Array]) -> dict[str, jax.Array]:
        unit, label = project(person), person["label"][0]
        nearest = jnp.square(table[label] - unit).sum(1).argmin()
        place = jax.nn.one_hot(label, NUM_CLASSES)[:, None] * jax.nn.one_hot(
            nearest, table.shape[1]
        )
        out = {"count": share[0] * place, "sum": share[1] * place[..., None] * unit}
        if with_pairs:
            out["pairs"] = share[2] * place[..., None] * vech(jnp.outer(unit, unit))
        return out

    return statistic


def wiener(
    centers: np.ndarray, noise: np.ndarray, mean: np.ndarray, shape: np.ndarray
) -> np.ndarray:
    """Noisy cell means pulled towards the class mean, axis by axis, as their noise demands."""
    out = np.empty_like(centers)
    for label in range(NUM_CLASSES):
        values, vectors = np.linalg.eigh(shape[label])
        off = (centers[label] - mean[label]) @ vectors
        between = np.maximum((off**2 - noise[label][:, None] ** 2).mean(0), 0.02 * values)
        gain = between / (between + noise[label][:, None] ** 2)
        out[label] = mean[label] + (gain * off) @ vectors.T
    return out


def cell_shapes(
    centers: np.ndarray, weights: np.ndarray, mean: np.ndarray, shape: np.ndarray
) -> np.ndarray:
    """Class covariance less what the cells' centres explain: the same for all cells of a class."""
    off = centers - np.einsum("ck,ckd->cd", weights, centers)[:, None]
    between = np.einsum("ck,cki,ckj->cij", weights, off, off)
    inside = []
    for whole, part in zip(shape, between, strict=True):
        values, vectors = np.linalg.eigh(whole)
        left = np.einsum("ij,ik,kj->j", vectors, part, vectors)
        inside.append((vectors * np.maximum(values - left, 0.1 * values)) @ vectors.T)
    return np.repeat(np.stack(inside)[:, None], centers.shape[1], axis=1)


def own_shapes(
    pairs: np.ndarray, sums: np.ndarray, noise: np.ndarray, common: np.ndarray
) -> np.ndarray:
    """Each cell's covariance where it rises above its noise, the class's elsewhere."""
    out = np.empty_like(common)
    for place in np.ndindex(pairs.shape[:2]):
        base = common[place]
        own = unvech(pairs[place], len(base)) - np.outer(sums[place], sums[place])
        values, vectors = np.linalg.eigh((own + own.T) / 2 - base)
        level = 2 * len(base) ** 0.5 * noise[place]
        values = np.where(np.abs(values) > level, values - np.sign(values) * level / 2, 0)
        out[place] = nearest_psd(base + (vectors * values) @ vectors.T)
    return out


def shrink(matrix: np.ndarray, noise: float) -> np.ndarray:
    """Eigenvalues less than noise alone would show are set to a fraction of the noise level."""
    values, vectors = np.linalg.eigh(matrix)
    level = 2 * len(matrix) ** 0.5 * noise
    values = np.where(values > level, values - level / 2, np.minimum(values, level) / 4)
    return (vectors * values) @ vectors.T


def factor_of(matrix: np.ndarray) -> np.ndarray:
    """A square root, also of singular matrices."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.clip(values, 0, None))


def make_projection(basis: np.ndarray, mean: np.ndarray, radius: float) -> Any:
    """Person -> (d,) in the unit ball."""
    table, middle = jnp.asarray(basis), jnp.asarray(mean)
    return lambda person: to_ball(
        table @ (flat({name: a[0] for name, a in person.items()}) - middle) / radius
    )


def flat(picture: dict[str, jax.Array]) -> jax.Array:
    """Pixels in [0, 1] as a vector."""
    return picture["image"].reshape(-1).astype(jnp.float32) / 255


def cosines(count: int) -> np.ndarray:
    """The `count` lowest 2-D cosine waves, orthonormal, (count, 784)."""
    grid = (np.arange(SIDE) + 0.5) * np.pi / SIDE
    waves = np.cos(np.arange(SIDE)[:, None] * grid) * (2 / SIDE) ** 0.5
    waves[0] /= 2**0.5
    order: Iterator[tuple[int, int]] = iter(
        sorted(np.ndindex(SIDE, SIDE), key=lambda p: p[0] ** 2 + p[1] ** 2)
    )
    rows = [np.outer(waves[i], waves[j]).ravel() for i, j in list(order)[:count]]
    return np.stack(rows).astype(np.float32)
