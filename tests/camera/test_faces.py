"""The detector on the demo clip, and with a net that finds bright squares."""

from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest

from veilcam.camera.errors import GraphError
from veilcam.camera.faces import BORDER_PX, WHOLE_EVERY_FRAMES, FaceDetector
from veilcam.camera.source import open_source
from veilcam.camera.track import Detection, box_iou

MODEL = Path(str(files("veilcam.camera") / "assets/yunet.onnx"))
BRIGHT = 200


class SquareNet:
    """Finds bright squares; remembers the size of each picture it was shown."""

    def __init__(self):
        self.sizes_hw = []
        self.is_broken = False

    def __call__(self, bgr, scale_xy, offset_xy):
        if self.is_broken:
            raise RuntimeError("net broke")
        self.sizes_hw.append(bgr.shape[:2])
        assert bgr.shape[0] % 32 == 0
        assert bgr.shape[1] % 32 == 0
        mask = (bgr[..., 0] >= BRIGHT - 20).astype(np.uint8)
        found = []
        for x, y, w, h, area in cv2.connectedComponentsWithStats(mask)[2][1:]:
            if area < 16:
                continue
            box = np.array([x, y, w, h]) * np.tile(scale_xy, 2)
            box[:2] += offset_xy
            marks = box[:2] + np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8]]) * box[2:]
            marks = np.concatenate([marks, box[None, :2] + 0.8 * box[2:]])
            found.append(Detection(tuple(float(v) for v in box), marks, 0.9))
        return found


def detector():
    made = FaceDetector(MODEL)
    made._net = SquareNet()
    return made


def picture(*squares, size_hw=(480, 640)):
    bgr = np.full((*size_hw, 3), 60, np.uint8)
    for x, y, size in squares:
        bgr[max(y, 0) : y + size, max(x, 0) : x + size] = BRIGHT
    return bgr


def is_found(found, square, *, min_iou=0.6):
    x, y, size = square
    box = (float(x), float(y), float(size), float(size))
    return any(box_iou(box, f.box_xywh) > min_iou for f in found)


def test_a_model_that_is_missing_is_said():
    with pytest.raises(GraphError, match="missing"):
        FaceDetector(Path("nowhere.onnx"))


def test_a_new_face_is_found_in_its_first_frame_wherever_it_appears():
    faces = detector()
    random = np.random.default_rng(0)
    faces(picture())
    for _ in range(40):
        square = (int(random.integers(0, 560)), int(random.integers(0, 400)), 60)
        assert is_found(faces(picture(square)), square)
        assert faces(picture()) == ()


def test_a_still_face_stays_and_is_not_searched_again():
    faces, square = detector(), (200, 150, 80)
    faces(picture(square))
    faces._net.sizes_hw.clear()
    for _ in range(WHOLE_EVERY_FRAMES - 1):
        assert is_found(faces(picture(square)), square)
    assert faces._net.sizes_hw == []
    assert is_found(faces(picture(square)), square)
    assert len(faces._net.sizes_hw) == 1  # the whole picture, changed or not


def test_a_moving_face_is_followed_within_a_part_of_the_picture():
    faces = detector()
    faces(picture((200, 150, 60)))
    faces._net.sizes_hw.clear()
    for i in range(WHOLE_EVERY_FRAMES - 2):
        square = (200 + 4 * i, 150, 60)
        assert is_found(faces(picture(square)), square)
    assert max(h * w for h, w in faces._net.sizes_hw) < 0.25 * 480 * 640


def test_a_still_face_is_kept_while_another_moves():
    faces, still = detector(), (500, 300, 60)
    faces(picture(still, (50, 50, 60)))
    for i in range(30):
        found = faces(picture(still, (50 + 8 * i, 50, 60)))
        assert len(found) == 2
        assert is_found(found, still)


def test_a_face_that_leaves_is_gone_at_once():
    faces = detector()
    faces(picture((200, 150, 60), (400, 150, 60)))
    assert len(faces(picture((400, 150, 60)))) == 1


def test_a_part_of_a_large_face_that_changes_finds_it_whole():
    faces, large = detector(), (150, 100, 300)
    faces(picture(large))
    bgr = picture(large)
    bgr[110:130, 160:180] = BRIGHT - 15
    assert is_found(faces(bgr), large, min_iou=0.9)


def test_another_scene_is_searched_whole():
    faces = detector()
    faces(picture((200, 150, 60)))
    other = picture((20, 20, 60))
    other[other < BRIGHT] = 110
    found = faces(other)
    assert len(found) == 1
    assert is_found(found, (20, 20, 60))


@pytest.mark.parametrize("square", [(-30, 100, 60), (610, 100, 60), (300, -30, 60), (300, 450, 60)])
def test_a_face_cut_by_the_frame_is_seen_with_its_mirrored_half(square):
    faces = detector()
    faces(picture())
    assert is_found(faces(picture(square)), square, min_iou=0.8)


def test_the_mirror_picture_of_a_whole_face_is_no_face():
    found = detector()(picture((4, 100, 20)))
    assert len(found) == 1
    assert is_found(found, (4, 100, 20))
    assert BORDER_PX >= 24


@pytest.mark.parametrize("size_hw", [(720, 1280), (1080, 1920), (32, 32), (1280, 720), (17, 300)])
def test_every_frame_size_is_searched(size_hw):
    faces, side = detector(), min(size_hw) // 3
    square = (size_hw[1] // 2, size_hw[0] // 3, side)
    assert is_found(faces(picture(square, size_hw=size_hw)), square, min_iou=0.5)


def test_the_size_may_change_between_frames():
    faces = detector()
    faces(picture((10, 10, 60)))
    found = faces(picture((500, 300, 120), size_hw=(720, 1280)))
    assert len(found) == 1
    assert is_found(found, (500, 300, 120))


def test_a_small_face_on_a_large_frame_is_found_by_a_tile_and_kept_while_nothing_changes():
    faces = detector()
    faces._net = small_blind = SquareNet()

    def blind(bgr, scale_xy, offset_xy):
        found = SquareNet.__call__(small_blind, bgr, scale_xy, offset_xy)
        return [f for f in found if f.box_xywh[2] / scale_xy[0] >= 10]

    faces._net = blind
    square = (640, 360, 16)  # 6 px in the small picture, 12 on a tile
    bgr = picture(square, size_hw=(720, 1280))
    for _ in range(60):
        assert is_found(faces(bgr), square, min_iou=0.4)


def test_a_net_that_breaks_is_reported_and_the_next_frame_is_searched_anew():
    faces, square = detector(), (200, 150, 60)
    faces(picture())
    faces._net.is_broken = True
    with pytest.raises(RuntimeError, match="net broke"):
        faces(picture(square))
    faces._net.is_broken = False
    assert is_found(faces(picture(square)), square)


def test_a_search_that_nobody_finished_leaves_nothing_behind():
    faces = detector()
    faces.begin(picture((200, 150, 60)))
    found = faces(picture((400, 300, 60)))
    assert len(found) == 1
    assert is_found(found, (400, 300, 60))


def test_finish_needs_begin():
    with pytest.raises(ValueError, match="wanted begin"):
        detector().finish()


def test_frames_are_never_changed():
    faces, bgr = detector(), picture((200, 150, 60))
    before = bgr.copy()
    faces(bgr)
    np.testing.assert_array_equal(bgr, before)


def demo_frames(num_frames):
    source = open_source("demo")
    try:
        return [source.read().bgr for _ in range(num_frames)]
    finally:
        source.close()


def test_on_the_demo_clip_nothing_is_missed_that_a_whole_search_finds():
    steady, fresh = FaceDetector(MODEL), FaceDetector(MODEL)
    for bgr in demo_frames(20):
        found = steady(bgr)
        fresh.forget()
        for wanted in fresh(bgr):
            if wanted.score > 0.6:
                assert max(box_iou(wanted.box_xywh, f.box_xywh) for f in found) > 0.5


def test_half_a_face_at_the_edge_of_the_frame_is_found():
    (bgr,) = demo_frames(1)
    (whole,) = [f for f in FaceDetector(MODEL)(bgr) if f.score > 0.6]
    middle = round(whole.box_xywh[0] + whole.box_xywh[2] / 2)
    found = FaceDetector(MODEL)(np.ascontiguousarray(bgr[:, middle:]))
    box = (whole.box_xywh[0] - middle, *whole.box_xywh[1:])
    assert any(box_iou(box, f.box_xywh) > 0.5 and f.score > 0.6 for f in found)
