"""`scene` mode from end to end, with fakes of the models: nothing live reaches a sink."""

import inspect
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.camera import sentinel
from tests.camera.scene_parts import (
    FakeDetect,
    fake_pose,
    make_analyser,
    make_cast,
    paint,
    people,
    person,
)
from veilcam.camera import scene_compose
from veilcam.camera.actor_code import ActorEncoder
from veilcam.camera.errors import ConfigError
from veilcam.camera.plate import PlateLearner
from veilcam.camera.scene_compose import compose_scene
from veilcam.camera.scene_loop import SceneLoop, build_loop
from veilcam.camera.scene_types import Plate, SceneCodes
from veilcam.camera.sink import MemorySink
from veilcam.camera.source import ArraySource
from veilcam.camera.types import Frame, Patches

SIZE_HW = sentinel.SIZE_HW
NUM_FRAMES = 140  # nine slots of the plate, and some
DARK = (0, 0, 0)


def numbers(low, high):
    return st.floats(low, high, allow_subnormal=False)  # inference flushes them to zero


def empty_room():
    """The sentinel's room without the head."""
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    return np.stack([70 + rows // 3, 80 + columns // 4, 90 + rows * 0], 2).astype(np.uint8)


def still():
    """Somebody in sentinel colours who never moves: what a dead detector would let be learned."""
    bgr = empty_room()
    x, y = sentinel.head_corner(0)
    head = sentinel.raw_picture(0)[y : y + 32, x : x + 32]
    bgr[y : y + 32, x : x + 32] = head
    return bgr


def make_loop(analyse, pictures, *, encoder=None, painter=paint, learner=None):
    sink = MemorySink()
    loop = SceneLoop(
        ArraySource(pictures, fps=10.0), sink, analyse=analyse,
        learner=learner or PlateLearner(SIZE_HW), encoder=encoder or ActorEncoder(make_cast()),
        paint=painter,
    )  # fmt: skip
    return loop, sink


def hits(frames):
    looker = sentinel.Looker()
    for number, frame in enumerate(frames):
        looker.look(frame.bgr, number)
    assert looker.checks["jpeg"] > 20  # somebody looked
    return sum(looker.hits.values())


def wandering():
    return [sentinel.raw_picture(index) for index in range(NUM_FRAMES)]


def head_box(calls):
    x, y = sentinel.head_corner(calls)
    return (((float(x), float(y), 32.0, 32.0), 0.9),)


class Blind(FakeDetect):
    """A detector that was disabled: it finds nobody, not even in the proof."""

    def __init__(self):
        super().__init__(is_blind=True)


def garbage(calls):
    random = np.random.default_rng(calls)
    count = int(random.integers(0, 3))
    return tuple(
        (tuple(float(v) for v in random.uniform(1, 90, 4)), float(random.uniform(0.3, 1)))
        for _ in range(count)
    )


def broken_pose(_bgr, _box):
    raise RuntimeError("pose broke")


def wild_pose(bgr, box):
    points = fake_pose(bgr, box)
    points[:, :2] = np.random.default_rng(abs(int(box[0]))).uniform(-500, 500, (17, 2))
    return points


@pytest.mark.parametrize(
    ("detect", "pose"),
    [
        (Blind(), fake_pose),
        (FakeDetect(garbage), fake_pose),
        (FakeDetect(garbage), wild_pose),
        (FakeDetect(head_box), broken_pose),
        (FakeDetect(head_box), fake_pose),
        (FakeDetect(), fake_pose),  # alive, but misses this one: it moves, so it is not learned
    ],
    ids=["disabled", "garbage", "wild points", "pose raises", "works", "misses"],
)
def test_nobody_who_walks_reaches_the_sink_whatever_the_detector_does(detect, pose):
    loop, sink = make_loop(make_analyser(detect, pose), wandering())
    report = loop.run().to_json()
    assert len(sink.frames) == NUM_FRAMES
    assert hits(sink.frames) == 0
    if pose is not broken_pose:  # pictures were made, not blanks
        assert (report["faults"], report["frames_blank"]) == (0, 0)


@pytest.mark.parametrize("detect", [Blind(), FakeDetect(head_box)], ids=["disabled", "works"])
def test_nobody_who_stands_still_reaches_the_sink(detect):
    if not isinstance(detect, Blind):
        x, y = sentinel.head_corner(0)
        detect = FakeDetect((((float(x), float(y), 32.0, 32.0), 0.9),))
    loop, sink = make_loop(make_analyser(detect), [still()] * NUM_FRAMES)
    loop.run()
    assert hits(sink.frames) == 0


def test_what_the_sentinel_would_find_if_the_proof_were_not_asked_for():
    """The positive control: without proof of life a person who stands still is learned."""

    def believed(frame):
        seen = make_analyser(Blind())(frame)
        return people(size_hw=seen.size_hw, is_alive=True)

    loop, sink = make_loop(believed, [still()] * NUM_FRAMES)
    loop.run()
    assert hits(sink.frames) > 20


def test_with_the_detector_disabled_the_picture_says_that_it_learns():
    loop, sink = make_loop(make_analyser(Blind()), wandering())
    report = loop.run().to_json()
    assert len({f.bgr.tobytes() for f in sink.frames}) == 1
    assert not any(f.reason for f in sink.frames)
    assert report["plate"]["known"] == 0
    assert report["mode"] == "scene"


def test_an_empty_room_is_shown_as_it_is_and_people_as_actors():
    box = (50.0, 20.0, 24.0, 60.0)

    def found(calls):
        return ((box, 0.9),) if calls > 120 else ()

    pictures = [empty_room()] * 120 + [still()] * 30
    loop, sink = make_loop(make_analyser(FakeDetect(found)), pictures)
    report = loop.run().to_json()
    before, after = sink.frames[115].bgr.astype(int), sink.frames[-1].bgr.astype(int)
    assert np.abs(before - empty_room()).max() <= 2
    assert np.abs(after[:, :30] - before[:, :30]).max() <= 2
    assert (after[30:60, 58:64] == (90, 100, 110)).all()
    assert report["heads_replaced"] > 20
    assert report["people_seen"] == 1
    assert report["plate"]["releases"] >= 1


def raises(*_args, **_more):
    raise RuntimeError("broken")


class BadEncoder(ActorEncoder):
    encode = raises


class BadLearner(PlateLearner):
    add = raises


@pytest.mark.parametrize(
    ("parts", "stage"),
    [
        ({"encoder": BadEncoder(make_cast())}, "encode"),
        ({"learner": BadLearner(SIZE_HW)}, "learn"),
        ({"painter": raises}, "generate"),
        ({"painter": lambda codes: Patches(bgra=())}, "compose"),
    ],
)
def test_a_fault_at_any_hop_gives_a_blank_and_is_counted(parts, stage):
    loop, sink = make_loop(make_analyser(FakeDetect(head_box)), wandering()[:20], **parts)
    report = loop.run().to_json()
    assert all(f.reason.startswith(stage) and np.ptp(f.bgr) == 0 for f in sink.frames)
    assert report["faults_by_stage"] == {stage: 20}


def test_a_fault_of_analysis_gives_a_blank_and_the_next_frame_goes_on():
    analyse = make_analyser(FakeDetect(head_box))

    def sometimes(frame):
        if frame.index == 5:
            raise RuntimeError("broke")
        return analyse(frame)

    loop, sink = make_loop(sometimes, wandering()[:10])
    loop.run()
    assert [bool(f.reason) for f in sink.frames] == [i == 5 for i in range(10)]


def code_of(*persons, light=DARK):
    return ActorEncoder(make_cast()).encode(people(*persons), light)


def test_composition_is_never_given_a_frame():
    for function in vars(scene_compose).values():
        if inspect.isfunction(function) and function.__module__ == scene_compose.__name__:
            kinds = {p.annotation for p in inspect.signature(function).parameters.values()}
            assert Frame not in kinds
    assert "Frame" not in vars(scene_compose)


def plate(level=100):
    return Plate(bgr=np.full((*SIZE_HW, 3), level, np.uint8), known=1.0, version=1)


@pytest.mark.parametrize("is_near_first", [True, False])
def test_who_stands_nearer_covers_who_stands_behind(is_near_first):
    far, near = person(0, box=(50.0, 10.0, 20.0, 50.0)), person(1, box=(52.0, 20.0, 20.0, 60.0))
    order = (near, far) if is_near_first else (far, near)
    codes = code_of(*order)
    patches = paint(codes)
    for someone, bgra in zip(order, patches.bgra, strict=True):
        bgra[..., :3] = 200 if someone is near else 40
    safe = compose_scene(plate(), codes, patches, index=0, time_s=0.0)
    assert safe.bgr[50, 62].tolist() == [200] * 3


def test_there_is_a_shadow_under_the_feet():
    codes = code_of(person(box=(50.0, 10.0, 20.0, 60.0)))
    safe = compose_scene(plate(), codes, paint(codes), index=0, time_s=0.0)
    ground = int(codes.actors[0].ground_y)
    assert safe.bgr[ground, 40:90].min() < 90
    assert safe.bgr[ground + 12 :, :].min() == 100


def test_the_light_of_now_is_on_plate_and_actors():
    codes = code_of(person(box=(50.0, 10.0, 20.0, 60.0)), light=(-12, -12, -12))
    safe = compose_scene(plate(), codes, paint(codes), index=0, time_s=0.0)
    assert safe.bgr[5, 5].tolist() == [56] * 3  # half the exposure
    assert (safe.bgr[40, 60] < (60, 65, 70)).all()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"left": np.nan}, "not finite"),
        ({"height": 1e9}, "not finite"),
        ({"height": 2000.0}, "no usable height"),
        ({"height": 0.0}, "no usable height"),
    ],
)
def test_places_that_cannot_be_are_refused(changes, match):
    codes = code_of(person())
    broken = SceneCodes(size_hw=SIZE_HW, actors=(replace(codes.actors[0], **changes),), light=DARK)
    with pytest.raises(ValueError, match=match):
        compose_scene(plate(), broken, paint(codes), index=0, time_s=0.0)


@settings(max_examples=60, deadline=None)
@given(numbers(-400, 400), numbers(-400, 400), numbers(2, 400), numbers(4, 380))
def test_an_actor_anywhere_can_be_composed(x, y, width, height):
    codes = code_of(person(box=(x, y, width, height)))
    safe = compose_scene(plate(), codes, paint(codes), index=3, time_s=0.1)
    assert safe.bgr.shape == (*SIZE_HW, 3)
    assert (safe.index, safe.reason) == (3, "")


def test_a_plate_is_never_written_to():
    one = plate()
    codes = code_of(person())
    compose_scene(one, codes, paint(codes), index=0, time_s=0.0)
    assert (one.bgr == 100).all()


def test_a_delay_is_refused_for_it_has_no_use_here():
    with pytest.raises(ConfigError, match="delay_frames=2"):
        build_loop(ArraySource([still()]), MemorySink(), delay_frames=2)


def test_the_product_finds_its_own_actor_and_learns():
    """The shipped bundle: its proof is found by the shipped detector, so the room is learned."""
    room = cv2.resize(empty_room(), None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    sink = MemorySink()
    loop = build_loop(ArraySource([room] * 130, fps=10.0), sink, profile={"threads": 1})
    report = loop.run().to_json()
    assert report["faults"] == 0
    assert report["plate"]["known"] == 1.0
    assert np.abs(sink.frames[-1].bgr.astype(int) - room).max() <= 2
