"""`frame` mode from end to end, with fakes of the models: no source pixel reaches a sink."""

import inspect

import cv2
import numpy as np
import pytest

from tests.camera import frame_parts, sentinel
from tests.camera.frame_parts import make_loop, paint_scene
from tests.camera.scene_parts import FakeDetect, fake_pose, make_analyser, people, person
from tests.camera.test_scene import (
    Blind,
    broken_pose,
    garbage,
    head_box,
    wandering,
    wild_pose,
)
from veilcam.camera import painting
from veilcam.camera.errors import ConfigError
from veilcam.camera.frame_loop import build_loop, enlarged
from veilcam.camera.layout_code import LayoutCode, LayoutEncoder
from veilcam.camera.layout_tokens import Casting, tokens_of
from veilcam.camera.painting import Decoder, colours_of, filled, maps_of
from veilcam.camera.sink import MemorySink
from veilcam.camera.source import ArraySource
from veilcam.camera.strength import CHOICES, Strength
from veilcam.camera.types import Frame, Patches

SIZE_HW = sentinel.SIZE_HW
ROOM = slice(100, 100 + SIZE_HW[0]), slice(120, 120 + SIZE_HW[1])


NUM_FRAMES = 40
STREET_HW = (288, 384)  # the sentinel's room is a part of it, as people are of a frame


def in_a_street(room):
    """A larger picture around the sentinel's room."""
    bgr = cv2.resize(room, STREET_HW[::-1], interpolation=cv2.INTER_AREA)
    bgr = cv2.GaussianBlur(bgr, (0, 0), 20)
    bgr[ROOM] = room
    return bgr


def hits(frames):
    """Sentinel hits in the room, also after JPEG and H.264."""
    looker = sentinel.Looker()
    for number, safe in enumerate(frames):
        looker.look(np.ascontiguousarray(safe.bgr[ROOM]), number)
    assert looker.checks["jpeg"] >= 10  # somebody looked
    return sum(looker.hits.values())


def raises(*_args, **_more):
    raise RuntimeError("broken")


@pytest.mark.parametrize("strength", [Strength.STRICT, Strength.FAITHFUL])
@pytest.mark.parametrize(
    ("detect", "pose"),
    [
        (Blind(), fake_pose),
        (FakeDetect(garbage), fake_pose),
        (FakeDetect(garbage), wild_pose),
        (FakeDetect(head_box), broken_pose),
        (FakeDetect(head_box), fake_pose),
        (FakeDetect(), fake_pose),
    ],
    ids=["disabled", "garbage", "wild points", "pose raises", "works", "misses"],
)
def test_nobody_reaches_the_sink_whatever_the_detector_does(detect, pose, strength):
    pictures = [in_a_street(bgr) for bgr in wandering()[:NUM_FRAMES]]
    loop, sink = make_loop(make_analyser(detect, pose), pictures, strength=strength)
    report = loop.run().to_json()
    assert len(sink.frames) == NUM_FRAMES
    assert hits(sink.frames) == 0
    if pose is not broken_pose:  # pictures were made, not blanks
        assert (report["faults"], report["frames_blank"]) == (0, 0)


def test_a_detector_that_raises_gives_blanks():
    loop, sink = make_loop(raises, wandering()[:30])
    report = loop.run().to_json()
    assert all(f.reason.startswith("analyse") and np.ptp(f.bgr) == 0 for f in sink.frames)
    assert report["faults_by_stage"] == {"analyse": 30}


def test_what_the_sentinel_would_find_if_a_pixel_got_through():
    """The positive control: a painter that is handed the source is found."""
    pictures = [in_a_street(bgr) for bgr in wandering()[:NUM_FRAMES]]
    raw = iter(pictures)

    def paint_raw(_):
        return cv2.resize(next(raw), painting.PATCH_HW[::-1], interpolation=cv2.INTER_AREA)

    loop, sink = make_loop(lambda _: people(size_hw=STREET_HW), pictures, paint_scene=paint_raw)
    loop.run()
    assert not any(safe.reason for safe in sink.frames)
    assert hits(sink.frames) > 20


class BadEncoder(LayoutEncoder):
    encode = raises


@pytest.mark.parametrize(
    ("parts", "stage"),
    [
        ({"encoder": BadEncoder(strength=Strength.BALANCED)}, "encode"),
        ({"paint_scene": raises}, "generate"),
        ({"paint_actors": raises}, "generate"),
        ({"paint_scene": lambda _: np.zeros((4, 4, 3), np.uint8)}, "compose"),
        ({"paint_scene": lambda _: np.zeros((216, 384, 3), np.float32)}, "compose"),
        ({"paint_actors": lambda _: Patches(bgra=())}, "compose"),
    ],
)
def test_a_fault_at_any_hop_gives_a_blank_and_is_counted(parts, stage):
    box = (((40.0, 20.0, 24.0, 60.0), 0.9),)
    loop, sink = make_loop(make_analyser(FakeDetect(box)), wandering()[:20], **parts)
    report = loop.run().to_json()
    assert all(f.reason.startswith(stage) and np.ptp(f.bgr) == 0 for f in sink.frames)
    assert report["faults_by_stage"] == {stage: 20}


def test_what_comes_behind_the_code_is_never_given_a_frame():
    for module in (painting, frame_parts):
        for value in vars(module).values():
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                kinds = {p.annotation for p in inspect.signature(value).parameters.values()}
                assert Frame not in kinds
    assert "Frame" not in vars(painting)
    assert "Frame" not in vars(inspect.getmodule(Casting))


def test_the_same_code_gives_the_same_vector_whatever_was_in_front_of_the_camera():
    codes = [
        LayoutCode(size_hw=SIZE_HW, cells=np.full((9, 16, 3), 2, np.uint8),
                   is_covered=np.zeros((9, 16), bool), tokens=())
        for _ in range(2)
    ]  # fmt: skip
    values = [Decoder(Strength.BALANCED)(code) for code in codes]
    np.testing.assert_array_equal(*values)


def test_a_person_becomes_an_actor_in_the_same_place_and_the_ground_is_painted():
    bgr = np.full((*SIZE_HW, 3), 176, np.uint8)
    box = (50.0, 20.0, 24.0, 60.0)
    loop, sink = make_loop(make_analyser(FakeDetect(((box, 0.9),))), [bgr] * 30)
    report = loop.run().to_json()
    last = sink.frames[-1].bgr
    assert (last[30:60, 58:64] == (90, 100, 110)).all()
    assert abs(float(np.median(last[:, :30])) - 176) < 24
    assert report["people_seen"] == 1
    assert report["mode"] == "frame"
    assert report["strength"] == "faithful"
    assert report["layout"]["epsilon_per_cell"] == 10.0


def test_a_track_keeps_its_actor_and_the_next_one_gets_another():
    casting = Casting(make_cast_of(50))
    first = casting(tokens_of(people(person(0))), SIZE_HW)[0]
    again = casting(tokens_of(people(person(0), person(1, box=(60.0, 10.0, 10.0, 30.0)))), SIZE_HW)
    np.testing.assert_array_equal(first.latent, again[0].latent)
    assert (again[0].latent != again[1].latent).any()


def make_cast_of(count):
    from tests.camera.scene_parts import make_cast

    return make_cast(count)


def test_an_actor_knows_nothing_of_the_person_but_the_token():
    """Other colours and another pose in the same box: the same actor but for its noise."""
    one = person(box=(30.0, 10.0, 20.0, 60.0))
    other = person(box=(30.0, 10.0, 20.0, 60.0), colours=np.full((4, 3), 7, np.float32),
                   points=fake_pose(None, (0.0, 0.0, 5.0, 90.0)))  # fmt: skip
    assert tokens_of(people(one)) == tokens_of(people(other))


def test_covered_cells_are_painted_in_the_colours_around_them():
    bgr = np.zeros((9, 16, 3), np.float32)
    bgr[:, :8], bgr[:, 8:] = 0.2, 0.8
    covered = np.zeros((9, 16), bool)
    covered[3:7, 10:14] = True
    seen = bgr.copy()
    seen[covered] = 9.0  # must not have a part in it
    out = filled(seen, covered)
    assert out.max() < 0.9
    assert out[4:6, 11:13].min() > 0.5
    assert np.ptp(filled(seen, np.ones((9, 16), bool))) == 0


@pytest.mark.parametrize("strength", CHOICES)
def test_maps_of_any_grid_are_finite_and_in_range(strength):
    code = LayoutEncoder(strength=strength).encode(
        Frame(sentinel.raw_picture(0), 0, 0.0), people(size_hw=SIZE_HW)
    )
    colours = colours_of(code.cells, code.is_covered, strength)
    values = maps_of(colours, code.is_covered.astype(np.float32), strength)
    assert values.shape == (painting.NUM_VALUES,)
    assert values.min() >= 0
    assert values.max() <= 1


@pytest.mark.parametrize("size_hw", [(16, 16), (720, 1280), (1080, 608), (97, 131)])
def test_the_picture_comes_out_in_the_source_s_size(size_hw):
    painted = paint_scene(np.full(painting.NUM_VALUES, 0.5, np.float32))
    assert enlarged(painted, size_hw).shape == (*size_hw, 3)


def test_the_painters_edge_is_not_shown() -> None:
    painted = np.full((*painting.PATCH_HW, 3), 80, np.uint8)
    painted[:4], painted[-4:], painted[:, :4], painted[:, -4:] = 255, 0, 255, 0
    assert (enlarged(painted, painting.PATCH_HW) == 80).all()


def test_a_delay_is_refused_for_it_has_no_use_here():
    with pytest.raises(ConfigError, match="delay_frames=1"):
        build_loop(ArraySource([sentinel.raw_picture(0)]), MemorySink(), delay_frames=1)
