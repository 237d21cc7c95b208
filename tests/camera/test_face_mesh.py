from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest

from veilcam.camera.face_mesh import INPUT_PX, FaceMesh, _crop, similarity
from veilcam.camera.source import open_source
from veilcam.camera.yunet import YuNet

ASSETS = Path(str(files("veilcam.camera") / "assets"))


@pytest.mark.parametrize("roll_deg", [0.0, 17.0, -90.0])
@pytest.mark.parametrize("center", [(120.0, 90.0), (0.0, 0.0), (250.3, 170.8), (-60.0, 90.0)])
@pytest.mark.parametrize("side", [40.0, 150.0, 700.0])
def test_the_crop_is_what_a_warp_of_the_whole_picture_shows(roll_deg, center, side):
    bgr = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (180, 260, 3), np.uint8), (0, 0), 3
    )
    to_crop = similarity(center, side, roll_deg, INPUT_PX)
    wanted = cv2.warpAffine(bgr, to_crop, (INPUT_PX, INPUT_PX), flags=cv2.INTER_LINEAR)
    difference = np.abs(_crop(bgr, to_crop).astype(int) - wanted[..., ::-1])
    assert difference.max() <= 3


def test_a_face_outside_the_picture_gives_a_black_crop():
    to_crop = similarity((-900.0, 5000.0), 100.0, 30.0, INPUT_PX)
    assert _crop(np.full((180, 260, 3), 200, np.uint8), to_crop).max() == 0


def test_a_similarity_takes_the_middle_to_the_middle():
    matrix = similarity((50.0, 70.0), 40.0, 33.0, 192)
    np.testing.assert_allclose(matrix @ [50.0, 70.0, 1.0], [96.0, 96.0], atol=1e-3)


def test_the_mesh_of_a_face_lies_in_its_box_with_eyes_above_the_mouth():
    source = open_source("demo")
    bgr = source.read().bgr
    source.close()
    padded = cv2.copyMakeBorder(bgr, 0, -bgr.shape[0] % 32, 0, -bgr.shape[1] % 32, 0)
    best = max(YuNet(ASSETS / "yunet.onnx")(padded), key=lambda face: face.score)
    x, y, w, h = best.box_xywh
    mesh, flag = FaceMesh(ASSETS / "facemesh.onnx")(
        bgr, (x + w / 2, y + h / 2), 1.5 * max(w, h), 0.0
    )
    assert flag > 0.62
    middle = mesh[:, :2].mean(0)
    assert abs(middle[0] - x - w / 2) < w / 4
    assert abs(middle[1] - y - h / 2) < h / 4
    assert mesh[33, 1] < mesh[13, 1]


def test_nothing_is_no_face():
    mesh = FaceMesh(ASSETS / "facemesh.onnx")
    assert mesh(np.full((200, 200, 3), 90, np.uint8), (100.0, 100.0), 100.0, 0.0)[1] < 0.62
