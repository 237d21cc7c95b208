"""The code is quantized, bounded, counted, and steady for a track."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilcam.camera.code import BITS_PER_FRAME, HEAD_FIELDS, Encoder, Field
from veilcam.camera.expression import REST
from veilcam.camera.strength import Strength
from veilcam.camera.types import Head, Scene


def head(track_id: int = 0, *, yaw_deg: float = 0.0, center_x: float = 100.0) -> Head:
    hull = np.array([[50.0, 50], [150, 50], [150, 150], [50, 150]])
    return Head(
        track_id=track_id,
        center_xy=(center_x, 100.0),
        size_px=120.0,
        yaw_deg=yaw_deg,
        pitch_deg=0.0,
        roll_deg=0.0,
        expression=dict(REST),
        hull_xy=hull,
        is_predicted=False,
    )


def encoder(strength: Strength = Strength.BALANCED) -> Encoder:
    skin = np.zeros((3, 77), np.float32)
    skin[:, 0] = 40  # the first number of a latent is how bright its skin is
    skin[:, -1] = 120
    return Encoder(np.zeros(76, np.float32), np.eye(76, dtype=np.float32), skin, strength=strength)


def scene(*heads: Head) -> Scene:
    return Scene(size_hw=(200, 200), heads=heads)


def test_bits_are_counted() -> None:
    assert sum(field.bits for field in HEAD_FIELDS) == BITS_PER_FRAME <= 40


@pytest.mark.parametrize("field", HEAD_FIELDS, ids=lambda field: field.name)
@given(value=st.floats(allow_subnormal=False))
def test_levels_stay_in_range_and_near_the_value(field: Field, value: float) -> None:
    level = field.quantize(value)
    assert 0 <= level < 2**field.bits
    if field.low <= value < field.high:
        assert abs(field.dequantize(level) - value) <= field.step / 2 + 1e-9


def test_a_track_keeps_its_latent_and_another_gets_its_own() -> None:
    subject = encoder()
    first = subject.encode(scene(head(0)), {}).heads[0].latent
    second = subject.encode(scene(head(0), head(1)), {})
    np.testing.assert_array_equal(first, second.heads[0].latent)
    assert np.abs(first - second.heads[1].latent).max() > 0.1


def test_a_track_that_ended_is_forgotten() -> None:
    subject = encoder()
    first = subject.encode(scene(head(0)), {}).heads[0].latent
    subject.encode(scene(), {})
    again = subject.encode(scene(head(0)), {}).heads[0].latent
    assert np.abs(first - again).max() > 0.1


def test_two_encoders_draw_different_people() -> None:
    latents = [encoder().encode(scene(head()), {}).heads[0].latent for _ in range(2)]
    assert np.abs(latents[0] - latents[1]).max() > 0.1


def test_a_value_on_an_edge_does_not_flicker() -> None:
    subject = encoder()
    edge = HEAD_FIELDS[0].low + 20 * HEAD_FIELDS[0].step
    seen = {
        subject.encode(scene(head(yaw_deg=edge + shift)), {}).heads[0].levels[0]
        for shift in (0.3, -0.3) * 10
    }
    assert len(seen) == 1


def test_smoothed_values_come_to_rest_on_the_level() -> None:
    subject = encoder()
    subject.encode(scene(head(yaw_deg=-30.0)), {})
    for _ in range(40):
        code = subject.encode(scene(head(yaw_deg=21.0)), {}).heads[0]
    assert code.values[0] == pytest.approx(HEAD_FIELDS[0].dequantize(code.levels[0]), abs=1e-3)


def test_placement_is_made_of_rounded_numbers_only() -> None:
    codes = [
        encoder().encode(scene(head(center_x=100.0 + shift)), {}).heads[0]
        for shift in (-0.4, 0.0, 0.4)
    ]
    assert {code.center_xy for code in codes} == {(100.0, 100.0)}


def test_the_stand_in_goes_with_the_skin_in_view() -> None:
    def brightness(level: float) -> float:
        subject = encoder(Strength.FAITHFUL)
        skin = {track: (level,) * 3 for track in range(90)}
        codes = subject.encode(scene(*(head(track) for track in range(90))), skin)
        return float(np.mean([code.latent[0] for code in codes.heads]))

    assert brightness(190.0) > 0.3
    assert brightness(60.0) < -0.3


def test_a_blank_reason_passes_through() -> None:
    blank = Scene(size_hw=(10, 10), heads=(), blank_reason="detector failed")
    assert encoder().encode(blank, {}).blank_reason == "detector failed"
