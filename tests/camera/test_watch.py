import json
import math
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner

from tests.camera.test_loop import (
    SIZE_HW,
    FakeAnalyser,
    FakeEncoder,
    fake_generator,
    hull,
)
from veilcam.camera.cli import cli
from veilcam.camera.code import Encoder
from veilcam.camera.control import Report, decode, encode
from veilcam.camera.loop import Loop
from veilcam.camera.settings import Settings, from_values
from veilcam.camera.sink import MemorySink
from veilcam.camera.source import ArraySource
from veilcam.camera.strength import Strength
from veilcam.camera.types import Scene
from veilcam.camera.watch import FaceJudge, Watch
from veilcam.camera.watch_choice import choose_watch, watch_chosen

FPS = 30
ENOUGH_FRAMES = 90  # a sample within 2 s, then four a second: three seconds


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def watched(judge, num_frames, strength=Strength.BALANCED):
    """A loop over `num_frames`, each sample judged before the next frame; loop, sink, strengths."""
    clock, applied = Clock(), []
    watch = Watch(judge, strength, applied.append, now_s=clock)
    offer = watch.offer

    def offer_and_wait(*args):
        clock.now += 1 / FPS
        offer(*args)
        watch.drain()

    watch.offer = offer_and_wait
    sink = MemorySink()
    frames = np.full((num_frames, *SIZE_HW, 3), 200, np.uint8)
    loop = Loop(ArraySource(list(frames)), FakeAnalyser(), FakeEncoder(), fake_generator, sink,
                watch=watch)  # fmt: skip
    loop.run()
    return loop, sink, applied


def test_a_leak_raises_strength_within_three_seconds() -> None:
    loop, _, applied = watched(lambda *_: 0.9, ENOUGH_FRAMES)
    assert applied[0] is Strength.STRICT
    assert loop.report.to_json()["audit"]["alarms"] >= 1


def test_a_leak_that_strict_does_not_stop_ends_in_blanks_not_in_the_end_of_the_loop() -> None:
    _, sink, applied = watched(lambda *_: 0.9, 4 * ENOUGH_FRAMES)
    assert applied == [Strength.STRICT, Strength.BLANK]
    assert len(sink.frames) == 4 * ENOUGH_FRAMES
    assert sink.frames[-1].reason == "audit: originals are recognized"


def test_no_leak_changes_nothing_over_an_hour_of_samples() -> None:
    """1,800 samples at the calm rate itself; expected false alarms: at most 0.0018."""
    random = np.random.default_rng(0)
    clock, applied = Clock(), []
    watch = Watch(lambda *_: 0.9 if random.random() < 0.005 else 0.1, Strength.BALANCED,
                  applied.append, now_s=clock)  # fmt: skip
    picture = np.zeros((*SIZE_HW, 3), np.uint8)
    while clock.now < 3600:
        clock.now += 1.0
        watch.begin_frame()
        watch.offer(picture, picture, (hull(20, 20),))
        watch.drain()
    assert not applied
    assert watch.to_json()["alarms"] == 0
    assert watch.to_json()["samples"] >= 1700


def raises(*_):
    raise RuntimeError("the judge broke")


@pytest.mark.parametrize("judge", [raises, lambda *_: math.nan, None])
def test_a_broken_audit_is_reported_and_stops_nothing(judge, caplog) -> None:
    loop, sink, applied = watched(judge, 200)
    assert [frame.reason for frame in sink.frames] == [""] * 200
    assert not applied
    assert loop.report.to_json()["audit"]["state"] == "broken"
    assert [r.message for r in caplog.records].count(
        "audit: it cannot compare faces; the picture goes on without it"
    ) == 1


def test_a_crop_that_cannot_be_cut_is_a_fault_of_the_audit_alone() -> None:
    watch = Watch(lambda *_: 0.0, Strength.BALANCED, lambda _: None, now_s=Clock())
    picture = np.zeros((*SIZE_HW, 3), np.uint8)
    watch.offer(picture, picture, (hull(-500, -500),))
    watch.drain()
    assert watch.to_json()["state"] == "broken"


def test_samples_keep_their_distance() -> None:
    clock, at = Clock(), []
    watch = Watch(lambda *_: at.append(clock.now) or 0.1, Strength.BALANCED, lambda _: None,
                  now_s=clock)  # fmt: skip
    picture = np.zeros((*SIZE_HW, 3), np.uint8)
    for _ in range(20 * FPS):
        clock.now += 1 / FPS
        watch.offer(picture, picture, (hull(20, 20),))
        watch.drain()
    assert len(at) >= 8
    assert min(b - a for a, b in pairwise(at)) >= 2.0 - 1e-6


def test_what_is_told_fits_the_control_words_and_holds_no_similarity() -> None:
    loop, _, _ = watched(lambda *_: 0.8765, 40)
    value = loop.report.to_json()
    value.pop("barriers")
    assert "0.8765" not in json.dumps(value)
    told = decode(encode(Report(1, value)))
    assert told.values["audit"]["state"] == "watching"


def test_a_higher_strength_draws_stand_ins_anew_and_a_lower_one_leaves_them() -> None:
    encoder = Encoder(np.zeros(4, np.float32), np.eye(4, dtype=np.float32),
                      np.zeros((3, 5), np.float32), strength=Strength.FAITHFUL)  # fmt: skip
    scene = FakeAnalyser()
    scene.begin(type("F", (), {"bgr": np.zeros((*SIZE_HW, 3), np.uint8), "index": 0})())
    heads: Scene = scene.finish()
    first = encoder.encode(heads, {}).heads[0].latent
    encoder.set_strength(Strength.STRICT)
    second = encoder.encode(heads, {}).heads[0].latent
    assert not np.array_equal(first, second)
    encoder.set_strength(Strength.BALANCED)
    assert np.array_equal(second, encoder.encode(heads, {}).heads[0].latent)


def test_the_small_recognizer_sees_no_face_in_an_empty_crop() -> None:
    empty = np.full((128, 128, 3), 90, np.uint8)
    assert FaceJudge()(empty, empty) is None


def test_settings_carry_the_choice_to_the_other_process() -> None:
    try:
        choose_watch(True)
        values = Settings(source="demo", sink="null").to_values()
        choose_watch(False)
        assert from_values(values).audit
        assert watch_chosen()
    finally:
        choose_watch(False)


def test_other_modes_refuse_the_option() -> None:
    result = CliRunner().invoke(cli, ["run", "demo", "--mode", "scene", "--audit"])
    assert result.exit_code != 0
    assert "mode scene" in str(result.exception) + result.output
