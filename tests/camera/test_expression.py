"""A person's own rest does not reach the code; what the face does, does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilcam.camera.expression import MIDDLE, REST, OwnRest, scale_for
from veilcam.camera.strength import Plan, Strength, plan_of

BALANCED, STRICT = plan_of(Strength.BALANCED), plan_of(Strength.STRICT)
SHIFTED = ("pitch", "mouth_open", "mouth_wide", "smile", "brow")


@pytest.mark.parametrize("plan", [BALANCED, STRICT], ids=["balanced", "strict"])
@given(
    shares=st.lists(
        st.floats(-2.0, 2.0, allow_subnormal=False), min_size=len(MIDDLE), max_size=len(MIDDLE)
    )
)
def test_a_value_that_stays_gives_one_output_for_ever(plan: Plan, shares: list[float]) -> None:
    spread = {name: 20.0 if name == "pitch" else 0.12 for name in MIDDLE}
    measured = {
        name: MIDDLE[name] + share * spread[name]
        for name, share in zip(MIDDLE, shares, strict=True)
    }
    scale = OwnRest(plan)
    for _ in range(plan.settle_frames):
        assert scale(measured) == MIDDLE
    first = scale(measured)
    for _ in range(20):
        later = scale(measured)
    assert later == pytest.approx(first, abs=1e-9)


@pytest.mark.parametrize("name", SHIFTED)
@given(share=st.floats(-0.8, 0.8, allow_subnormal=False))
def test_another_rest_with_the_same_movement_gives_the_same_output(name: str, share: float) -> None:
    own = share * BALANCED.reach[name]
    random = np.random.default_rng(0)
    moves = 0.1 * BALANCED.reach[name] * random.uniform(-1, 1, 60)
    one, other = OwnRest(BALANCED), OwnRest(BALANCED)
    for move in moves:
        a = one(MIDDLE | {name: MIDDLE[name] + move})
        b = other(MIDDLE | {name: MIDDLE[name] + own + move})
        assert a[name] == pytest.approx(b[name], abs=1e-9)


def test_without_the_own_rest_the_first_frame_keeps_most_of_it() -> None:
    """The negative control: what the two tests above forbid is what `faithful` does."""
    own = scale_for(Strength.FAITHFUL)(REST | {"brow": 0.46})["brow"] - REST["brow"]
    assert own > 0.07


@pytest.mark.parametrize("strength", [Strength.STRICT, Strength.BALANCED, Strength.FAITHFUL])
def test_movement_is_followed(strength: Strength) -> None:
    scale = scale_for(strength)
    own = MIDDLE | {"eyelid_left": 0.11, "brow": 0.43, "pitch": 6.0}
    for _ in range(90):
        still = scale(own)
    moved = scale(own | {"eyelid_left": 0.06, "brow": 0.36, "pitch": 20.0, "mouth_open": 0.25})
    assert still["eyelid_left"] > 0.12
    assert moved["eyelid_left"] < 0.01
    assert still["brow"] - moved["brow"] > 0.05
    assert moved["pitch"] - still["pitch"] > 12
    assert moved["mouth_open"] - still["mouth_open"] > 0.15


def test_what_reaches_beyond_a_rest_shows_in_a_single_picture() -> None:
    out = OwnRest(BALANCED)(MIDDLE | {"pitch": -30.0, "eyelid_left": 0.02, "mouth_open": 0.3})
    assert out["pitch"] == pytest.approx(-16.0)
    assert out["eyelid_left"] == 0.0
    assert out["mouth_open"] > 0.15


def test_a_track_that_starts_with_shut_eyes_is_open_soon() -> None:
    scale = OwnRest(BALANCED)
    for _ in range(10):
        scale(MIDDLE | {"eyelid_left": 0.03})
    for _ in range(10):
        opened = scale(MIDDLE | {"eyelid_left": 0.12})
    assert opened["eyelid_left"] > 0.12
    assert scale(MIDDLE | {"eyelid_left": 0.03})["eyelid_left"] == 0.0


def test_what_is_not_seen_is_at_the_middle_and_teaches_nothing() -> None:
    scale = OwnRest(BALANCED)
    assert scale({}) == MIDDLE
    assert scale(MIDDLE | {"brow": 0.44})["brow"] == pytest.approx(MIDDLE["brow"])
