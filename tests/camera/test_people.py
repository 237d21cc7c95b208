from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from tests.camera.scene_parts import FakeDetect, body, fake_pose, make_analyser
from veilcam.camera.body import completed, facing_features, whole_box
from veilcam.camera.body_points import POINT
from veilcam.camera.person_boxes import PersonBoxes
from veilcam.camera.pose import PoseModel
from veilcam.camera.types import Frame

SIZE_HW = (96, 128)
BOX = (40.0, 20.0, 24.0, 60.0)


def frames(count, fps=30.0, level=100):
    return [Frame(np.full((*SIZE_HW, 3), level, np.uint8), i, i / fps) for i in range(count)]


def run(analyser, pictures):
    return [analyser(frame) for frame in pictures]


def test_a_person_keeps_its_track_and_place():
    seen = run(make_analyser(FakeDetect(((BOX, 0.8),))), frames(30))
    assert {p.track_id for s in seen for p in s.people} == {0}
    x, y, width, height = seen[-1].people[0].box_xywh
    assert np.allclose((x, y, width, height), BOX, atol=2)
    assert all(not p.is_predicted for s in seen for p in s.people)


def test_the_detector_rests_between_frames_but_not_at_ten_a_second():
    quick, slow = FakeDetect(((BOX, 0.8),)), FakeDetect(((BOX, 0.8),))
    run(make_analyser(quick), frames(30))
    run(make_analyser(slow), frames(30, fps=10.0))
    assert quick.calls <= 13
    assert slow.calls >= 30


def test_somebody_missed_is_held_for_a_while():
    def found(calls):
        return ((BOX, 0.9),) if calls < 9 else ()

    seen = run(make_analyser(FakeDetect(found)), frames(60, fps=10.0))
    held = [bool(s.people) for s in seen]
    assert held[8:15] == [True] * 7
    assert not held[-1]


def test_where_no_body_is_to_be_seen_nobody_is_held_long():
    def found(calls):
        return ((BOX, 0.9),) if calls < 9 else ()

    def nobody(_bgr, box):
        return body(box, score=0.02)

    seen = run(make_analyser(FakeDetect(found), nobody), frames(60, fps=10.0))
    held = [bool(s.people) for s in seen]
    assert held[7]
    assert not any(held[12:])


def test_every_box_is_hidden_from_the_plate_with_a_margin():
    weak = ((5.0, 5.0, 10.0, 20.0), 0.3)  # too weak for a track, still not background
    seen = run(make_analyser(FakeDetect(((BOX, 0.8), weak))), frames(3, fps=10.0))[-1]
    assert len(seen.people) == 1
    assert any(x < 5 and y < 5 and x + w > 15 and y + h > 25 for x, y, w, h in seen.hidden)
    assert any(x < 40 and y < 20 and x + w > 64 and y + h > 80 for x, y, w, h in seen.hidden)


@pytest.mark.parametrize("proof_is_found", [True, False])
def test_a_detector_that_finds_nobody_in_the_proof_is_dead(proof_is_found):
    seen = run(make_analyser(FakeDetect(is_blind=not proof_is_found)), frames(5))
    assert all(s.is_alive is proof_is_found for s in seen)


def test_without_a_proof_nobody_vouches():
    assert not run(make_analyser(FakeDetect(), proof=None), frames(3))[-1].is_alive


@pytest.mark.parametrize(
    "box", [(np.nan, 0.0, 5.0, 5.0), (0.0, 0.0, np.inf, 5.0), (1.0, 1.0, -3.0, 5.0)]
)
def test_boxes_that_are_no_boxes_are_refused(box):
    with pytest.raises(ValueError, match="box"):
        run(make_analyser(FakeDetect(((box, 0.9),))), frames(1))


def test_points_that_are_no_numbers_are_refused():
    def broken(bgr, box):
        return fake_pose(bgr, box) * np.nan

    with pytest.raises(ValueError, match="key points"):
        run(make_analyser(FakeDetect(((BOX, 0.9),)), broken), frames(1))


def test_a_fault_of_the_detector_reaches_the_caller_and_ends_the_proof():
    class Failing(FakeDetect):
        def __call__(self, bgr):
            if self.calls > 2:
                raise RuntimeError("broke")
            return super().__call__(bgr)

    analyser = make_analyser(Failing(((BOX, 0.9),)))
    assert analyser(frames(1)[0]).is_alive
    with pytest.raises(RuntimeError):
        run(analyser, frames(9, fps=10.0)[1:])


def test_legs_below_the_frame_are_put_where_a_standing_body_has_them():
    box = (40.0, 40.0, 30.0, 56.0)  # ends with the frame: cut at the waist
    points = body((40.0, 40.0, 30.0, 120.0))
    points[points[:, 1] >= SIZE_HW[0], 2] = 0.05
    out = completed(points, box, SIZE_HW)
    assert (out[[POINT["left_ankle"], POINT["right_ankle"]], 1] > SIZE_HW[0]).all()
    x, y, width, height = whole_box(box, out, SIZE_HW)
    assert (x, y, width) == box[:3]
    assert y + height > SIZE_HW[0] + 20


def test_a_box_inside_the_frame_is_left_alone():
    assert whole_box(BOX, completed(body(BOX), BOX, SIZE_HW), SIZE_HW) == pytest.approx(BOX)


def test_nothing_seen_at_all_still_gives_a_body():
    nothing = np.zeros((17, 3), np.float32)
    out = completed(nothing, BOX, SIZE_HW)
    assert np.isfinite(out).all()
    assert out[POINT["left_ankle"], 1] > out[POINT["left_hip"], 1] > out[POINT["nose"], 1]
    assert np.isfinite(facing_features(out[None])).all()


ASSETS = Path(str(files("veilcam.camera") / "assets"))


def test_the_shipped_models_load_and_find_nobody_in_an_empty_picture():
    empty = np.full((*SIZE_HW, 3), 90, np.uint8)
    assert PersonBoxes(ASSETS / "yolox.onnx")(empty) == ()
    points = PoseModel(ASSETS / "movenet.onnx")(empty, (10.0, 10.0, 40.0, 80.0))
    assert points.shape == (17, 3)
    assert points[:, 2].max() < 0.5


def test_the_shipped_models_find_the_person_in_the_demo():
    av = pytest.importorskip("av")
    with av.open(str(ASSETS / "demo.mkv")) as container:
        bgr = next(container.decode(video=0)).to_ndarray(format="bgr24")
    (box, score), *_ = PersonBoxes(ASSETS / "yolox.onnx")(bgr)
    assert score > 0.8
    assert box[2] * box[3] > 0.2 * bgr.shape[0] * bgr.shape[1]
    points = PoseModel(ASSETS / "movenet.onnx")(bgr, box)
    named = {name: points[i] for name, i in POINT.items()}
    assert named["nose"][2] > 0.4
    # sits and faces the camera: the person's left is on the right of the picture
    assert named["left_shoulder"][0] > named["right_shoulder"][0]
    assert named["nose"][1] < named["left_shoulder"][1]
