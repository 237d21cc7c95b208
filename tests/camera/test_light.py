import numpy as np
import pytest

from veilcam.camera.light import (
    DEFAULT_SKIN_BGR,
    SKIN_STEP,
    SkinColour,
    measure_skin,
    measure_skin_coarse,
    square_means,
)
from veilcam.camera.shading import measure_light

SIZE_HW = (200, 240)
LANDMARKS = np.array([[90.0, 80], [150, 80], [120, 110], [95, 140], [145, 140]])


def flat(colour):
    return np.full((*SIZE_HW, 3), colour, np.uint8)


def mesh(offset=(0.0, 0.0)):
    """468 points on an ellipse-shaped grid around the middle of the picture."""
    angle = np.linspace(0, 40, 468)
    radius = np.linspace(5, 60, 468)
    points = np.stack([120 + radius * np.cos(angle), 100 + radius * np.sin(angle), 0 * angle], 1)
    points[:, :2] += offset
    return points.astype(np.float32)


def test_a_flat_picture_gives_its_colour():
    colour = (90, 120, 180)
    np.testing.assert_allclose(measure_skin(flat(colour), mesh()[:, :2].astype(float)), colour)
    np.testing.assert_allclose(measure_skin_coarse(flat(colour), LANDMARKS), colour)


@pytest.mark.parametrize("offset", [(1000.0, 0.0), (0.0, -1000.0)])
def test_a_face_outside_has_no_colour_and_no_light(offset):
    outside = mesh(offset)
    assert measure_skin(flat(50), outside[:, :2].astype(float)) is None
    assert measure_skin_coarse(flat(50), LANDMARKS + offset) is None
    assert measure_light(flat(50), outside) == (0.0, 0.0)


def test_squares_are_means_of_their_own_pixels():
    bgr = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), np.uint8)
    points = np.array([[50.7, 60.2], [120.0, 100.0], [230.9, 190.0]])
    means = square_means(bgr, points, 3)
    for (x, y), mean in zip(np.floor(points).astype(int), means, strict=True):
        square = bgr[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3)
        assert np.abs(mean - square.mean(0)).max() <= 0.51


def test_squares_at_the_edge_stay_in_the_picture():
    corners = np.array([[0.0, 0.0], [239.0, 199.0]])
    np.testing.assert_allclose(square_means(flat(77), corners, 9), 77)


def test_light_from_the_right_and_from_above_is_positive():
    bgr = flat(60)
    points = mesh()
    for x, y in points[[280, 425, 330, 411, 151, 108, 337, 9], :2].astype(int):
        bgr[y - 6 : y + 7, x - 6 : x + 7] = 180
    light_x, light_y = measure_light(bgr, points)
    assert light_x > 0.3
    assert light_y > 0.3


def test_no_measurement_leaves_the_default_colour():
    colour = SkinColour()
    colour.add(None)
    assert colour.bgr == DEFAULT_SKIN_BGR


def test_the_colour_is_always_the_middle_of_a_level():
    random = np.random.default_rng(1)
    colour = SkinColour()
    for _ in range(50):
        colour.add(random.uniform(0, 255, 3))
        assert all((v - SKIN_STEP / 2) % SKIN_STEP == 0 for v in colour.bgr)
        assert all(4 <= v <= 252 for v in colour.bgr)


def test_noise_around_the_edge_of_a_level_does_not_flicker():
    random = np.random.default_rng(2)
    colour = SkinColour()
    seen = set()
    for _ in range(300):
        colour.add(np.full(3, 104.0) + random.normal(0, 3, 3))
        seen.add(colour.bgr)
    assert len(seen) == 1


def test_a_clear_change_is_followed():
    colour = SkinColour()
    for level in [60.0] * 5 + [160.0] * 120:
        colour.add(np.full(3, level))
    assert all(abs(v - 160) <= SKIN_STEP for v in colour.bgr)
