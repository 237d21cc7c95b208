import numpy as np
import pytest

from veilcam.camera.changes import CELL_PX, ChangeMap, cells_of

SIZE_HW = (270, 480)


def picture(level=100):
    return np.full((*SIZE_HW, 3), level, np.uint8)


def searched(level=100):
    changes = ChangeMap(SIZE_HW)
    changes.update(picture(level))
    changes.mark_searched((0.0, 0.0, 480.0, 270.0))
    return changes


def test_the_first_picture_is_a_cut_and_differs_everywhere():
    changes = ChangeMap(SIZE_HW)
    changes.update(picture())
    assert changes.is_cut
    assert changes.cells.all()
    assert changes.cells.shape == (17, 30)


def test_a_still_picture_has_no_change_and_no_region():
    changes = searched()
    changes.update(picture())
    assert not changes.is_cut
    assert not changes.cells.any()
    assert changes.region() is None


def test_sensor_noise_is_no_change():
    random = np.random.default_rng(0)
    changes = ChangeMap(SIZE_HW)
    for _ in range(2):
        noise = random.normal(0, 5, (*SIZE_HW, 3))
        changes.update(np.clip(picture() + noise, 0, 255).astype(np.uint8))
        cells = changes.cells
        changes.mark_searched((0.0, 0.0, 480.0, 270.0))
    assert not cells.any()


@pytest.mark.parametrize("corner", [(0, 0), (470, 260), (200, 100), (472, 0)])
def test_a_small_bright_thing_changes_its_cells_only(corner):
    changes = searched()
    bgr = picture()
    x, y = corner
    bgr[y : y + 8, x : x + 8] = 160
    changes.update(bgr)
    assert changes.has_changed((float(x), float(y), x + 8.0, y + 8.0))
    assert changes.cells.sum() <= 4
    left, top, right, bottom = changes.region()
    assert left <= x
    assert top <= y
    assert right >= min(x + 8, 480)
    assert bottom >= min(y + 8, 270)


def test_a_slow_change_adds_up_until_it_is_searched():
    changes = searched(100)
    for level in range(101, 108):
        changes.update(picture(level))
        assert not changes.cells.any()
    changes.update(picture(109))
    assert changes.cells.all()
    assert not changes.is_cut
    changes.mark_searched((0.0, 0.0, 480.0, 270.0))
    changes.update(picture(109))
    assert not changes.cells.any()


def test_only_what_was_searched_becomes_the_reference():
    changes = searched()
    changes.update(picture(115))
    changes.mark_searched((0.0, 0.0, 240.0, 270.0))
    changes.update(picture(115))
    assert not changes.cells[:, :15].any()
    assert changes.cells[:, 15:].all()


def test_another_scene_is_a_cut():
    changes = searched(60)
    changes.update(picture(140))
    assert changes.is_cut


@pytest.mark.parametrize(
    ("box", "num_cells"),
    [
        ((0.0, 0.0, 1.0, 1.0), 1),
        ((15.0, 15.0, 17.0, 17.0), 4),
        ((-50.0, -50.0, -10.0, -10.0), 0),
        ((900.0, 900.0, 950.0, 950.0), 0),
        ((-50.0, 0.0, 1000.0, float(CELL_PX)), 30),
    ],
)
def test_cells_of_a_box(box, num_cells):
    assert np.ones((17, 30))[cells_of(box, (17, 30))].size == num_cells
