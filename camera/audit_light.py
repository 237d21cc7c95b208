"""The light audit beside the loop: is the original recognized in what leaves? It decides strength.

Only similarities come in, one by one, from crops that live in memory; nothing is kept but three
numbers. The test may be looked at after every sample without losing its error rate.
"""

import math
from dataclasses import dataclass
from enum import StrEnum


class Strength(StrEnum):
    """Protection levels, weakest first."""

    FAITHFUL = "faithful"
    BALANCED = "balanced"
    STRICT = "strict"
    BLANK = "blank"


@dataclass(frozen=True, slots=True, kw_only=True)
class LightAuditConfig:
    """When to step.

    Attributes:
        limit: Similarity from which a recognizer takes two faces for one person (at FAR 1e-3).
        calm_rate: Share of samples at or over the limit that is no alarm.
        leak_rate: Share that must be found soon.
        false_alarm_per_sample: Bound on false alarms for each sample, at or below the calm rate.
        num_calm: Samples under the limit in a row before one step down; much longer than an alarm.
        floor: Weakest strength the user allows; never passed.
    """

    limit: float
    calm_rate: float = 0.005
    leak_rate: float = 0.2
    false_alarm_per_sample: float = 1e-6
    num_calm: int = 3000
    floor: Strength = Strength.FAITHFUL

    def __post_init__(self) -> None:
        if not 0 < self.calm_rate < self.leak_rate < 1:
            got = f"calm_rate={self.calm_rate}, leak_rate={self.leak_rate}"
            raise ValueError(f"{got}: wanted 0 < calm < leak < 1")
        if not 0 < self.false_alarm_per_sample < 1 or self.num_calm < 1:
            raise ValueError("false_alarm_per_sample must be in (0, 1) and num_calm > 0")


class LightAudit:
    """A sequential test that steps strength up at once and down slowly.

    Evidence is the likelihood ratio of a leak over calm. Under calm its expectation never grows,
    so by Ville's inequality evidence that starts at 1 ever reaches 1 / p with probability p at
    most, however long one looks. It starts anew whenever it falls below 1, so that a leak after
    hours of calm is found as soon as one at the start; each sample can start it anew once, so n
    samples hold at most n p false alarms in expectation.

    Source: Ville 1939; Page: Continuous inspection schemes, 1954; Lorden 1971, theorem 2.
    """

    def __init__(self, config: LightAuditConfig, strength: Strength) -> None:
        self._config = config
        self.strength = max(strength, config.floor, key=list(Strength).index)
        self.num_samples = self.num_alarms = 0
        self._evidence = 0.0
        self._num_calm = 0

    def add(self, similarity: float) -> Strength:
        """The strength to use from now on, after one more sample.

        A similarity that is not a number counts as a leak: what cannot be judged is not safe.
        """
        config = self._config
        self.num_samples += 1
        is_over = not similarity < config.limit
        a, b = config.leak_rate, config.calm_rate
        self._evidence += math.log(a / b) if is_over else math.log((1 - a) / (1 - b))
        self._evidence = max(self._evidence, 0.0)
        self._num_calm = 0 if is_over else self._num_calm + 1
        if self._evidence >= -math.log(config.false_alarm_per_sample):
            self._step(+1)
            self.num_alarms += 1
            self._evidence, self._num_calm = 0.0, 0
        elif self._num_calm >= config.num_calm:
            self._step(-1)
            self._num_calm = 0
        return self.strength

    @property
    def is_suspicious(self) -> bool:
        """True while some evidence of a leak stands: the next sample should come soon."""
        return self._evidence > 0

    def to_json(self) -> dict[str, float | int | str]:
        """State without a similarity, a picture or a person."""
        return {
            "strength": self.strength.value,
            "floor": self._config.floor.value,
            "samples": self.num_samples,
            "alarms": self.num_alarms,
            "false_alarm_per_sample": self._config.false_alarm_per_sample,
        }

    def _step(self, by: int) -> None:
        order = list(Strength)
        lowest = order.index(self._config.floor)
        place = min(max(order.index(self.strength) + by, lowest), len(order) - 1)
        self.strength = order[place]
