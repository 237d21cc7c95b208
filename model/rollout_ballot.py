"""Who is in a stage, what a device says of its audit, and what the noisy answers show.

A device's verdict is one bit: did the light audit raise an alarm within so many samples? It leaves
by randomized response: kept with probability e^eps / (1 + e^eps), else turned. That is
eps-local-DP for the bit, whoever reads it. The server compares devices with the new bundle and
devices with the former one by Fisher's exact test on the noisy bits: noise moves both shares toward
one half by the same line, so one noisy share is higher exactly where the true one is.

Source: Warner 1965 (randomized response); Fisher 1922; Clopper and Pearson 1934.
"""

import hashlib
import math
import secrets
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest, fisher_exact, norm

_BITS = 53
_PARTS = 10_000  # a stage is counted in hundredths of a percent


def is_in_stage(name: str, bundle_sha256: str, percent: float) -> bool:
    """Whether a device is among the first `percent` for this bundle; by the name's hash alone."""
    digest = hashlib.sha256(f"rollout/{bundle_sha256}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _PARTS < percent * _PARTS / 100


def keep_probability(epsilon: float) -> float:
    """Chance that a bit leaves as it is."""
    return 1 / (1 + math.exp(-epsilon))


def randomized(bit: bool | None, epsilon: float) -> bool:
    """The bit by randomized response; None, which is no verdict, by a fair coin.

    Randomness comes from the operating system.
    """
    if bit is None:
        return bool(secrets.randbits(1))
    is_kept = secrets.randbits(_BITS) < keep_probability(epsilon) * 2**_BITS
    return bit == is_kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Noisy answers of one arm: so many, and how many of them say that the audit failed."""

    answers: int = 0
    fails: int = 0

    def rate(self, epsilon: float) -> tuple[float, float, float]:
        """Share of devices whose audit failed, noise taken off, and its 95 % interval."""
        keep = keep_probability(epsilon)

        def plain(share: float) -> float:
            return min(max((share - (1 - keep)) / (2 * keep - 1), 0.0), 1.0)

        if not self.answers:
            return 0.0, 0.0, 1.0
        ends = binomtest(self.fails, self.answers).proportion_ci(0.95)
        return plain(self.fails / self.answers), plain(ends.low), plain(ends.high)

    def as_dict(self, epsilon: float) -> dict[str, Any]:
        """For people and programs."""
        value, low, high = (round(number, 4) for number in self.rate(epsilon))
        return {"answers": self.answers, "noisy_fails": self.fails, "rate": value,
                "low": low, "high": high}  # fmt: skip


def p_worse(new: Count, former: Count) -> float:
    """Chance of so clear a difference, or a clearer one, were the new bundle no worse."""
    table = [
        [new.fails, new.answers - new.fails],
        [former.fails, former.answers - former.fails],
    ]
    return float(fisher_exact(table, alternative="greater").pvalue)


def detectable(new: int, former: int, *, epsilon: float, alpha: float, base: float = 0.0) -> float:
    """Rise of the failing share that is found with a chance of 80 %; above 1: none is.

    By the normal approximation, at a failing share `base` with the former bundle.
    """
    if not new or not former:
        return math.inf
    keep = keep_probability(epsilon)
    noisy = base * (2 * keep - 1) + 1 - keep
    spread = math.sqrt(noisy * (1 - noisy) * (1 / new + 1 / former))
    return float((norm.isf(alpha) + norm.isf(0.2)) * spread / (2 * keep - 1))
