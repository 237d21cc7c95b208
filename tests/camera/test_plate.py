import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilcam.camera.errors import ConfigError
from veilcam.camera.plate import PlateLearner
from veilcam.camera.plate_privacy import PlateConfig, gaussian_delta, gaussian_epsilon
from veilcam.camera.plate_refresh import CELLS_HW, PlateRefresh, clipped
from veilcam.camera.plate_setup import NUM_SLOTS, PlateSetup, median_of_nine
from veilcam.camera.scene_light import CHANGE_EVERY_S, MAX_STEPS, SceneLight, gain_table

SIZE_HW = (36, 64)
FREE = np.full(SIZE_HW, 255, np.uint8)
CONFIG = PlateConfig(window_slots=6, slot_s=1.0, max_slots_per_visit=2)


def room(level=0):
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    return np.stack([60 + rows + level, 80 + columns + level, 90 + rows + level], 2).astype(
        np.uint8
    )


def teach(learner, pictures, *, fps=10.0, start_s=0.0, hidden=()):
    for i, bgr in enumerate(pictures):
        learner.add(bgr, hidden, start_s + i / fps)
    return learner


@given(st.lists(st.integers(0, 255), min_size=9, max_size=9))
def test_the_network_gives_the_median(values):
    stack = np.array(values, np.uint8).reshape(9, 1, 1, 1) * np.ones((9, 2, 3, 3), np.uint8)
    assert (median_of_nine(stack) == int(np.median(values))).all()


def fill(setup, slots):
    for value in slots:
        for _ in range(2):
            setup.add(np.full((*SIZE_HW, 3), value, np.uint8), FREE)
        setup.close_slot()
    return setup


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(90, 110), min_size=9, max_size=9),
    st.lists(st.integers(0, 255), min_size=9, max_size=9),
    st.sets(st.integers(0, 8), max_size=4),
)
def test_a_visit_in_fewer_than_five_slots_stays_within_what_the_others_saw(room_, visit, slots):
    seen = [visit[i] if i in slots else room_[i] for i in range(NUM_SLOTS)]
    setup = fill(PlateSetup(SIZE_HW), seen)
    others = [room_[i] for i in range(NUM_SLOTS) if i not in slots]
    assert setup.is_complete
    assert min(others) <= setup.bgr.min()
    assert setup.bgr.max() <= max(others)


def test_five_slots_do_move_it_so_the_bound_is_tight():
    setup = fill(PlateSetup(SIZE_HW), [100] * 4 + [250] * 5)
    assert (setup.bgr == 250).all()


def test_a_known_pixel_never_changes():
    setup = fill(PlateSetup(SIZE_HW), [100] * 9 + [200] * 20)
    assert (setup.bgr == 100).all()


def test_what_moves_within_a_slot_is_not_learned():
    setup = PlateSetup(SIZE_HW)
    for slot in range(12):
        for step in range(4):
            bgr = room()
            bgr[10:20, 10 + 5 * step : 15 + 5 * step] = 255  # walks, and no detector saw it
            setup.add(bgr, FREE)
        setup.close_slot()
        assert slot < 8 or setup.known[30:, :].all()
    assert not setup.known[12:18, 12:24].any()
    assert setup.bgr[setup.known].max() < 255


def test_hidden_places_are_not_learned_and_then_filled_from_around():
    hidden = ((20.2, 10.0, 9.6, 20.0),)
    bgr = room()
    bgr[10:30, 20:30] = 255
    learner = teach(PlateLearner(SIZE_HW), [bgr] * 120, hidden=hidden)
    plate = learner.plate
    assert plate.bgr is not None
    assert plate.known == pytest.approx(1 - 200 / (36 * 64), abs=1e-6)
    assert plate.bgr.max() < 200
    assert np.abs(plate.bgr[:, 40:].astype(int) - room()[:, 40:]).max() <= 1


def test_boxes_that_are_no_numbers_hide_everything():
    learner = teach(PlateLearner(SIZE_HW), [room()] * 120, hidden=((np.nan, 0.0, 5.0, 5.0),))
    assert learner.plate.bgr is None
    assert learner.plate.known == 0


def test_the_plate_needs_nine_slots():
    learner = teach(PlateLearner(SIZE_HW), [room()] * 85)
    assert learner.plate.bgr is None
    teach(learner, [room()] * 40, start_s=8.5)
    assert learner.plate.bgr is not None
    assert learner.ledger[0]["kind"] == "setup"
    assert learner.ledger[0]["claim"] is None  # nothing is promised of it


vectors = st.lists(
    st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=False, width=32),
    min_size=1,
    max_size=9,
)


@given(vectors, st.floats(0.1, 100))
def test_a_slot_is_never_longer_than_its_norm(values, norm):
    out = clipped(np.array(values), norm)
    assert np.isfinite(out).all()
    assert np.linalg.norm(out) <= norm * (1 + 1e-9)


class Silent(PlateRefresh):
    """Without noise, to see the sensitivity."""

    def noise(self):
        return np.zeros((*CELLS_HW, 3))


def release(pictures):
    refresh = Silent(CONFIG)
    for bgr in pictures:
        refresh.add(bgr, room(), FREE)
        out = refresh.close_slot()
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, CONFIG.window_slots - CONFIG.max_slots_per_visit))
def test_a_visit_moves_a_release_by_at_most_the_sensitivity(seed, first):
    random = np.random.default_rng(seed)
    before = [room(int(random.integers(-20, 60))) for _ in range(CONFIG.window_slots)]
    after = list(before)
    for slot in range(first, first + CONFIG.max_slots_per_visit):
        after[slot] = random.integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
    distance = np.linalg.norm(release(before) - release(after))
    assert distance <= CONFIG.sensitivity * (1 + 1e-5)


def test_the_worst_visit_reaches_the_sensitivity():
    dark, bright = np.zeros((*SIZE_HW, 3), np.uint8), np.full((*SIZE_HW, 3), 255, np.uint8)
    before = [dark] * 2 + [room()] * 4
    after = [bright] * 2 + [room()] * 4
    distance = np.linalg.norm(release(before) - release(after))
    assert distance > 0.97 * CONFIG.sensitivity


def test_the_noise_of_a_release_has_the_stated_stddev():
    refresh = PlateRefresh(CONFIG)
    drawn = np.stack([refresh.noise() for _ in range(60)])
    count = drawn.size
    spread = 5 / np.sqrt(2 * count)  # five standard errors
    ratio = drawn.std() / CONFIG.noise_stddev
    assert abs(ratio - 1) < spread
    for wrong in (2 / 3, 3 / 2):  # the test can tell
        assert abs(ratio / wrong - 1) > spread
    # and it is what a release holds beyond the mean
    noisy = PlateRefresh(CONFIG)
    for _ in range(CONFIG.window_slots):
        noisy.add(room(), room(), FREE)
        out = noisy.close_slot()
    assert out.std() == pytest.approx(CONFIG.noise_stddev, rel=0.2)


def test_no_slot_is_in_two_windows():
    refresh = Silent(CONFIG)
    out = []
    for slot in range(3 * CONFIG.window_slots):
        refresh.add(room(40 if slot < CONFIG.window_slots else 0), room(), FREE)
        out.append(refresh.close_slot())
    assert [i for i, value in enumerate(out) if value is not None] == [5, 11, 17]
    assert np.linalg.norm(out[5]) == pytest.approx(CONFIG.l2_clip_norm, rel=1e-5)
    assert np.abs(out[11]).max() == np.abs(out[17]).max() == 0


def test_refreshes_follow_a_local_change_and_are_in_the_ledger():
    config = PlateConfig(
        window_slots=10, slot_s=1.0, max_slots_per_visit=1, noise_multiplier=0.05, delta=1e-6
    )
    learner = teach(PlateLearner(SIZE_HW, config), [room()] * 120)
    before = learner.plate.bgr
    changed = room()
    changed[:, :16] += 20  # a curtain was drawn
    teach(learner, [changed] * 700, start_s=12.0)
    after = learner.plate.bgr
    gained = after.astype(int) - before
    assert 2.5 < gained[4:-4, 2:12].mean() < 24
    assert abs(gained[4:-4, 40:].mean()) < 3
    claims = [entry["claim"] for entry in learner.ledger if entry["kind"] == "refresh"]
    assert len(claims) == learner.describe()["refreshes"] >= 5
    assert claims[0]["epsilon"] == pytest.approx(config.epsilon, abs=1e-4)


def test_epsilon_rises_with_sensitivity_and_falls_with_noise():
    epsilons = [gaussian_epsilon(m, 1e-6) for m in (0.5, 1.0, 2.0, 4.0)]
    assert epsilons == sorted(epsilons, reverse=True)
    assert PlateConfig().noise_stddev == pytest.approx(3.0 * 2 * 4 * 25 / 240)


@given(st.floats(0.3, 20), st.sampled_from([1e-8, 1e-6, 1e-3]))
def test_the_stated_epsilon_is_enough(multiplier, delta):
    epsilon = gaussian_epsilon(multiplier, delta)
    assert gaussian_delta(multiplier, epsilon) <= delta
    assert epsilon < 1e-5 or gaussian_delta(multiplier, epsilon - 1e-5) > delta * 0.999


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier=0.0 must be > 0"),
        ({"window_slots": 0}, "window_slots=0"),
        ({"max_slots_per_visit": 999}, "must be at most window_slots"),
        ({"delta": 1.0}, "delta=1.0"),
    ],
)
def test_settings_that_promise_nothing_are_refused(changes, match):
    with pytest.raises(ConfigError, match=match):
        PlateConfig(**changes)


def test_the_light_follows_in_counted_steps():
    light = SceneLight()
    plate = np.full((9, 16, 3), 100, np.float32)
    now, usable = plate * 1.5, np.ones((9, 16), bool)
    seen = []
    for i in range(40):
        light.add(now, plate, usable, i * CHANGE_EVERY_S / 4)
        seen.append(light.steps)
    changes = [b != a for a, b in itertools.pairwise(seen)]
    assert sum(changes) <= 40 / 4
    assert max(abs(b[0] - a[0]) for a, b in itertools.pairwise(seen)) == 1
    assert seen[-1][0] == 10  # and stays
    table = gain_table(seen[-1])
    assert table[0, 100, 0] == pytest.approx(150, abs=2)


def test_somebody_who_fills_a_third_does_not_move_the_light():
    light = SceneLight()
    plate = np.full((9, 16, 3), 100, np.float32)
    now = plate.copy()
    now[:, :5] = 240
    for i in range(30):
        light.add(now, plate, np.ones((9, 16), bool), i * 1.0)
    assert light.steps == (0, 0, 0)


def test_no_light_leaves_the_plate_as_it_is_and_highlights_do_not_burn_out():
    assert (gain_table((0, 0, 0))[0, :, 0] == np.arange(256)).all()
    bright = gain_table((6, 6, 6))[0, :, 0].astype(int)
    assert (np.diff(bright) >= 0).all()
    assert 240 < bright[225] < 252


def test_the_light_stays_in_its_range():
    light = SceneLight()
    plate = np.full((9, 16, 3), 20, np.float32)
    for i in range(100):
        light.add(plate * 12, plate, np.ones((9, 16), bool), i * 1.0)
    assert light.steps == (MAX_STEPS,) * 3
