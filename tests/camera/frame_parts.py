"""Small parts for tests of `frame` mode: fakes of painter and actors."""

import cv2
import numpy as np

from tests.camera.scene_parts import make_cast
from veilcam.camera.frame_loop import FrameLoop
from veilcam.camera.layout_code import LayoutEncoder
from veilcam.camera.layout_tokens import Casting
from veilcam.camera.painting import COARSE_HW, FINE_HW, NUM_COARSE, NUM_FINE, PATCH_HW
from veilcam.camera.sink import MemorySink
from veilcam.camera.source import ArraySource
from veilcam.camera.strength import Strength
from veilcam.camera.types import Patches


def paint_scene(values):
    """The fine colour maps themselves, enlarged: the most that a painter could show."""
    split = COARSE_HW[0] * COARSE_HW[1] * NUM_COARSE
    fine = values[split:].reshape(*FINE_HW, NUM_FINE)[..., :3]
    large = cv2.resize(fine, PATCH_HW[::-1], interpolation=cv2.INTER_LINEAR)
    return np.round(255 * large).astype(np.uint8)


def paint_actors(actors):
    """A flat grey figure for each actor."""
    bgra = np.zeros((192, 96, 4), np.uint8)
    bgra[20:180, 30:66] = (90, 100, 110, 255)
    return Patches(bgra=tuple(bgra.copy() for _ in actors))


def make_loop(analyse, pictures, *, strength=Strength.FAITHFUL, **parts):
    """A loop over pictures, and its sink."""
    sink = MemorySink()
    given = {
        "analyse": analyse, "encoder": LayoutEncoder(strength=strength),
        "paint_scene": paint_scene, "casting": Casting(make_cast()), "paint_actors": paint_actors,
    } | parts  # fmt: skip
    return FrameLoop(ArraySource(pictures, fps=10.0), sink, **given), sink
