"""What belief propagation makes of the randomized response's answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from veilcam.camera.layout_code import PermanentResponse
from veilcam.camera.layout_denoise import likely_ycrcb
from veilcam.camera.layout_plan import MIDDLES, NUM_LEVELS, layout_plan
from veilcam.camera.strength import CHOICES, Strength

GRID = layout_plan(Strength.BALANCED).grid_hw
FREE = np.zeros(GRID, bool)


def answers():
    levels = [arrays(np.uint8, GRID, elements=st.integers(0, k - 1)) for k in NUM_LEVELS]
    return st.tuples(*levels).map(lambda parts: np.stack(parts, axis=-1))


@settings(max_examples=30, deadline=None)
@given(answers(), arrays(bool, GRID))
def test_any_answers_give_colours_between_the_levels(cells, is_covered):
    seen = likely_ycrcb(cells, is_covered, Strength.BALANCED)
    for c, middles in enumerate(MIDDLES):
        assert seen[..., c].min() >= middles[0] - 0.01
        assert seen[..., c].max() <= middles[-1] + 0.01


@settings(max_examples=30, deadline=None)
@given(answers(), answers(), arrays(bool, GRID))
def test_what_is_said_of_covered_cells_has_no_part_in_it(cells, other, is_covered):
    mixed = np.where(is_covered[..., None], other, cells)
    first, second = (likely_ycrcb(x, is_covered, Strength.BALANCED) for x in (cells, mixed))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("strength", CHOICES)
def test_a_scene_of_two_halves_is_told_better_than_its_answers(strength):
    rng = np.random.default_rng(3)
    plan = layout_plan(strength)
    true = np.empty((*plan.grid_hw, 3), np.uint8)
    true[: plan.grid_hw[0] // 2], true[plan.grid_hw[0] // 2 :] = (6, 1, 2), (2, 1, 2)
    wanted = np.take(MIDDLES[0], true[..., 0])
    raw, told = [], []
    for _ in range(30):
        cells = PermanentResponse(plan.grid_hw, plan.epsilon, random_bytes=rng.bytes)(true)
        raw.append(np.square(np.take(MIDDLES[0], cells[..., 0]) - wanted).mean())
        seen = likely_ycrcb(cells, np.zeros(plan.grid_hw, bool), strength)[..., 0]
        told.append(np.square(seen - wanted).mean())
    assert np.mean(told) < 0.6 * np.mean(raw)


def test_a_single_lie_in_an_even_wall_is_not_believed():
    cells = np.full((*GRID, 3), 1, np.uint8)
    cells[..., 0] = 5
    cells[4, 7, 0] = 0
    seen = likely_ycrcb(cells, FREE, Strength.BALANCED)
    assert abs(seen[4, 7, 0] - MIDDLES[0][5]) < 20
