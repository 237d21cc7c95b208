"""What a refresh of the plate tells of a visit: noise, epsilon and delta in closed form.

Unit: one visit, all that the camera saw of one person in at most `max_slots_per_visit` slots of a
window. Relation: those slots are replaced by any others. Mechanism: the mean over a window's slots
of vectors clipped to `l2_clip_norm`, plus Gaussian noise; windows share no slot.
"""

import math
from dataclasses import dataclass
from typing import Any

from veilcam.camera.errors import ConfigError


def gaussian_delta(noise_multiplier: float, epsilon: float) -> float:
    """Smallest delta at which Gaussian noise is (epsilon, delta)-DP.

    Args:
        noise_multiplier: Standard deviation of the noise over the L2 sensitivity, > 0.
        epsilon: At least 0.

    Source: Balle and Wang 2018, Improving the Gaussian mechanism, theorem 8.
    """
    half, shift = 0.5 / noise_multiplier, epsilon * noise_multiplier
    tail = _log_normal_cdf(-half - shift)
    return max(_normal_cdf(half - shift) - math.exp(min(epsilon + tail, 0.0)), 0.0)


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """Smallest epsilon at which Gaussian noise is (epsilon, delta)-DP, rounded up by 1e-6."""
    if not (noise_multiplier > 0 and 0 < delta < 1):
        raise ConfigError(
            f"noise_multiplier={noise_multiplier} must be > 0 and delta={delta} in (0, 1)"
        )
    low, high = 0.0, 1.0
    if gaussian_delta(noise_multiplier, low) <= delta:
        return 0.0
    while gaussian_delta(noise_multiplier, high) > delta:
        high *= 2
    while high - low > 1e-7:
        middle = (low + high) / 2
        if gaussian_delta(noise_multiplier, middle) > delta:
            low = middle
        else:
            high = middle
    return high + 1e-6


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _log_normal_cdf(x: float) -> float:
    if x > -30:
        return math.log(_normal_cdf(x))
    # erfc underflows; the first terms of its expansion bound it from above
    return -0.5 * x * x - math.log(-x * math.sqrt(2 * math.pi))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlateConfig:
    """How the plate is learned and refreshed. These settings change what a visit can tell.

    Attributes:
        setup_slots: Person-free slots whose median a pixel's first value is; odd.
        setup_slot_s: Their length.
        window_slots: Slots of one refresh.
        slot_s: Their length: a visit of `max_slots_per_visit` of them, less one, is covered.
        max_slots_per_visit: Slots that one visit may touch.
        l2_clip_norm: Of a slot's difference from the plate, grey levels over all cells.
        noise_multiplier: Noise stddev over the sensitivity of the mean.
        delta: At which epsilon is stated.
    """

    setup_slots: int = 9
    setup_slot_s: float = 1.0
    window_slots: int = 240
    slot_s: float = 30.0
    max_slots_per_visit: int = 4
    l2_clip_norm: float = 25.0
    noise_multiplier: float = 3.0
    delta: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("setup_slots", "setup_slot_s", "window_slots", "slot_s",
                     "max_slots_per_visit", "l2_clip_norm", "noise_multiplier"):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be > 0")
        if self.setup_slots % 2 == 0:
            raise ConfigError(f"setup_slots={self.setup_slots} must be odd: it takes a median")
        if self.max_slots_per_visit > self.window_slots:
            raise ConfigError(
                f"max_slots_per_visit={self.max_slots_per_visit} must be at most"
                f" window_slots={self.window_slots}"
            )
        gaussian_epsilon(self.noise_multiplier, self.delta)

    @property
    def sensitivity(self) -> float:
        """L2 distance of the means of two windows that differ in one visit, grey levels."""
        return 2 * self.max_slots_per_visit * self.l2_clip_norm / self.window_slots

    @property
    def noise_stddev(self) -> float:
        """Of each number of a refresh, grey levels."""
        return self.noise_multiplier * self.sensitivity

    @property
    def epsilon(self) -> float:
        """Of one visit against all refreshes together: windows share no slot, so one pays."""
        return gaussian_epsilon(self.noise_multiplier, self.delta)

    def claim(self) -> dict[str, Any]:
        """The statement that goes with every refresh."""
        return {
            "unit": f"visit of at most {(self.max_slots_per_visit - 1) * self.slot_s:.0f} s",
            "relation": "slots of the visit replaced",
            "mechanism": "clipped mean, Gaussian noise",
            "epsilon": round(self.epsilon, 4),
            "delta": self.delta,
            "noise_multiplier": self.noise_multiplier,
            "sensitivity": round(self.sensitivity, 6),
        }
