"""Heads of `scene` mode: whose they are, what they may know, and that faults end in a blank."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.camera.scene_parts import make_cast
from veilcam.camera.actor_code import ActorEncoder
from veilcam.camera.audit_faces import FaceFinder
from veilcam.camera.light import SKIN_CLASSES
from veilcam.camera.manifest import load_bundle
from veilcam.camera.plate import PlateLearner
from veilcam.camera.scene_compose import compose_scene
from veilcam.camera.scene_heads import SceneHeads, head_px, owners_of
from veilcam.camera.scene_loop import SceneLoop, build_loop
from veilcam.camera.scene_types import NO_HEADS, Heads, People, Person, Plate
from veilcam.camera.sink import MemorySink
from veilcam.camera.source import ArraySource, demo_clip, open_source
from veilcam.camera.types import Frame, Head, HeadCode, Patches, Scene

SIZE_HW = (480, 640)


def person(track_id: int = 0, *, x: float = 320.0, shoulders: float = 120.0) -> Person:
    """Somebody upright whose nose is at (x, 100)."""
    points = np.zeros((17, 3), np.float32)
    points[:, 2] = 0.9
    points[:5, :2] = (x, 100)
    points[5, :2], points[6, :2] = (x + shoulders / 2, 170), (x - shoulders / 2, 170)
    points[7:, :2] = (x, 300)
    return Person(
        track_id=track_id, box_xywh=(x - 80.0, 60.0, 160.0, 400.0), points=points, facing_deg=0.0,
        colours_bgr=np.full((4, 3), 128, np.float32), is_predicted=False,
    )  # fmt: skip


def people(*persons: Person) -> People:
    return People(size_hw=SIZE_HW, people=persons, hidden=(), is_alive=True)


def head(
    track_id: int = 5, *, x: float = 320.0, size: float = 110.0, doubted: bool = False
) -> Head:
    square = np.array([(x - 40, 60), (x + 40, 60), (x + 40, 150), (x - 40, 150)], float)
    return Head(
        track_id=track_id, center_xy=(x, 100.0), size_px=size, yaw_deg=0.0, pitch_deg=0.0,
        roll_deg=0.0, expression={}, hull_xy=square, is_predicted=False, is_doubted=doubted,
    )  # fmt: skip


class Analyser:
    """Finds the heads it is told to, and counts how often it is asked."""

    def __init__(self, *heads: Head) -> None:
        self.heads, self.calls, self.frame_skin = heads, 0, {}

    def warm_up(self, size_hw: tuple[int, int]) -> None:
        """Nothing to warm."""

    def __call__(self, frame: Frame) -> Scene:
        self.calls += 1
        return Scene(size_hw=SIZE_HW, heads=self.heads)


class Paint:
    def __call__(self, codes):
        return Patches(bgra=tuple(np.full((128, 128, 4), 200, np.uint8) for _ in codes.heads))


def frame(time_s: float = 0.0) -> Frame:
    return Frame(np.zeros((*SIZE_HW, 3), np.uint8), 0, time_s)


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(None)


def test_a_head_belongs_to_the_nearest_body_and_a_body_has_one() -> None:
    both = people(person(1, x=200.0), person(2, x=420.0))
    assert owners_of((head(7, x=205.0), head(8, x=415.0)), both) == {7: 1, 8: 2}
    assert owners_of((head(7, x=205.0), head(8, x=230.0)), both) == {7: 1}


@pytest.mark.parametrize(
    "found",
    [head(x=600.0), head(size=40.0), head(doubted=True)],
    ids=["elsewhere", "small", "doubted"],
)
def test_what_is_no_near_face_of_a_body_gets_none(found: Head) -> None:
    assert owners_of((found,), people(person())) == {}


@given(
    shift=st.floats(-300, 300, allow_subnormal=False),
    size=st.floats(56, 400, allow_subnormal=False),
)
def test_a_face_off_its_body_is_left_out(shift: float, size: float) -> None:
    assume(abs(abs(shift) / size - 0.6) > 1e-3)
    owners = owners_of((head(x=320.0 + shift, size=size),), people(person()))
    assert bool(owners) == (abs(shift) / size <= 0.6)


def test_who_is_far_away_is_not_looked_at(bundle) -> None:
    analyser = Analyser(head())
    heads = SceneHeads(bundle, Paint(), analyser)
    far = replace(person(shoulders=30.0), box_xywh=(300.0, 60.0, 40.0, 100.0))
    assert head_px(far) < 32 < head_px(person())
    assert heads(frame(), people(far), {0: 1}) is NO_HEADS
    assert analyser.calls == 0
    assert len(heads(frame(), people(person()), {0: 1}).codes) == 1


def test_a_face_that_fills_the_picture_is_near_without_shoulders() -> None:
    close = person()
    close.points[5:, 2] = 0.0
    close.points[1, :2], close.points[2, :2] = (345, 95), (295, 95)
    close = replace(close, box_xywh=(240.0, 20.0, 160.0, 200.0))
    assert head_px(close) == pytest.approx(130.0)


def test_the_face_has_the_skin_that_was_sent_of_the_actor(bundle) -> None:
    matrix = bundle.skin
    tones = []
    for skin in (0, 3):
        colours = []
        for _ in range(12):
            heads = SceneHeads(bundle, Paint(), Analyser(head()))
            code = heads(frame(), people(person(4)), {4: skin}).codes[0]
            assert code.track_id == 4
            colours.append(float((matrix[:, :-1] @ code.latent + matrix[:, -1]).mean()))
        tones.append(np.mean(colours))
    assert tones[0] < tones[1]


def test_a_track_keeps_its_face_and_nothing_measured_of_its_outline(bundle) -> None:
    heads = SceneHeads(bundle, Paint(), Analyser(head()))
    first, second = (heads(frame(t), people(person()), {0: 2}).codes[0] for t in (0.0, 0.1))
    assert np.array_equal(first.latent, second.latent)
    half = first.size_px / 2
    assert np.ptp(first.hull_xy, axis=0) == pytest.approx((2 * half, 2 * half))


def test_fast_frames_show_the_last_heads_of_those_who_are_still_there(bundle) -> None:
    analyser = Analyser(head(5, x=200.0), head(6, x=420.0))
    heads = SceneHeads(bundle, Paint(), analyser)
    both, skins = people(person(1, x=200.0), person(2, x=420.0)), {1: 0, 2: 0}
    assert len(heads(frame(0.0), both, skins).codes) == 2
    kept = heads(frame(0.033), people(person(2, x=420.0)), skins)
    assert [code.track_id for code in kept.codes] == [2]
    assert analyser.calls == 1
    heads(frame(0.066), both, skins)
    assert analyser.calls == 2


def test_who_comes_near_again_keeps_his_face_and_a_new_one_gets_his_own_skin(bundle) -> None:
    analyser = Analyser(head(5, x=200.0))
    heads = SceneHeads(bundle, Paint(), analyser)
    one, two = person(1, x=200.0), person(2, x=420.0)
    skins = {1: 0, 2: 3}
    (first,) = heads(frame(0.0), people(one), skins).codes
    far = replace(person(1, shoulders=30.0), box_xywh=(300.0, 60.0, 40.0, 100.0))
    assert heads(frame(0.1), people(far), skins) is NO_HEADS
    analyser.heads = (head(5, x=200.0), head(6, x=420.0))
    again, new = heads(frame(0.2), people(one, two), skins).codes
    assert np.array_equal(first.latent, again.latent)
    assert sum(again.skin_bgr) < sum(SKIN_CLASSES[1]) < sum(SKIN_CLASSES[2]) < sum(new.skin_bgr)


class Broken:
    """Heads that are no heads."""

    def __init__(self, how: str) -> None:
        self._how = how

    def __call__(self, _frame, _people, _skin) -> Heads:
        if self._how == "raises":
            raise RuntimeError("x")
        code = HeadCode(
            track_id=0, levels=(), values=np.zeros(12, np.float32), latent=np.zeros(64, np.float32),
            center_xy=(np.nan, 100.0), size_px=90.0, roll_deg=0.0, skin_bgr=(90.0, 90.0, 90.0),
            hull_xy=np.eye(3, 2),
        )  # fmt: skip
        count = 2 if self._how == "too many" else 1
        return Heads(codes=(code,), patches=Patches(bgra=(np.zeros((9, 9, 4), np.uint8),) * count))


@pytest.mark.parametrize("how", ["raises", "nan", "too many"])
def test_a_fault_of_heads_gives_a_blank(how: str) -> None:
    sink = MemorySink()
    SceneLoop(
        ArraySource([np.full((*SIZE_HW, 3), 255, np.uint8)]), sink,
        analyse=lambda _frame: people(person()), learner=PlateLearner(SIZE_HW),
        encoder=ActorEncoder(make_cast()), heads=Broken(how),
        paint=lambda codes: Patches(bgra=(np.zeros((192, 96, 4), np.uint8),) * len(codes.actors)),
    ).run()  # fmt: skip
    assert sink.frames[0].reason


def test_the_head_lies_over_its_actor_and_the_actor_s_own_is_gone() -> None:
    codes = ActorEncoder(make_cast()).encode(people(person()), (0, 0, 0))
    body = np.zeros((192, 96, 4), np.uint8)
    body[..., 1] = body[..., 3] = 255
    face = np.zeros((128, 128, 4), np.uint8)
    face[48:80, 48:80] = (0, 0, 255, 255)
    code = HeadCode(
        track_id=0, levels=(), values=np.zeros(12, np.float32), latent=np.zeros(64, np.float32),
        center_xy=(320.0, 140.0), size_px=100.0, roll_deg=0.0, skin_bgr=(0.0, 0.0, 255.0),
        hull_xy=np.eye(3, 2),
    )  # fmt: skip
    plate = Plate(bgr=np.full((*SIZE_HW, 3), 10, np.uint8), known=1.0, version=1)
    shown = [
        compose_scene(plate, codes, Patches(bgra=(body,)), index=0, time_s=0.0, heads=heads).bgr
        for heads in (NO_HEADS, Heads(codes=(code,), patches=Patches(bgra=(face,))))
    ]
    assert shown[0][140, 320, 1] > 200
    assert shown[1][140, 320, 2] > 100  # the face
    assert shown[1][140, 320, 1] < 60
    assert shown[1][140, 350, 1] < 60  # beside it the plate, not the body's own head
    assert np.array_equal(shown[0][300:, :], shown[1][300:, :])


def test_a_near_person_of_a_clip_gets_a_face_that_a_detector_finds() -> None:
    source = open_source(str(demo_clip()))
    pictures = [read.bgr for _ in range(6) if (read := source.read()) is not None]
    source.close()
    sink = MemorySink()
    build_loop(ArraySource(pictures, fps=source.fps), sink).run()
    find = FaceFinder()
    own, shown = find(pictures[-1]), find(sink.frames[-1].bgr)
    assert own
    assert any(own[0].is_at(face) for face in shown)
