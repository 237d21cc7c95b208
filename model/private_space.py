"""The space in which pictures of private people are counted: public, whitened principal components.

Source: Harder et al. 2023, Pre-trained perceptual features improve differentially private image
generation (DP-MEPF), section 3.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

NUM_COMPONENTS = 192  # hold 0.8 of the variance of public portraits; each one more is more noise


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Descriptions (see `private_latents.described`) -> whitened components.

    Attributes:
        mean, scale: Of descriptions of public portraits.
        components: Whitening principal components, unit variance over public portraits.
        radius: Median norm of public portraits: the clip norm that fits.
        share: Part of the variance that the components hold.
    """

    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    components: Float[np.ndarray, "d k"]
    radius: float
    share: float

    def __call__(self, described: Float[jax.Array, "n d"]) -> Float[jax.Array, "n k"]:
        """Components of descriptions."""
        return (described - self.mean) / self.scale @ self.components


def fit_space(described: Float[np.ndarray, "n d"], size: int = NUM_COMPONENTS) -> Space:
    """The space of public portraits."""
    mean, scale = described.mean(0), described.std(0) + 1e-3
    normal = (described - mean) / scale
    values, vectors = np.linalg.eigh(normal.T @ normal / len(normal))
    kept = np.argsort(values)[::-1][:size]
    components = (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)
    norm = np.linalg.norm(normal @ components, axis=1)
    return Space(
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        components=components,
        radius=float(np.median(norm)),
        share=float(values[kept].sum() / values.sum()),
    )


def squared_distance(
    painted: Float[jax.Array, "b k"], target: Float[jax.Array, " k"]
) -> Float[jax.Array, ""]:
    """Of the painted pictures' mean from a target, for each component, without bias.

    The mean of one half against that of the other: squaring one mean would count the spread of a
    small batch as distance, and a generator could shrink it by painting one face only.
    """
    first, second = jnp.split(painted, 2)
    return (first.mean(0) - target) @ (second.mean(0) - target) / len(target)
