import numpy as np
import pytest

from veilcam.camera.tiles import TileTurns

TILE_WH, FINE_WH, COARSE_WH = (320, 270), (960, 540), (480, 270)
CORNERS = [(x, y) for y in (0, 270) for x in (0, 320, 640)]


def turns():
    made = TileTurns(CORNERS, TILE_WH, FINE_WH)
    assert made.take([], is_cut=True) == CORNERS
    return made


def cells(*places: tuple[int, int]) -> np.ndarray:
    changed = np.zeros((17, 30), bool)
    for row, column in places:
        changed[row, column] = True
    return changed


def test_without_tiles_nothing_is_searched():
    assert TileTurns([], TILE_WH, FINE_WH).take([(10.0, 10.0)], is_cut=True) == []


def test_after_a_later_cut_all_tiles_come_within_two_frames():
    made = turns()
    first = made.take([], is_cut=True)
    second = made.take([], is_cut=False)
    assert len(first) == 4
    assert sorted(first + second) == sorted(CORNERS)


def test_a_quiet_picture_is_walked_over_slowly_but_wholly():
    made = turns()
    taken = [made.take([], is_cut=False) for _ in range(4 * len(CORNERS))]
    assert sum(map(len, taken)) == len(CORNERS)
    assert {corner for tiles in taken for corner in tiles} == set(CORNERS)


def test_changed_tiles_are_next_and_then_quiet_again():
    made = turns()
    made.mark(cells((16, 29)), [], COARSE_WH)
    assert made.take([], is_cut=False) == [(640, 270)]
    assert made.take([], is_cut=False) == []


@pytest.mark.parametrize("num_changed", [1, 2, 4, 6])
def test_changed_tiles_are_searched_within_as_many_frames_as_there_are_tiles(num_changed):
    made = turns()
    places = [(0, 0), (0, 15), (0, 29), (16, 0), (16, 15), (16, 29)][:num_changed]
    made.mark(cells(*places), [], COARSE_WH)
    taken = [corner for _ in range(len(CORNERS) + 1) for corner in made.take([], is_cut=False)]
    wanted = {CORNERS[3 * (row > 0) + (column + 2) // 15] for row, column in places}
    assert wanted <= set(taken)


def test_what_changes_in_a_hidden_box_is_no_reason_to_look():
    made = turns()
    made.mark(cells((2, 2)), [(16.0, 16.0, 80.0, 80.0)], COARSE_WH)
    assert made.take([], is_cut=False) == []
    made.mark(cells((2, 2)), [(40.0, 40.0, 80.0, 80.0)], COARSE_WH)
    assert made.take([], is_cut=False) == []  # not this turn
    assert made.take([], is_cut=False) == [(0, 0)]


@pytest.mark.parametrize("place", [(0.0, 0.0), (959.0, 539.0), (400.0, 300.0), (-50.0, 2000.0)])
def test_a_place_of_doubt_gets_a_tile_in_every_other_frame(place):
    made = turns()
    taken = [made.take([place], is_cut=False) for _ in range(4)]
    x, y = np.clip(place, 0, (960, 540))
    for tiles in taken[1::2]:
        ((left, top),) = tiles
        assert max(0, x - 320) <= left <= min(x, 640)
        assert max(0, y - 270) <= top <= min(y, 270)
