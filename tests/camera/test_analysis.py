"""Finding and following heads: on the demo clip, and with a detector that is told what to see."""

from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilcam.camera.analysis import Analyser, head_hull
from veilcam.camera.head_model import EXPRESSION_FIELDS
from veilcam.camera.source import open_source
from veilcam.camera.track import Detection
from veilcam.camera.types import Frame

SIZE_HW = (480, 640)
MARKS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


def face(x, y, size=80.0, score=0.9):
    box = (float(x), float(y), float(size), float(size))
    return Detection(box, np.array([x, y]) + MARKS * size, score)


class ToldDetector:
    """Sees what it is told, frame by frame."""

    def __init__(self, *steps):
        self.steps, self.doubts = list(steps), []

    def begin(self, bgr, doubt_xy=()):
        self.doubts.append(doubt_xy)

    def finish(self):
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return tuple(step)


class FlatMesh:
    """A mesh that agrees with the middle of its crop, as sure as it is told to be."""

    def __init__(self, flag=0.0):
        self.flag, self.places = flag, []

    def __call__(self, bgr, center_xy, side_px, roll_deg):
        self.places.append(center_xy)
        folder = Path(str(files("veilcam.camera") / "assets"))
        mesh = np.load(folder / "head_reference.npz")["mesh"].astype(np.float32)
        mesh = mesh - mesh.mean(0)
        scale = np.float32(side_px / 1.7 / np.ptp(mesh[:, 0]))
        return mesh * scale + np.array([*center_xy, 0], np.float32), self.flag


def analyser(*steps, flag=0.0):
    made = Analyser()
    made._detector, made._mesh = ToldDetector(*steps), FlatMesh(flag)
    return made


def frame(index=0):
    return Frame(np.full((*SIZE_HW, 3), 90, np.uint8), index, index / 30)


def demo(num_frames):
    source = open_source("demo")
    try:
        return [source.read() for _ in range(num_frames)]
    finally:
        source.close()


def holds(hull, points):
    outline = hull.astype(np.float32)
    return all(cv2.pointPolygonTest(outline, (float(x), float(y)), True) > -1 for x, y in points)


def test_an_empty_picture_has_no_head():
    scene = analyser([])(frame())
    assert scene.heads == ()
    assert scene.size_hw == SIZE_HW


def test_a_new_face_is_a_head_of_the_same_frame_and_late():
    made = analyser([face(100, 100)])
    assert made.begin(frame()).heads == ()
    (head,) = made.finish().heads
    assert made.late == {head.track_id}
    assert not head.is_predicted
    assert holds(head.hull_xy, face(100, 100).landmarks)
    assert set(head.expression) >= set(EXPRESSION_FIELDS)


def test_a_known_face_is_expected_before_it_is_found_and_not_late():
    made = analyser(*[[face(100 + 3 * i, 100)] for i in range(10)])
    for i in range(10):
        early = made.begin(frame(i))
        (head,) = made.finish().heads
        if i > 0:
            assert made.late == frozenset()
            assert early.heads[0].track_id == head.track_id
            assert early.heads[0].center_xy == head.center_xy
            assert holds(head.hull_xy, face(100 + 3 * i, 100).landmarks)


def test_a_face_that_jumped_is_late_and_looked_at_where_it_is():
    made = analyser([face(100, 100)], [face(100, 100)], [face(150, 100)])
    for i in range(2):
        made(frame(i))
    made._mesh.places.clear()
    (head,) = made(frame(2)).heads
    assert made.late == {head.track_id}
    assert made._mesh.places[0][0] < 150
    assert made._mesh.places[-1] == (190.0, 140.0)
    assert holds(head.hull_xy, face(150, 100).landmarks)


def test_a_face_that_is_missed_is_held_predicted_and_a_doubt():
    made = analyser(*[[face(100, 100)]] * 8, [], [])
    for i in range(8):
        made(frame(i))
    (head,) = made(frame(8)).heads
    assert head.is_predicted
    made(frame(9))
    assert made._detector.doubts[-1][0] == pytest.approx((140.0, 140.0), abs=2)
    assert made._detector.doubts[-2] == ()


def test_a_held_hull_grows_while_the_face_is_unseen():
    made = analyser(*[[face(100, 100)]] * 8, *[[]] * 6)
    spans = [np.ptp(made(frame(i)).heads[0].hull_xy[:, 0]) for i in range(14)]
    assert spans[13] > spans[10] > spans[7]


def test_an_unsure_face_becomes_sure_by_its_mesh():
    held = []
    for flag in (0.0, 0.72):
        made = analyser(*[[face(100, 100, score=0.7)]] * 4, *[[]] * 5, flag=flag)
        held.append([len(made(frame(i)).heads) for i in range(9)][-1])
    assert held == [0, 1]


def test_only_the_nearest_four_get_a_mesh_but_all_are_hidden():
    faces = [face(20 + 100 * i, 50, 60.0 + i) for i in range(6)]
    made = analyser(faces, faces)
    for i in range(2):
        scene = made(frame(i))
        assert len(scene.heads) == 6
    assert len(made._mesh.places) == 8
    assert [h.track_id for h in scene.heads] == sorted(
        (h.track_id for h in scene.heads), key=lambda k: -faces[k].box_xywh[2]
    )


def test_a_detector_that_fails_does_not_lose_the_track():
    made = analyser(*[[face(100, 100)]] * 5, RuntimeError("net broke"), [face(102, 100)])
    ids = [made(frame(i)).heads[0].track_id for i in range(5)]
    with pytest.raises(RuntimeError, match="net broke"):
        made(frame(5))
    ids.append(made(frame(6)).heads[0].track_id)
    assert set(ids) == {0}


def test_finish_needs_begin():
    with pytest.raises(ValueError, match="wanted begin"):
        analyser([]).finish()


def test_a_look_that_is_not_finite_is_refused():
    made = analyser([Detection((100.0, 100.0, 80.0, 80.0), np.full((5, 2), np.nan), 0.9)])
    with pytest.raises(ValueError, match=r"NaN|not finite"):
        made(frame())


def test_on_the_demo_clip_the_head_is_one_track_with_a_moving_face():
    made = Analyser()
    frames = demo(12)
    made.warm_up((frames[0].bgr.shape[0], frames[0].bgr.shape[1]))
    scenes = [made(f) for f in frames]
    firsts = [scene.heads[0] for scene in scenes]
    assert {head.track_id for head in firsts} == {0}
    assert all(abs(head.yaw_deg) < 45 and abs(head.roll_deg) < 25 for head in firsts)
    assert all(np.isfinite(list(head.expression.values())).all() for head in firsts)
    assert 0 in made.frame_skin


@given(
    st.floats(0, 600, allow_subnormal=False), st.floats(0, 400, allow_subnormal=False),
    st.floats(10, 300), st.floats(10, 300), st.floats(-1, 1, allow_subnormal=False),
    st.floats(0, 1, allow_subnormal=False),
)  # fmt: skip
def test_the_hull_covers_box_landmarks_and_mesh_and_grows(x, y, w, h, shift, missed_s):
    landmarks = np.array([x, y]) + (MARKS + np.array([0.2 * shift, 0.0])) * [w, h]
    mesh = np.zeros((468, 3), np.float32)
    mesh[:, :2] = np.random.default_rng(0).uniform((x, y), (x + w, y + h), (468, 2))
    hull = head_hull((x, y, w, h), landmarks, mesh=mesh)
    angle = np.linspace(0, 2 * np.pi, 16)
    ellipse = np.stack([x + w / 2 + w / 2 * np.cos(angle), y + h / 2 + h / 2 * np.sin(angle)], 1)
    assert holds(hull, [*landmarks, *mesh[:, :2], *ellipse])
    grown = head_hull((x, y, w, h), landmarks, mesh=mesh, missed_s=missed_s)
    assert holds(grown, hull)
