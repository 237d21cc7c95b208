import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.camera.scene_parts import make_cast, people, person
from veilcam.camera.actor_code import (
    BITS_PER_FRAME,
    COLOURS,
    DYNAMIC_FIELDS,
    NUM_VALUES,
    ActorEncoder,
    framing,
    to_values,
)
from veilcam.camera.actor_looks import (
    CLASSES,
    CLOTH_CLASSES,
    actor_plan,
    draw_classes,
    nearest_class,
)
from veilcam.camera.strength import CHOICES, Strength

DARK = (0, 0, 0)


def numbers(low, high):
    return st.floats(low, high, allow_subnormal=False)  # inference flushes them to zero


def encode(encoder, someone):
    (code,) = encoder.encode(people(someone), DARK).actors
    return code


def test_the_code_has_the_stated_bits():
    assert BITS_PER_FRAME == 17 * 10 + 17 + 3
    code = encode(ActorEncoder(make_cast(), strength=Strength.FAITHFUL), person())
    assert len(code.levels) == len(DYNAMIC_FIELDS)
    tops = [2**field.bits for field in DYNAMIC_FIELDS]
    assert all(0 <= level < top for level, top in zip(code.levels, tops, strict=True))
    assert code.values.shape == (NUM_VALUES,)


@pytest.mark.parametrize("strength", CHOICES)
def test_a_thousand_frames_tell_no_more_of_looks_than_one(strength):
    """Colours, measured anew in each frame, reach the code once per track and never change."""
    random = np.random.default_rng(3)
    encoder = ActorEncoder(make_cast(), strength=strength)
    first = encode(encoder, person())
    for _ in range(1000 if strength == Strength.BALANCED else 100):
        colours = np.clip(100 + 60 * random.standard_normal((4, 3)), 0, 255).astype(np.float32)
        now = encode(encoder, person(colours=colours))
        assert (now.latent == first.latent).all()
        assert (now.values[COLOURS.start :] == first.values[COLOURS.start :]).all()


def test_at_strict_no_colour_of_a_person_reaches_the_code():
    plan = actor_plan(Strength.STRICT)
    assert plan.track_epsilon == 0
    counts = []
    for level in (10.0, 240.0):
        random = np.random.default_rng(5)
        colours = np.full((4, 3), level, np.float32)
        drawn = [draw_classes(colours, plan, random=random)[0] for _ in range(4000)]
        counts.append(np.bincount(drawn, minlength=16) / 4000)
    assert np.abs(counts[0] - counts[1]).max() < 0.03
    assert counts[0].max() < 0.1  # near 1 / 16


@pytest.mark.parametrize("strength", [Strength.BALANCED, Strength.FAITHFUL])
def test_a_colour_is_told_by_randomized_response_of_the_stated_epsilon(strength):
    plan, random = actor_plan(strength), np.random.default_rng(11)
    epsilon, num_classes = plan.epsilon[0], len(CLOTH_CLASSES)
    colours = np.array([CLOTH_CLASSES[3]] * 4, np.float32)
    drawn = Counter(draw_classes(colours, plan, random=random)[0] for _ in range(6000))
    wanted = math.exp(epsilon) / (math.exp(epsilon) + num_classes - 1)
    assert drawn[3] / 6000 == pytest.approx(wanted, abs=0.025)


def test_strengths_are_ordered():
    epsilons = [actor_plan(s).track_epsilon for s in CHOICES]
    assert epsilons == sorted(epsilons)
    assert [actor_plan(s).point_bits for s in CHOICES] == [4, 5, 5]


def test_a_class_is_nearest_to_itself():
    for classes in CLASSES.values():
        for index, colour in enumerate(classes):
            assert nearest_class(np.array(colour, np.float32), classes) == index


def test_another_track_gets_other_looks():
    encoder = ActorEncoder(make_cast(), strength=Strength.STRICT)
    codes = encoder.encode(people(person(0), person(1)), DARK).actors
    assert (codes[0].latent != codes[1].latent).any()


@settings(max_examples=40, deadline=None)
@given(
    numbers(-50, 150), numbers(-50, 150), numbers(4, 80), numbers(8, 200),
    st.sampled_from(CHOICES),
)  # fmt: skip
def test_the_rectangle_holds_the_box_within_a_step(x, y, width, height, strength):
    encoder = ActorEncoder(make_cast(), strength=strength)
    code = encode(encoder, person(box=(x, y, width, height)))
    step = encoder.plan.place_step_px * 96 / 720
    left, top, _size = framing((x, y, width, height))
    assert abs(code.left - left) <= step
    assert abs(code.top - top) <= step
    assert code.left % step == pytest.approx(0, abs=1e-3) or code.left % step == pytest.approx(
        step, abs=1e-3
    )
    assert np.isfinite(code.values).all()


@pytest.mark.parametrize("strength", CHOICES)
def test_what_is_painted_lies_within_half_a_step_of_what_was_measured(strength):
    encoder = ActorEncoder(make_cast(), strength=strength)
    someone = person()
    code = encode(encoder, someone)
    values = to_values(code.levels, encoder.plan.point_bits)
    points = values[:34].reshape(17, 2) * (code.height / 2, code.height) + (code.left, code.top)
    step = np.array([code.height / 2, code.height]) / 2**encoder.plan.point_bits
    assert (np.abs(points - someone.points[:, :2]) <= 0.51 * step).all()


def test_small_movements_do_not_show():
    encoder = ActorEncoder(make_cast(), strength=Strength.BALANCED)
    someone = person()
    first = encode(encoder, someone)
    random = np.random.default_rng(0)
    for _ in range(50):
        points = someone.points.copy()
        points[:, :2] += random.uniform(-0.1, 0.1, (17, 2))
        assert encode(encoder, replace(someone, points=points)).levels == first.levels
