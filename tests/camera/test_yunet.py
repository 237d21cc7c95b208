from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from veilcam.camera.errors import GraphError
from veilcam.camera.track import Detection
from veilcam.camera.yunet import YuNet, is_cut, merge

INFINITE = (-np.inf, -np.inf, np.inf, np.inf)


def face(x, y, size=50.0, score=0.9):
    marks = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    box = (float(x), float(y), float(size), float(size))
    return Detection(box, np.array([x, y]) + marks * size, score)


def test_a_model_that_is_missing_is_said():
    with pytest.raises(GraphError, match="is missing"):
        YuNet(Path("nowhere.onnx"))


def test_a_flat_picture_has_no_face():
    net = YuNet(Path(str(files("veilcam.camera") / "assets/yunet.onnx")))
    assert net(np.full((96, 128, 3), 120, np.uint8)) == []


class BrokenSession:
    def run(self, names, feed):
        height, width = feed["input"].shape[2:]
        sizes = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
        out = []
        for name in names:
            kind, stride = name.split("_")
            num = (height // int(stride)) * (width // int(stride))
            out.append(np.full((1, num, sizes[kind]), np.nan, np.float32))
        return out


def test_scores_that_are_not_finite_are_refused():
    net = YuNet(Path(str(files("veilcam.camera") / "assets/yunet.onnx")))
    net._session = BrokenSession()
    with pytest.raises(ValueError, match="not finite"):
        net(np.zeros((64, 64, 3), np.uint8))


def test_each_face_is_kept_once_with_its_best_score():
    found = [face(10, 10, score=0.5), face(12, 11, score=0.8), face(200, 10, score=0.4)]
    assert [f.score for f in merge(found)] == [0.8, 0.4]


def test_a_part_of_a_face_is_the_same_face():
    whole, nose = face(10, 10, 60, 0.9), face(25, 30, 22, 0.6)
    assert merge([whole, nose]) == (whole,)


@pytest.mark.parametrize(
    ("inner", "is_over"),
    [
        (INFINITE, False),
        ((9.0, 0.0, np.inf, np.inf), True),
        ((0.0, 9.0, np.inf, np.inf), True),
        ((0.0, 0.0, 61.0, np.inf), True),
        ((0.0, 0.0, np.inf, 61.0), True),
        ((8.0, 8.0, 62.0, 62.0), False),
    ],
)
def test_a_face_across_an_inner_edge_is_cut(inner, is_over):
    assert is_cut(face(10, 10), inner) is is_over
