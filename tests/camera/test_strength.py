"""Strengths: randomized skin, one answer a track, and nothing gained by averaging."""

import math

import numpy as np
import pytest

from veilcam.camera.code import HEAD_FIELDS, Encoder, levels_of
from veilcam.camera.control import ProtocolError
from veilcam.camera.expression import REST
from veilcam.camera.light import SKIN_CLASSES, TrackSkin, randomized_response, skin_class
from veilcam.camera.settings import Settings, from_values
from veilcam.camera.strength import CHOICES, Strength, choose, chosen, plan_of
from veilcam.camera.types import Head, Scene

RANDOM = np.random.default_rng(5)


def head(track_id: int = 0, *, pitch_deg: float = 0.0, **expression: float) -> Head:
    return Head(
        track_id=track_id,
        center_xy=(100.0, 100.0),
        size_px=120.0,
        yaw_deg=0.0,
        pitch_deg=pitch_deg,
        roll_deg=0.0,
        expression=REST | {"light_x": 0.1, "light_y": 0.2} | expression,
        hull_xy=np.array([[50.0, 50], [150, 50], [150, 150], [50, 150]]),
        is_predicted=False,
    )


def encoder(strength: Strength) -> Encoder:
    skin = np.zeros((3, 5), np.float32)
    skin[:, -1] = 120
    return Encoder(np.zeros(4, np.float32), np.eye(4, dtype=np.float32), skin, strength=strength)


def scene(*heads: Head) -> Scene:
    return Scene(size_hw=(200, 200), heads=heads)


PEOPLE = [
    {"pitch_deg": 9.0, "brow": 0.45, "mouth_wide": 0.95, "smile": 0.10, "eyelid_left": 0.10},
    {"pitch_deg": -8.0, "brow": 0.31, "mouth_wide": 0.78, "smile": 0.0, "eyelid_left": 0.16},
]


@pytest.mark.parametrize("strength", [Strength.STRICT, Strength.BALANCED])
def test_a_thousand_frames_of_a_still_face_tell_no_more_than_one(strength: Strength) -> None:
    """And one tells nothing of which of two people's faces it is."""
    seen = set()
    for person in PEOPLE:
        subject, levels = encoder(strength), set()
        for _ in range(1000):
            levels.add(subject.encode(scene(head(**person)), {}).heads[0].levels)
        # strict lets go of the middle after its settling frames, at a time that is always the same
        assert len(levels) <= (2 if plan_of(strength).settle_frames else 1)
        seen.add(frozenset(levels))
    assert len(seen) == 1


def test_faithful_tells_the_two_apart() -> None:
    """The negative control of the test above."""
    first = [
        encoder(Strength.FAITHFUL).encode(scene(head(**p)), {}).heads[0].levels for p in PEOPLE
    ]
    assert first[0] != first[1]


@pytest.mark.parametrize("strength", CHOICES)
def test_the_skin_of_a_track_is_drawn_once_and_kept(strength: Strength) -> None:
    subject = encoder(strength)
    sent = {
        subject.encode(scene(head()), {0: (60.0 + 8 * (i % 2), 80.0, 120.0)}).heads[0].skin_bgr
        for i in range(1000)
    }
    assert len(sent) == 1


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 2.0, 4.0])
def test_the_answer_is_as_random_as_epsilon_says(epsilon: float) -> None:
    k, num = len(SKIN_CLASSES), 20_000
    answers = [randomized_response(1, k, epsilon=epsilon, random=RANDOM) for _ in range(num)]
    shares = np.bincount(answers, minlength=k) / num
    wanted = math.exp(epsilon) / (math.exp(epsilon) + k - 1)
    assert shares[1] == pytest.approx(wanted, abs=0.02)
    for other in (0, 2, 3):
        assert shares[other] == pytest.approx((1 - wanted) / (k - 1), abs=0.02)
    if epsilon == 1.0:  # the statistic is sharp enough to tell another epsilon
        for wrong in (0.5, 1.5):
            assert abs(shares[1] - math.exp(wrong) / (math.exp(wrong) + k - 1)) > 0.05


def test_at_strict_the_stand_in_says_nothing_of_the_skin() -> None:
    classes = []
    for skin in (SKIN_CLASSES[0], SKIN_CLASSES[3]):
        subject = encoder(Strength.STRICT)
        heads = [head(track) for track in range(800)]
        codes = subject.encode(scene(*heads), dict.fromkeys(range(800), skin))
        sent = [skin_class(code.skin_bgr) for code in codes.heads]
        classes.append(np.bincount(sent, minlength=4) / 800)
    assert np.abs(classes[0] - classes[1]).max() < 0.1


def test_light_is_followed_and_the_tone_cancels_out() -> None:
    dark, light = (
        TrackSkin(first, epsilon=0.0, random=np.random.default_rng(1))
        for first in (SKIN_CLASSES[0], SKIN_CLASSES[3])
    )
    before = dark(SKIN_CLASSES[0]), light(SKIN_CLASSES[3])
    after = (
        dark(tuple(c / 2 for c in SKIN_CLASSES[0])),  # type: ignore[arg-type]
        light(tuple(c / 2 for c in SKIN_CLASSES[3])),  # type: ignore[arg-type]
    )
    assert sum(after[0]) == pytest.approx(sum(before[0]) / 2, rel=0.05)
    gains = [sum(a) / sum(b) for a, b in zip(after, before, strict=True)]
    assert gains[0] == pytest.approx(gains[1])


@pytest.mark.parametrize("strength", CHOICES)
def test_only_the_levels_of_the_plan_are_sent(strength: Strength) -> None:
    subject, plan = encoder(strength), plan_of(strength)
    for _ in range(200):
        noise = {k: v + float(RANDOM.normal(0, 0.08)) for k, v in REST.items()}
        pitch = float(RANDOM.normal(0, 15))
        levels = subject.encode(scene(head(pitch_deg=pitch, **noise)), {}).heads[0].levels
        for level, field in zip(levels, HEAD_FIELDS, strict=True):
            assert level in levels_of(field, plan)


def test_plans_send_levels_that_exist() -> None:
    for strength in CHOICES:
        for field in HEAD_FIELDS:
            assert set(levels_of(field, plan_of(strength))) <= set(range(2**field.bits))


def test_settings_carry_the_strength_to_the_other_process() -> None:
    try:
        choose("strict")
        values = Settings(source="demo", sink="null").to_values()
        choose("faithful")
        assert from_values(values).strength == "strict"
        assert chosen() is Strength.STRICT
        fresh = Encoder(np.zeros(1, np.float32), np.eye(1, dtype=np.float32),
                        np.zeros((3, 2), np.float32))  # fmt: skip
        assert fresh.strength is Strength.STRICT
    finally:
        choose("balanced")


@pytest.mark.parametrize("name", ["blank", "Strict", ""])
def test_other_strengths_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="wanted strict, balanced, faithful"):
        choose(name)
    values = Settings(source="demo", sink="null").to_values() | {"strength": name}
    with pytest.raises(ProtocolError, match="wrong settings"):
        from_values(values)
