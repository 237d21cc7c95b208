"""The layout code: what its noise does, what it keeps back, and what a long run teaches."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.camera.scene_parts import people, person
from veilcam.camera.layout_code import (
    LayoutEncoder,
    PermanentResponse,
    cell_means,
    draw_answers,
    truth_limit,
)
from veilcam.camera.layout_plan import (
    CELL_BITS,
    CHANNELS,
    MIDDLES,
    NUM_LEVELS,
    NUM_TOKENS,
    THRESHOLDS,
    TOKEN_BITS,
    describe,
    layout_plan,
    quantize_colours,
    truth_probability,
)
from veilcam.camera.layout_tokens import box_of, facing_of, tokens_of
from veilcam.camera.strength import CHOICES, Strength
from veilcam.camera.types import Frame

SIZE_HW = (96, 128)
NOBODY = people(size_hw=SIZE_HW)


def frame(bgr, index=0):
    return Frame(np.ascontiguousarray(bgr), index, index / 30)


def room(seed=0):
    """Blocks of colour, so that all levels occur."""
    random = np.random.default_rng(seed)
    return np.kron(random.integers(0, 256, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def bits(truth, other):
    """Random bytes for which the first draws and the second draws are given."""
    return lambda size: np.stack([truth, other]).astype(np.uint64).tobytes()[:size]


@pytest.mark.parametrize(("num_levels", "epsilon"), [(8, 3.0), (8, 1.5), (4, 1.5), (4, 0.75)])
def test_answers_have_the_mechanism_s_frequencies_and_not_another_epsilon_s(num_levels, epsilon):
    count = 40_000
    answers = draw_answers(num_levels, epsilon, count)
    truth = np.arange(num_levels)
    got = (answers == truth).mean(0)
    wanted = truth_probability(num_levels, epsilon)
    spread = math.sqrt(wanted * (1 - wanted) / count)
    assert np.abs(got - wanted).max() < 5 * spread
    for wrong in (2 / 3, 3 / 2):  # the negative control
        assert np.abs(got - truth_probability(num_levels, wrong * epsilon)).min() > 5 * spread
    for level in range(num_levels):  # lies are spread evenly over all other levels
        shares = np.bincount(answers[:, level], minlength=num_levels) / count
        lie = np.delete(shares, level)
        wanted_lie = (1 - wanted) / (num_levels - 1)
        assert np.abs(lie - wanted_lie).max() < 5 * math.sqrt(wanted_lie / count)


@given(st.sampled_from([4, 8]), st.floats(0.01, 12.0))
def test_no_answer_is_likelier_by_more_than_epsilon_says(num_levels, epsilon):
    """In integers, as they are drawn: share of true answers against share of each lie."""
    limit = truth_limit(num_levels, epsilon)
    assert limit / 2**64 == pytest.approx(truth_probability(num_levels, epsilon), rel=1e-9)
    # the rarest lie: the smallest count of second draws, times all first draws that lie
    rarest = (2**64 - limit) * (2**64 // (num_levels - 1))
    assert Fraction(limit * 2**64, rarest) <= Fraction(math.exp(epsilon))


def test_the_true_level_is_told_exactly_below_the_limit_and_never_as_a_lie():
    limit = truth_limit(4, 1.5)
    for draw, is_true in ((limit - 1, True), (limit, False), (2**64 - 1, False), (0, True)):
        for other in range(3):
            drawn = np.full((1, 4), draw, np.uint64), np.full((1, 4), other, np.uint64)
            answers = draw_answers(4, 1.5, 1, random_bytes=bits(*drawn))[0]
            assert ((answers == np.arange(4)) == is_true).all()


def test_a_thousand_frames_of_a_still_scene_teach_no_more_than_one():
    encoder = LayoutEncoder(strength=Strength.BALANCED)
    random = np.random.default_rng(0)
    first, still = None, room()
    moods = [random.integers(-1, 2, still.shape) for _ in range(8)]
    for index in range(1000):
        noisy = np.clip(still + moods[index % 8], 0, 255).astype(np.uint8)
        code = encoder.encode(frame(noisy, index), NOBODY)
        first = code.cells if first is None else first
        np.testing.assert_array_equal(code.cells, first)


def test_what_the_averaging_would_show_if_noise_were_fresh():
    """The control of the test above: the attack works where answers are not kept."""
    plan = layout_plan(Strength.BALANCED)
    levels = np.random.default_rng(1).integers(0, 4, (*plan.grid_hw, 3)).astype(np.uint8)
    fresh = np.stack([PermanentResponse(plan.grid_hw, plan.epsilon)(levels) for _ in range(200)])
    counts = np.stack([(fresh == k).sum(0) for k in range(8)])
    assert (counts.argmax(0) == levels).mean() > 0.99
    kept = PermanentResponse(plan.grid_hw, plan.epsilon)
    once = np.stack([kept(levels) for _ in range(200)])
    counts = np.stack([(once == k).sum(0) for k in range(8)])
    share = (counts.argmax(0) == levels).mean((0, 1))
    wanted = [truth_probability(k, e) for k, e in zip(NUM_LEVELS, plan.epsilon, strict=True)]
    assert np.abs(share - wanted).max() < 0.2


def test_a_level_that_comes_back_gets_the_answer_it_had():
    encoder = LayoutEncoder(strength=Strength.BALANCED)
    pictures = [room(0), room(1), room(2)]
    first = [encoder.encode(frame(bgr), NOBODY).cells for bgr in pictures]
    encoder.encode(frame(np.full_like(pictures[0], 255)), NOBODY)
    # stickiness may hold a level at its border, so most but not all are as they were
    again = [encoder.encode(frame(bgr), NOBODY).cells for bgr in pictures]
    assert np.mean([(a == b).mean() for a, b in zip(first, again, strict=True)]) > 0.9


def test_each_run_draws_anew():
    cells = [LayoutEncoder(strength=Strength.STRICT).encode(frame(room()), NOBODY).cells
             for _ in range(2)]  # fmt: skip
    assert (cells[0] != cells[1]).any()


@pytest.mark.parametrize("strength", CHOICES)
def test_bits_and_epsilon_that_are_told_are_those_of_the_code(strength):
    plan, told = layout_plan(strength), describe(strength)
    code = LayoutEncoder(strength=strength).encode(frame(room()), NOBODY)
    assert list(code.cells.shape[:2]) == told["cells"]
    assert all(code.cells[..., c].max() < NUM_LEVELS[c] for c in range(3))
    assert CELL_BITS == 7
    assert told["bits_per_frame"] == code.cells[..., 0].size * CELL_BITS + NUM_TOKENS * TOKEN_BITS
    assert told["epsilon_per_cell"] == sum(plan.epsilon)
    assert told["epsilon_per_frame"] == pytest.approx(plan.num_cells * sum(plan.epsilon))


def test_a_stricter_strength_never_tells_more():
    plans = [layout_plan(s) for s in (Strength.STRICT, Strength.BALANCED, Strength.FAITHFUL)]
    for key in ("num_cells", "cell_epsilon", "frame_epsilon", "bits_per_frame"):
        values = [getattr(plan, key) for plan in plans]
        assert values == sorted(values)
        assert len(set(values)) == 3


@pytest.mark.parametrize("channel", range(3))
def test_each_middle_is_inside_its_level(channel):
    ycrcb = np.full((1, len(MIDDLES[channel]), 3), 128, np.float32)
    ycrcb[0, :, channel] = MIDDLES[channel]
    assert quantize_colours(ycrcb)[0, :, channel].tolist() == list(range(NUM_LEVELS[channel]))
    assert len(THRESHOLDS[channel]) + 1 == NUM_LEVELS[channel]
    assert len(CHANNELS) == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(-20, 110), st.integers(-20, 80), st.integers(8, 60), st.integers(8, 90),
       st.integers(0, 255))  # fmt: skip
def test_a_person_s_own_pixels_have_no_part_in_any_cell(x, y, width, height, level):
    box = (float(x), float(y), float(width), float(height))
    seen = people(person(box=box), size_hw=SIZE_HW)
    (token,) = tokens_of(seen)
    left, top, wide, high = box_of(token, SIZE_HW)
    inside = room().copy()
    x1, y1 = max(math.floor(left), 0), max(math.floor(top), 0)
    inside[y1 : max(math.ceil(top + high), 0), x1 : max(math.ceil(left + wide), 0)] = level
    means = [cell_means(bgr, (9, 16), (token,)) for bgr in (room(), inside)]
    free = means[0][1] >= 0.25
    np.testing.assert_array_equal(means[0][0][free], means[1][0][free])


def test_covered_cells_tell_nothing():
    seen = people(person(box=(10.0, 5.0, 90.0, 90.0)), size_hw=SIZE_HW)
    code = LayoutEncoder(strength=Strength.BALANCED).encode(frame(room()), seen)
    assert code.is_covered.any()
    assert not code.is_covered.all()
    assert (code.cells[code.is_covered] == 0).all()


@given(
    st.floats(-300, 400, allow_subnormal=False), st.floats(-300, 300, allow_subnormal=False),
    st.floats(0.5, 900), st.floats(0.5, 900), st.floats(-720, 720, allow_subnormal=False),
)  # fmt: skip
def test_any_box_gives_a_token_of_its_bits(x, y, width, height, facing):
    (token,) = tokens_of(people(person(box=(x, y, width, height), facing_deg=facing)))
    assert all(0 <= level < 2**bits for level, bits in zip(token.levels, (6, 6, 5, 2, 3),
                                                           strict=True))  # fmt: skip
    assert np.isfinite(box_of(token, SIZE_HW)).all()


def test_a_token_is_near_the_person_it_stands_for():
    (token,) = tokens_of(people(person(box=(30.0, 20.0, 24.0, 60.0), facing_deg=44.0)))
    left, top, width, height = box_of(token, SIZE_HW)
    assert abs(left + width / 2 - 42) < 2
    assert abs(top - 20) < 2
    assert 0.9 < height / 60 < 1.1
    assert facing_of(token) == 45


def test_only_the_largest_persons_become_tokens():
    crowd = [person(i, box=(float(i), 0.0, 4.0 + i, 10.0 + i)) for i in range(12)]
    tokens = tokens_of(people(*crowd))
    assert [t.track_id for t in tokens] == list(range(11, 11 - NUM_TOKENS, -1))


def test_a_box_without_numbers_is_refused():
    broken = people(person())
    broken.people[0].points[:] = 0
    object.__setattr__(broken.people[0], "box_xywh", (math.nan, 0.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="not finite"):
        tokens_of(broken)
