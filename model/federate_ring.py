"""Real vectors as whole numbers modulo 2^32 that may be added behind masks.

A node's clipped update is rounded toward zero, so that rounding never makes it longer; its share of
the noise is rounded to the nearest step. Whatever does not fit is refused on both sides: a sum that
wrapped would be silently wrong, which is what secure aggregation with clamping does.

Rounding the noise costs no privacy: a rounded Gaussian has, on the grid, the density of the
Gaussian plus an independent uniform number, but for a relative 2 exp(-2 pi^2 (stddev/step)^2), and
more independent noise is post-processing. The step is a millionth of the noise here.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt32

from veilcam.model.private_data import PrivacyError

_HALF = 2**31 - 1


class RangeError(PrivacyError):
    """A vector does not fit into the ring; nothing was sent or nothing is released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """Fixed-point numbers for sums of at most `max_nodes` vectors.

    Attributes:
        limit: Largest absolute value of a number that a node may send.
        max_nodes: Most vectors in a sum.
    """

    limit: float
    max_nodes: int

    @property
    def whole_limit(self) -> int:
        """`limit` in steps: so many vectors of it still fit into 32 bits with a sign."""
        return _HALF // self.max_nodes

    @property
    def step(self) -> float:
        """Distance of neighbouring numbers."""
        return self.limit / self.whole_limit

    def encode(
        self, clipped: Float[np.ndarray, " d"], noise: Float[np.ndarray, " d"]
    ) -> UInt32[np.ndarray, " d"]:
        """Update and noise in steps, modulo 2^32.

        Raises:
            RangeError: A number is not finite or beyond `limit`. The message holds no value.
        """
        whole = np.trunc(clipped.astype(np.float64) / self.step)
        whole = whole + np.rint(noise.astype(np.float64) / self.step)
        fits = np.abs(whole) <= self.whole_limit  # false for not-a-number too
        if not fits.all():
            raise RangeError(
                f"{np.count_nonzero(~fits)} of {len(whole)} numbers are beyond the agreed range or "
                "not finite; the update is not sent, as a sum would wrap: check the training data "
                "and the federation's clip norm"
            )
        return whole.astype(np.int64).astype(np.uint32)

    def decode(self, total: UInt32[np.ndarray, " d"], num_nodes: int) -> Float[np.ndarray, " d"]:
        """The sum of `num_nodes` vectors as real numbers.

        Raises:
            RangeError: More vectors than fit, or a number that so many honest nodes can't make.
        """
        if not 1 <= num_nodes <= self.max_nodes:
            raise RangeError(f"a sum of {num_nodes} vectors; the ring holds 1 to {self.max_nodes}")
        whole = total.astype(np.int32).astype(np.int64)
        if (np.abs(whole) > num_nodes * self.whole_limit).any():
            raise RangeError(
                f"the sum of {num_nodes} nodes is beyond what they may send; it is dropped"
            )
        return whole * self.step


def noise_share(
    size: int, *, noise_stddev: float, min_nodes: int, random: np.random.Generator
) -> Float[np.ndarray, " d"]:
    """One node's part of the noise: any `min_nodes` of them make up `noise_stddev` together.

    More survivors mean more noise than was accounted, never less; fewer, and the round is dropped.
    """
    return random.normal(0.0, noise_stddev / min_nodes**0.5, size)


def sum_bound(
    *, num_nodes: int, l2_clip_norm: float, noise_stddev: float, min_nodes: int, size: int
) -> float:
    """Norm that a sum of honest nodes exceeds with a chance of at most 1e-9.

    Source: Laurent and Massart 2000, lemma 1, for the norm of the noise.
    """
    tail = size**0.5 + (2 * np.log(1e9)) ** 0.5
    return float(num_nodes * l2_clip_norm + noise_stddev * (num_nodes / min_nodes) ** 0.5 * tail)
