import numpy as np
import pytest

from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.repaint import SAME_STEPS, Repainter
from veilcam.camera.types import Codes, HeadCode, Patches

STEPS = np.array([field.step for field in HEAD_FIELDS], np.float32)


def head(track_id=0, *, values=None, latent=0.0, x=10.0):
    return HeadCode(
        track_id=track_id,
        levels=(0,) * len(HEAD_FIELDS),
        values=np.zeros(len(HEAD_FIELDS), np.float32) if values is None else values,
        latent=np.full(4, latent, np.float32),
        center_xy=(x, 10.0),
        size_px=20.0,
        roll_deg=0.0,
        skin_bgr=(120.0, 140.0, 180.0),
        hull_xy=np.array([[0.0, 0], [5, 0], [5, 5]]),
    )


class Painter:
    """Paints each head in a colour of its own call."""

    def __init__(self):
        self.calls = []

    def __call__(self, codes):
        self.calls.append([h.track_id for h in codes.heads])
        colour = 10 * len(self.calls) % 250
        return Patches(bgra=tuple(np.full((8, 8, 4), colour, np.uint8) for _ in codes.heads))


def paint(repainter, *heads):
    patches = repainter(Codes(size_hw=(40, 40), heads=heads))
    return [int(bgra[0, 0, 0]) for bgra in patches.bgra]


def test_a_code_that_stays_is_painted_once_wherever_the_head_is():
    painter = Painter()
    repainter = Repainter(painter)
    assert paint(repainter, head()) == paint(repainter, head(x=30.0)) == [10]
    assert painter.calls == [[0]]
    assert (repainter.num_painted, repainter.num_kept) == (1, 1)


@pytest.mark.parametrize("field", range(len(HEAD_FIELDS)))
def test_a_field_that_moves_is_painted_again(field):
    repainter = Repainter(Painter())
    values = np.zeros(len(HEAD_FIELDS), np.float32)
    assert paint(repainter, head()) == [10]
    values[field] = 0.5 * SAME_STEPS * STEPS[field]
    assert paint(repainter, head(values=values.copy())) == [10]
    values[field] = 1.5 * SAME_STEPS * STEPS[field]
    assert paint(repainter, head(values=values.copy())) == [20]


def test_slow_changes_add_up():
    repainter = Repainter(Painter())
    shown = [paint(repainter, head(values=np.float32(0.06 * i) * STEPS))[0] for i in range(5)]
    assert shown == [10, 10, 20, 20, 30]


def test_another_latent_is_another_person():
    repainter = Repainter(Painter())
    assert paint(repainter, head(latent=0.0), head(1)) == [10, 10]
    assert paint(repainter, head(latent=1.0), head(1)) == [20, 10]


def test_values_that_are_not_finite_reach_the_generator():
    painter = Painter()
    repainter = Repainter(painter)
    broken = np.full(len(HEAD_FIELDS), np.nan, np.float32)
    paint(repainter, head())
    paint(repainter, head(values=broken))
    paint(repainter, head(values=broken))
    assert painter.calls == [[0]] * 3


def test_only_some_patches_are_kept():
    painter = Painter()
    repainter = Repainter(painter)
    for track_id in range(40):
        paint(repainter, head(track_id))
    paint(repainter, head(39), head(0))
    assert painter.calls[-1] == [0]


def test_more_heads_than_are_kept_are_all_painted():
    assert len(paint(Repainter(Painter()), *[head(i) for i in range(40)])) == 40


def test_a_generator_that_paints_too_few_is_refused():
    with pytest.raises(ValueError, match="zip"):
        paint(Repainter(lambda _codes: Patches(bgra=())), head())
