"""What a run will spend on people's privacy, known before anything is spent."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from veilcam.camera.errors import ConfigError
from veilcam.model.privacy import (
    ACCOUNTANT,
    RELATION,
    Mechanism,
    calibrate,
    check_target,
    compose,
    epsilon_of,
)

_PLAN_KEYS: dict[str, Any] = {"epsilon": float, "delta": float, "num_persons": int, "stages": list}
_STAGE_KEYS: dict[str, Any] = {f.name: f.type for f in fields(Mechanism) if f.name != "num_persons"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Stages of a run and their budget.

    Attributes:
        epsilon: Budget for all stages together.
        delta: Its delta.
        stages: Mechanisms, in order.

    Raises:
        ConfigError: The stages together would spend more than the budget, delta is not below
            1 / people, two stages share a name, or they protect different units.
    """

    epsilon: float
    delta: float
    stages: tuple[Mechanism, ...]

    def __post_init__(self) -> None:
        names = [stage.stage for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"stages {names} must be at least one, with different names")
        if len({stage.unit for stage in self.stages}) != 1:
            raise ConfigError(f"stages {names} protect different units; one ledger holds one unit")
        check_target(self.epsilon, self.delta, max(s.num_persons for s in self.stages))
        spent = self.composed_epsilon
        if spent > self.epsilon:
            raise ConfigError(
                f"the stages spend epsilon {spent:.4g} at delta {self.delta:g} and the budget is "
                f"{self.epsilon:.4g}; make the plan by Plan.calibrated or allow more"
            )

    @classmethod
    def calibrated(cls, stages: Sequence[Mechanism], *, epsilon: float, delta: float) -> "Plan":
        """Scales the stages' noise so that together they just meet the budget."""
        return cls(
            epsilon=epsilon, delta=delta, stages=calibrate(stages, epsilon=epsilon, delta=delta)
        )

    @property
    def unit(self) -> str:
        """Whose data the promise is about."""
        return self.stages[0].unit

    @property
    def composed_epsilon(self) -> float:
        """Epsilon of all stages together."""
        return epsilon_of(compose(self.stages), self.delta)

    def stage(self, name: str) -> Mechanism:
        """The stage of that name."""
        for stage in self.stages:
            if stage.stage == name:
                return stage
        raise ConfigError(f"no stage {name!r}; the plan has {[s.stage for s in self.stages]}")

    def as_dict(self) -> dict[str, Any]:
        """For `veilcam train --plan --json` and the bundle's manifest."""
        return {
            "unit": self.unit,
            "epsilon": _up(self.composed_epsilon),
            "delta": self.delta,
            "budget_epsilon": self.epsilon,
            "accountant": ACCOUNTANT,
            "relation": RELATION.name,
            "stages": [
                {
                    "stage": stage.stage,
                    "epsilon": _up(epsilon_of(stage.dp_event(), self.delta)),
                    "iterations": stage.iterations,
                    "sampling_prob": stage.sampling_prob,
                    "expected_batch_size": stage.expected_batch_size,
                    "noise_multiplier": stage.noise_multiplier,
                    "l2_clip_norm": stage.l2_clip_norm,
                    "pictures_per_person": stage.pictures_per_person,
                    "num_persons": stage.num_persons,
                }
                for stage in self.stages
            ],
        }

    def as_text(self) -> str:
        """A table for people."""
        told = self.as_dict()
        lines = [
            f"{'stage':<24}{'steps':>8}{'people/step':>13}{'noise':>9}{'clip':>8}{'epsilon':>9}"
        ]
        lines += [
            f"{s['stage']:<24}{s['iterations']:>8}{s['expected_batch_size']:>13.1f}"
            f"{s['noise_multiplier']:>9.3g}{s['l2_clip_norm']:>8.3g}{s['epsilon']:>9.3f}"
            for s in told["stages"]
        ]
        lines.append(
            f"together: epsilon {told['epsilon']:.3f} at delta {self.delta:g} per {self.unit} "
            f"({told['relation']}, {told['accountant']} accountant; budget {self.epsilon:g})"
        )
        return "\n".join(lines)


def read_plan(config: Path) -> Plan:
    """The plan of the training configuration at this path; nothing is spent."""
    try:
        with config.open("rb") as stream:
            table = tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{config}: cannot be read as TOML: {error}") from error
    if not isinstance(table.get("privacy"), dict):
        raise ConfigError(
            f"{config}: there is no [privacy] table, so no private person is used and no epsilon "
            "is spent; add one to train on private people"
        )
    return plan_from_table(table["privacy"])


def plan_from_table(table: Mapping[str, Any]) -> Plan:
    """Reads the `[privacy]` table of a training configuration.

    Keys: `epsilon`, `delta`, `num_persons` and an array `stages` of tables with the fields of
    `Mechanism`. `noise_multiplier` (default 1) is relative: all are scaled by one factor so that
    the stages together meet epsilon.
    """
    if set(table) != set(_PLAN_KEYS):
        raise ConfigError(f"[privacy] has the keys {sorted(table)}; wanted {sorted(_PLAN_KEYS)}")
    for key, wanted in _PLAN_KEYS.items():
        if not _is_a(table[key], wanted):
            raise ConfigError(f"[privacy] {key}={table[key]!r} has the wrong type")
    stages = []
    for entry in table["stages"]:
        for key, value in entry.items():
            if key not in _STAGE_KEYS:
                raise ConfigError(
                    f"[[privacy.stages]]: unknown key {key!r}; allowed: {', '.join(_STAGE_KEYS)}"
                )
            if not _is_a(value, _STAGE_KEYS[key]):
                raise ConfigError(f"[[privacy.stages]]: {key}={value!r} has the wrong type")
        for key in ("stage", "l2_clip_norm"):
            if key not in entry:
                raise ConfigError(f"[[privacy.stages]]: key {key!r} is missing")
        given = {k: float(v) if _STAGE_KEYS[k] is float else v for k, v in entry.items()}
        stages.append(
            Mechanism(**({"noise_multiplier": 1.0} | given), num_persons=table["num_persons"])
        )
    if not stages:
        raise ConfigError("[privacy] stages is empty; wanted at least one [[privacy.stages]]")
    return Plan.calibrated(stages, epsilon=float(table["epsilon"]), delta=float(table["delta"]))


def _is_a(value: object, wanted: Any) -> bool:
    """TOML's types: a whole number may stand for a float, true is no number."""
    return isinstance(value, (int, float) if wanted is float else wanted) and not (
        isinstance(value, bool)
    )


def _up(epsilon: float) -> float:
    """Rounded to four digits, never downwards."""
    return math.ceil(epsilon * 1e4) / 1e4
