from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest

from veilcam.camera.audit_faces import FaceFinder, fit_similarity, turned_square
from veilcam.camera.audit_recognizers import crop_arcface, load_recognizers, model_folders, unit
from veilcam.camera.errors import ConfigError
from veilcam.camera.source import demo_clip, open_source


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    source = open_source(str(demo_clip()))
    try:
        for _ in range(5):
            first = source.read()
    finally:
        source.close()
    assert first is not None
    return first.bgr


def turned(bgr: np.ndarray, degrees: float) -> np.ndarray:
    """The largest face's surroundings, turned clockwise about the face."""
    face = FaceFinder()(bgr)[0]
    matrix = turned_square(face.center, 4.0 * max(face.box_xywh[2:]), -degrees, 400)
    return cv2.warpAffine(bgr, matrix, (400, 400), borderMode=cv2.BORDER_REPLICATE)


def test_similarity_is_found_again() -> None:
    points = np.random.default_rng(0).uniform(0, 100, (5, 2))
    matrix = turned_square(np.array([40.0, 30.0]), 80.0, 33.0, 112)
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    assert np.allclose(fit_similarity(points, moved), matrix)


def test_similarity_uses_all_points_and_never_mirrors() -> None:
    points = np.array([[0.0, 0], [1, 0], [0.2, 0.5], [0, 1], [2, 3]])
    mirrored = points * (-1, 1)
    matrix = fit_similarity(points, mirrored)
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize("degrees", [-40.0, 0.0, 40.0])
def test_tilted_heads_are_measured_as_tilted(frame: np.ndarray, degrees: float) -> None:
    finder = FaceFinder()
    upright = finder(frame)[0].roll_deg
    found = finder(turned(frame, degrees))
    assert found
    assert found[0].roll_deg == pytest.approx(upright + degrees, abs=8)


def test_a_tilted_head_is_still_the_same_person(frame: np.ndarray) -> None:
    finder = FaceFinder()
    (recognizer, *_) = load_recognizers(model_folders())
    straight, tilted = turned(frame, 0.0), turned(frame, 40.0)
    a = recognizer(straight, finder(straight)[0])
    b = recognizer(tilted, finder(tilted)[0])
    assert float(a @ b) > 0.7


def test_an_empty_wall_is_no_face() -> None:
    assert FaceFinder()(np.full((240, 320, 3), 128, np.uint8)) == []


def test_vectors_are_of_length_one_and_zeros_stay() -> None:
    rows = unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert rows.tolist() == [[0.6, 0.8], [0.0, 0.0]]


def test_arcface_crop_puts_the_eyes_level(frame: np.ndarray) -> None:
    picture = turned(frame, 30.0)
    crop = crop_arcface(picture, FaceFinder()(picture)[0])
    wide = cv2.copyMakeBorder(crop, 60, 60, 60, 60, cv2.BORDER_REPLICATE)
    found = FaceFinder()(wide)
    assert found
    assert abs(found[0].roll_deg) < 8


def test_no_recognizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --models"):
        load_recognizers([tmp_path])


def test_models_beside_the_people_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VEILCAM_MODELS", str(tmp_path / "named"))
    people = tmp_path / "faces" / "private"
    folders = model_folders(None, people)
    assert folders[0] == tmp_path / "named"
    assert (tmp_path / "models").resolve() in folders
    assert folders[-1] == Path(str(files("veilcam.camera") / "assets"))
