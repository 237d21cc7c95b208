"""One-shot statistics of private people: cheap, and strong at small epsilon.

Each is one noisy sum through `privacy.Release`. For a person's feature vector f (the mean over
their pictures), a radius R and u = f / R clipped to norm 1:

    mean, covariance   sum over people of (a u, b vech(u u')),  a^2 + b^2 = 1   (sensitivity 1)
    mean embedding     sum over people of onehot(y) (x) phi(x), clipped to C    (sensitivity C)

vech takes each pair once, off the diagonal times sqrt 2, so that its norm is that of u u' and the
noise on a pair is shared by its two entries. The embedding is DP-MERF's for random features phi
and DP-MEPF's for perceptual ones: a generator that matches it never sees a person.

Source: Harder et al. 2021 (DP-MERF), Harder et al. 2023 (DP-MEPF), Dwork et al. 2014 (Analyze
Gauss).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from veilcam.camera.errors import ConfigError
from veilcam.model.privacy import Mechanism, Permit, Release
from veilcam.model.private_data import PrivateSet

PictureFeature = Callable[[dict[str, jax.Array]], jax.Array]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Released mean and covariance.

    Attributes:
        mean, covariance: Of the features, in their units; the covariance is symmetric and PSD.
        mean_stddev, covariance_stddev: Standard deviation of the noise on each number (on each
            off-diagonal entry), known without private data: what lies below is noise.
    """

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]
    mean_stddev: float
    covariance_stddev: float


def noisy_sum(
    mechanism: Mechanism,
    private: PrivateSet,
    permit: Permit,
    statistic: Callable[[dict[str, jax.Array]], Any],
    *,
    micro_batch: int = 256,
) -> Any:
    """Noisy sum over everybody of `statistic(person)`, clipped to the mechanism's norm.

    Raises:
        ConfigError: The mechanism is not one-shot (sampling_prob 1, one iteration).
    """
    if mechanism.sampling_prob != 1 or mechanism.iterations != 1:
        raise ConfigError(f"stage {mechanism.stage!r} must have sampling_prob 1 and 1 iteration")
    release = Release(
        mechanism, lambda shared, person, key: statistic(person), micro_batch=micro_batch
    )
    (batch,) = mechanism.batches(private)
    return jax.tree.map(np.asarray, release((), batch, permit))


def noisy_moments(
    mechanism: Mechanism,
    private: PrivateSet,
    permit: Permit,
    feature: PictureFeature,
    *,
    radius: float,
    center: Float[np.ndarray, " d"] | None = None,
    mean_share: float = 0.5,
    micro_batch: int = 256,
) -> Moments:
    """Mean and covariance of people's features from one release.

    Args:
        mechanism: One-shot, with `l2_clip_norm` 1.
        private: The people.
        permit: From the ledger.
        feature: Arrays of one picture -> (d,); whiten by public statistics before if you can.
        radius: Features farther than this from `center` are pulled back to it. For d whitened
            numbers sqrt(d) is a good one. Public: do not read it off private data.
        center: Public guess of the mean; default zero.
        mean_share: Part of the squared sensitivity that goes to the mean.
        micro_batch: People at a time.
    """
    if mechanism.l2_clip_norm != 1.0:
        raise ConfigError(f"stage {mechanism.stage!r}: l2_clip_norm must be 1 for moments")
    if not radius > 0 or not 0 < mean_share < 1:
        raise ConfigError(f"radius={radius} must be > 0 and mean_share={mean_share} in (0, 1)")
    weight_mean, weight_pairs = mean_share**0.5, (1 - mean_share) ** 0.5

    def statistic(person: dict[str, jax.Array]) -> dict[str, jax.Array]:
        vector = jax.vmap(feature)(person).mean(0)
        vector = vector if center is None else vector - jnp.asarray(center, vector.dtype)
        unit = to_ball(vector / radius)
        return {"mean": weight_mean * unit, "pairs": weight_pairs * vech(jnp.outer(unit, unit))}

    total = noisy_sum(mechanism, private, permit, statistic, micro_batch=micro_batch)
    count = mechanism.num_persons
    mean = total["mean"].astype(np.float64) / (weight_mean * count)
    second = unvech(total["pairs"].astype(np.float64) / (weight_pairs * count), len(mean))
    stddev = mechanism.noise_stddev / count
    return Moments(
        mean=mean * radius + (0 if center is None else center),
        covariance=nearest_psd(second - np.outer(mean, mean)) * radius**2,
        mean_stddev=stddev / weight_mean * radius,
        covariance_stddev=stddev / weight_pairs / 2**0.5 * radius**2,
    )


def noisy_embedding(
    mechanism: Mechanism,
    private: PrivateSet,
    permit: Permit,
    feature: PictureFeature,
    *,
    num_classes: int = 1,
    label: str = "label",
    micro_batch: int = 256,
) -> Float[np.ndarray, "c d"]:
    """Mean over people of onehot(label) (x) feature: each row is P(class) E[feature | class].

    Args:
        mechanism: One-shot; its clip norm bounds a person's feature vector.
        private: The people; with classes, an integer array `label` (of the first picture counts).
        permit: From the ledger.
        feature: Arrays of one picture -> (d,), e.g. random Fourier or perceptual features.
        num_classes: 1 means without classes.
        label: Name of the label array.
        micro_batch: People at a time.
    """

    def statistic(person: dict[str, jax.Array]) -> jax.Array:
        vector = jax.vmap(feature)(person).mean(0)
        if num_classes == 1:
            return vector[None]
        return jax.nn.one_hot(person[label][0], num_classes)[:, None] * vector[None]

    total = noisy_sum(mechanism, private, permit, statistic, micro_batch=micro_batch)
    return np.asarray(total) / mechanism.num_persons


def embedding_distance(
    released: Float[jax.Array, "c d"], features: Float[jax.Array, "b d"], one_hot: jax.Array
) -> jax.Array:
    """Squared MMD between the released embedding and that of a batch of fakes: a training loss."""
    return jnp.square(released - one_hot.T @ features / features.shape[0]).sum()


def to_ball(vector: jax.Array) -> jax.Array:
    """The nearest vector of norm at most 1; not-a-number and infinity count as 0."""
    vector = jnp.nan_to_num(vector, nan=0.0, posinf=0.0, neginf=0.0)
    vector = jnp.clip(vector, -1e18, 1e18)  # squares must not overflow, nor reciprocals underflow
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1.0)


def vech(matrix: jax.Array) -> jax.Array:
    """Upper triangle of a symmetric matrix, scaled to the matrix's norm."""
    rows, columns = np.triu_indices(matrix.shape[0])
    return matrix[rows, columns] * np.where(rows == columns, 1.0, 2**0.5).astype(np.float32)


def unvech(pairs: Float[np.ndarray, " m"], size: int) -> Float[np.ndarray, "d d"]:
    """Inverse of `vech`."""
    rows, columns = np.triu_indices(size)
    matrix = np.zeros((size, size))
    matrix[rows, columns] = pairs / np.where(rows == columns, 1.0, 2**0.5)
    return matrix + np.triu(matrix, 1).T


def nearest_psd(matrix: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """The nearest (Frobenius) symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.clip(values, 0.0, None)) @ vectors.T)


def blend_covariance(
    released: Moments, public: Float[np.ndarray, "d d"], *, num_stddev: float = 1.0
) -> Float[np.ndarray, "d d"]:
    """The released covariance where it rises above its noise, the public one elsewhere.

    In the eigenbasis of the difference, directions whose change is within `num_stddev` times the
    noise's spectral norm (about 2 sqrt(d) standard deviations) keep the public value.
    """
    size = len(public)
    values, vectors = np.linalg.eigh(released.covariance - public)
    level = num_stddev * 2 * size**0.5 * released.covariance_stddev
    values = np.where(np.abs(values) > level, values - np.sign(values) * level / 2, 0.0)
    return nearest_psd(public + (vectors * values) @ vectors.T)
