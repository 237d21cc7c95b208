import math

import numpy as np
import pytest

from veilcam.camera.audit_light import LightAudit, LightAuditConfig, Strength

LIMIT = 0.45


def audit(strength: Strength = Strength.FAITHFUL, **changes: object) -> LightAudit:
    return LightAudit(LightAuditConfig(limit=LIMIT, **changes), strength)


def test_a_leak_steps_strength_up_within_a_few_samples() -> None:
    light = audit()
    seen = [light.add(0.9) for _ in range(4)]
    assert seen[0] is Strength.FAITHFUL  # one sample alone is no proof
    assert seen[-1] is Strength.BALANCED


def test_a_leak_after_hours_of_calm_is_found_as_soon() -> None:
    light = audit(num_calm=10**9)
    for _ in range(20_000):
        light.add(0.1)
    count = 0
    while light.strength is Strength.FAITHFUL:
        light.add(0.9)
        count += 1
    assert count <= 5


def test_a_lasting_leak_ends_in_a_blank_picture_and_stays() -> None:
    light = audit()
    for _ in range(100):
        light.add(0.9)
    assert light.strength is Strength.BLANK


def test_a_partial_leak_is_found_too() -> None:
    random = np.random.default_rng(0)
    light = audit(num_calm=10**9)
    for _ in range(150):
        light.add(0.9 if random.random() < 0.2 else 0.1)
    assert light.num_alarms >= 1


def test_calm_changes_nothing_over_long_clips() -> None:
    """At the calm rate itself: far fewer alarms than the stated bound lets expect, on 20 runs."""
    alarms = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        light = audit(num_calm=10**9)
        for is_over in random.random(5000) < 0.005:
            light.add(0.9 if is_over else 0.1)
        alarms += light.num_alarms
    assert alarms <= 2  # 100,000 samples x 1e-6 = 0.1 expected at most


def test_strength_falls_slowly_and_never_below_the_floor() -> None:
    light = audit(Strength.BLANK, num_calm=100, floor=Strength.BALANCED)
    seen = [light.add(0.1) for _ in range(1000)]
    assert seen[98] is Strength.BLANK
    assert seen[99] is Strength.STRICT
    assert light.strength is Strength.BALANCED


def test_a_weaker_start_than_the_floor_is_lifted() -> None:
    assert audit(Strength.FAITHFUL, floor=Strength.STRICT).strength is Strength.STRICT


@pytest.mark.parametrize("value", [math.nan, math.inf, LIMIT])
def test_what_cannot_be_judged_counts_as_a_leak(value: float) -> None:
    light = audit()
    for _ in range(5):
        light.add(value)
    assert light.strength is not Strength.FAITHFUL


def test_the_state_shows_no_similarity() -> None:
    light = audit()
    light.add(0.3)
    assert set(light.to_json()) == {
        "strength", "floor", "samples", "alarms", "false_alarm_per_sample",
    }  # fmt: skip


@pytest.mark.parametrize("changes", [{"calm_rate": 0.3}, {"leak_rate": 1.0}, {"num_calm": 0}])
def test_senseless_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"wanted|must"):
        audit(**changes)
