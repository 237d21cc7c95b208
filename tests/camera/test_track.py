import copy

import numpy as np
import pytest

from veilcam.camera.track import Detection, OneEuro, Tracker, box_iou

SIZE_HW = (480, 640)


def face(x, y, size=60.0, score=0.9):
    marks = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    box = (float(x), float(y), float(size), float(size))
    return Detection(box, np.array([x, y]) + marks * size, score)


def run(tracker, steps, *, start=0, fps=30.0):
    tracks = []
    for i, detections in enumerate(steps, start=start):
        tracker.predict(i / fps)
        tracker.update(tuple(detections), size_hw=SIZE_HW)
        tracks.append([copy.copy(track) for track in tracker.tracks])
    return tracks


def test_one_face_keeps_its_id_while_it_moves():
    tracks = run(Tracker(), [[face(100 + 8 * i, 100)] for i in range(30)])
    assert {t.track_id for frame in tracks for t in frame} == {0}
    assert abs(tracks[-1][0].box_xywh[0] - (100 + 8 * 29)) < 6


def test_a_face_missed_for_most_of_a_second_is_held_with_its_id():
    steps = [[face(100 + 3 * i, 100)] for i in range(15)]
    steps += [[]] * 25 + [[face(180, 100)]]
    tracks = run(Tracker(), steps)
    assert all(len(frame) == 1 for frame in tracks)
    assert tracks[-1][0].track_id == 0
    assert tracks[38][0].missed_s == pytest.approx(24 / 30)


def test_a_held_face_ends_after_its_hold():
    tracks = run(Tracker(), [[face(100, 100)]] * 15 + [[]] * 40)
    assert tracks[40]
    assert not tracks[-1]


def test_what_was_never_sure_is_not_held_long():
    tracks = run(Tracker(), [[face(100, 100, score=0.65)]] + [[]] * 4)
    assert tracks[0]
    assert not tracks[-1]


@pytest.mark.parametrize(
    ("size", "score", "num_tracks"),
    [(60, 0.55, 1), (60, 0.45, 0), (100, 0.55, 0), (100, 0.65, 1)],
)
def test_a_new_face_needs_a_score_but_a_small_one_less(size, score, num_tracks):
    (tracks,) = run(Tracker(), [[face(50, 50, size, score)]])
    assert len(tracks) == num_tracks


def test_a_known_face_is_kept_by_a_low_score():
    tracks = run(Tracker(), [[face(100, 100)]] + [[face(102, 100, score=0.31)]] * 60)
    assert tracks[-1][0].missed_s == 0


def test_two_faces_that_pass_close_by_stay_two():
    steps = [[face(100 + 5 * i, 100), face(300 - 5 * i, 190)] for i in range(40)]
    tracks = run(Tracker(), steps)
    assert {t.track_id for frame in tracks for t in frame} == {0, 1}
    assert all(len(frame) == 2 for frame in tracks)


def test_a_face_that_left_the_picture_is_let_go():
    tracks = run(Tracker(), [[face(560 + 10 * i, 100)] for i in range(8)] + [[]] * 30)
    assert not tracks[-1]


@pytest.mark.parametrize("time_s", [-5.0, 0.0, 1e6])
def test_a_clock_that_jumps_loses_no_face(time_s):
    tracker = Tracker()
    run(tracker, [[face(100, 100)]] * 20)
    tracker.predict(time_s)
    tracker.update((), size_hw=SIZE_HW)
    assert len(tracker.tracks) == 1


def test_one_euro_calms_noise_and_follows_a_jump():
    rng = np.random.default_rng(0)
    calm = OneEuro()
    out = [calm(np.array([rng.normal(0, 0.01)]), i / 30)[0] for i in range(200)]
    assert np.std(out[50:]) < 0.006
    for i in range(200, 215):
        value = calm(np.array([1.0]), i / 30)
    assert value[0] > 0.9


def test_iou_of_boxes_apart_is_zero():
    assert box_iou((0.0, 0.0, 1.0, 1.0), (5.0, 5.0, 1.0, 1.0)) == 0
