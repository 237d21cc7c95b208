"""Times of pictures: forward, whatever a clock does, and those of a clip untouched."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilcam.camera.timeline import Timeline, sane_time


@pytest.mark.parametrize("jump", [math.nan, math.inf, -1e9, 1e12, 1.0, 0.0])
def test_a_jump_is_one_step(jump: float) -> None:
    assert sane_time(jump, 1.0, 0.1) == 1.1


@given(
    st.lists(st.one_of(st.none(), st.floats(allow_subnormal=False)), min_size=1, max_size=30),
    st.booleans(),
)
def test_time_goes_forward(times: list[float | None], is_live: bool) -> None:
    line, last_s = Timeline(), -math.inf
    line.start_life(30.0)
    for number, time_s in enumerate(times):
        if number == 10:
            line.start_life(30.0)
        now_s = line.follow(time_s, is_live=is_live)
        assert math.isfinite(now_s)
        assert now_s > last_s
        last_s = now_s


def test_a_clip_keeps_its_times_over_two_lives_with_a_filler_between() -> None:
    line = Timeline()
    line.start_life(10.0)
    found = [line.follow(t, is_live=False) for t in (0.0, 0.1)]
    found.append(line.follow(None, is_live=False))
    line.start_life(10.0)
    found += [line.follow(t, is_live=False) for t in (0.3, 0.4)]
    assert found == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_a_live_picture_goes_on_where_it_was_lost() -> None:
    line = Timeline()
    line.start_life(30.0)
    before = line.follow(0.0, is_live=True)
    line.start_life(30.0)
    assert before < line.follow(0.0, is_live=True) < 5.0
