"""Small parts for tests of `scene` mode: a cast, a body, fakes of the two models."""

import numpy as np

from veilcam.camera.actor_code import (
    GARMENT,
    NUM_STATIC,
    PATCH_HW,
    POINTS,
    Cast,
    neutral_values,
)
from veilcam.camera.people import PeopleAnalyser, Proof
from veilcam.camera.scene_types import People, Person
from veilcam.camera.types import Patches

FACING = np.zeros((52, 2), np.float32)
FACING[-1, 0] = 1.0  # everybody faces the camera
PROOF = Proof(np.full((40, 60, 3), 99, np.uint8), (20.0, 5.0, 10.0, 30.0))


def make_cast(count=20, seed=0):
    random = np.random.default_rng(seed)
    statics = np.zeros((count, NUM_STATIC), np.float32)
    statics[:, :12] = random.uniform(0.05, 0.9, (count, 12))
    start = GARMENT.start - (57 - 4)
    statics[:, start : start + 8] = np.eye(8)[random.integers(0, 8, count)]
    return Cast(latents=random.standard_normal((count, 32)).astype(np.float32), statics=statics)


def body(box, *, score=0.8):
    """Key points of somebody who stands upright in a box, as the pose model gives them."""
    x, y, width, height = box
    points = neutral_values()[POINTS].reshape(17, 2)
    low, high = points.min(0), points.max(0)
    place = (points - low) / (high - low) * (width * 0.9, height * 0.9)
    place += (x + 0.05 * width, y + 0.06 * height)
    return np.column_stack([place, np.full(17, score)]).astype(np.float32)


def person(track_id=0, box=(30.0, 10.0, 20.0, 60.0), colours=None, **changes):
    colours = np.full((4, 3), 100, np.float32) if colours is None else colours
    values = {
        "track_id": track_id, "box_xywh": box, "points": body(box), "facing_deg": 10.0,
        "colours_bgr": colours, "is_predicted": False,
    } | changes  # fmt: skip
    return Person(**values)


def people(*persons, size_hw=(96, 128), is_alive=True):
    hidden = tuple(p.box_xywh for p in persons)
    return People(size_hw=size_hw, people=persons, hidden=hidden, is_alive=is_alive)


def paint(codes):
    """A flat grey figure for each actor."""
    bgra = np.zeros((*PATCH_HW, 4), np.uint8)
    bgra[20:180, 30:66] = (90, 100, 110, 255)
    return Patches(bgra=tuple(bgra.copy() for _ in codes.actors))


class FakeDetect:
    """Says what it is told; `is_blind` finds nobody anywhere, not even in the proof."""

    def __init__(self, found=(), *, is_blind=False):
        self.found, self.is_blind, self.calls = found, is_blind, 0

    def __call__(self, bgr):
        self.calls += 1
        if self.is_blind:
            return ()
        if bgr is PROOF.bgr:
            return ((PROOF.box_xywh, 0.9),)
        return self.found(self.calls) if callable(self.found) else self.found


def fake_pose(_bgr, box):
    return body(box)


def make_analyser(detect, pose=fake_pose, proof=PROOF):
    return PeopleAnalyser(FACING, proof=proof, detect=detect, pose=pose)
