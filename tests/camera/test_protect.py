"""`veilcam.camera.protect`: one picture in, its safe twin out, or a blank."""

import doctest
import inspect
import subprocess
import sys

import cv2
import numpy as np
import pytest
from jaxtyping import UInt8

import veilcam.camera
from veilcam.camera import album_faces, pictures
from veilcam.camera.clip import ClipSource
from veilcam.camera.errors import ConfigError, InputError
from veilcam.camera.manifest import load_bundle
from veilcam.camera.source import demo_clip

Picture = UInt8[np.ndarray, "h w 3"]


def demo_picture() -> Picture:
    """First picture of the demo clip: one person, face at about (290, 80) to (357, 171)."""
    source = ClipSource(demo_clip())
    frame = source.read()
    source.close()
    assert frame is not None
    return frame.bgr


HEAD = slice(85, 165), slice(295, 350)


def likeness(original: Picture, other: Picture, place: tuple[slice, slice] = HEAD) -> float:
    """How well the fine detail of a region of the original is found anywhere in another picture."""
    detail = []
    for picture in (original, other):
        smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.8)
        detail.append(smooth - cv2.GaussianBlur(smooth, (0, 0), 1.6))
    template = np.ascontiguousarray(detail[0][place])
    score = cv2.matchTemplate(detail[1], template, cv2.TM_CCOEFF_NORMED)
    return float(np.nan_to_num(score).max())


@pytest.fixture(scope="module")
def protector() -> pictures.StillProtector:
    return pictures.StillProtector(load_bundle())


@pytest.mark.parametrize("strength", ["strict", "balanced", "faithful"])
def test_a_head_is_replaced_and_the_rest_stays(strength: str) -> None:
    protector = pictures.StillProtector(load_bundle(), strength=pictures.to_strength(strength))
    raw = demo_picture()
    safe = protector(raw)
    assert safe.reason == ""
    assert protector.heads_replaced >= 1
    assert likeness(raw, safe.bgr) < 0.6
    coded = cv2.imdecode(cv2.imencode(".jpg", raw, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 1)
    assert likeness(raw, np.asarray(coded, np.uint8)) > 0.7  # the matcher does find a leak
    assert np.array_equal(raw[400:, :100], safe.bgr[400:, :100])


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_heads_that_lie_are_replaced(protector: pictures.StillProtector, turn: int) -> None:
    raw = demo_picture()
    safe = protector(np.ascontiguousarray(np.rot90(raw, turn)))
    assert safe.reason == ""
    assert likeness(raw, np.ascontiguousarray(np.rot90(safe.bgr, -turn))) < 0.6


def test_small_heads_of_a_large_picture_are_replaced(protector: pictures.StillProtector) -> None:
    small = cv2.resize(demo_picture(), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    raw = np.full((1500, 2000, 3), 90, np.uint8)
    raw[1200 : 1200 + small.shape[0], 1500 : 1500 + small.shape[1]] = small
    place = slice(1243, 1282), slice(1648, 1674)
    safe = protector(raw)
    assert safe.reason == ""
    assert protector.heads_replaced == 1
    change = np.abs(safe.bgr[place].astype(int) - raw[place]).max(-1)
    assert np.mean(change <= 2) < 0.1  # a stand-in of this size has the same coarse pattern


def test_each_call_draws_another_person(protector: pictures.StillProtector) -> None:
    raw = demo_picture()
    assert not np.array_equal(protector(raw).bgr, protector(raw).bgr)


def test_too_many_heads_blank_the_picture(protector: pictures.StillProtector,
                                          monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(album_faces, "MAX_FACES", 1)
    safe = protector(demo_picture())
    assert "some may be missed" in safe.reason
    assert len(np.unique(safe.bgr)) == 1


@pytest.mark.parametrize("part", ["_finder", "_analyser", "_generator"])
def test_a_fault_gives_a_blank(part: str) -> None:
    class Faulty(album_faces.StillAnalyser):
        def __init__(self) -> None:
            self.late, self.frame_skin = frozenset(), {}

        def take(self, *_: object, **__: object) -> None:
            """No face."""

        def begin(self, *_: object) -> None:  # type: ignore[override]
            raise ValueError("broken")

        def __call__(self, *_: object) -> None:  # type: ignore[override]
            raise ValueError("broken")

    broken = pictures.StillProtector(load_bundle())
    setattr(broken, part, Faulty())
    safe = broken(demo_picture())
    assert "failed: ValueError" in safe.reason
    assert len(np.unique(safe.bgr)) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((64, 64), np.uint8), "wanted a uint8 array"),
        (np.zeros((64, 64, 3), np.float32), "float32"),
        (np.zeros((64, 64, 4), np.uint8), "4 channels"),
        (np.zeros((8, 64, 3), np.uint8), "wanted sides of 16"),
    ],
)
def test_what_is_no_picture_is_refused(value: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        inspect.unwrap(pictures._check)(value)  # without the shape checks that tests add


def test_unknown_modes_and_strengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="wanted face"):
        veilcam.camera.protect(np.zeros((64, 64, 3), np.uint8), mode="scene")
    with pytest.raises(ConfigError, match="wanted strict, balanced, faithful"):
        veilcam.camera.protect(np.zeros((64, 64, 3), np.uint8), strength="weak")


def test_the_documented_examples_hold() -> None:
    for module in (pictures, album_faces):
        assert doctest.testmod(module, optionflags=doctest.IGNORE_EXCEPTION_DETAIL).failed == 0
    assert callable(veilcam.camera.protect)


def test_importing_the_package_loads_no_model() -> None:
    code = (
        "import sys, veilcam.camera\n"
        "bad = {'numpy', 'cv2', 'onnxruntime', 'av'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
