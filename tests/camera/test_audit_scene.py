"""The audit's way into `scene` mode: what an attacker gets is what the product shows."""

from pathlib import Path

import numpy as np
import pytest

from veilcam.camera.audit import AuditOptions, run_audit
from veilcam.camera.audit_scene import SceneProtection
from veilcam.camera.errors import ConfigError
from veilcam.camera.generator import Generator
from veilcam.camera.manifest import load_bundle
from veilcam.camera.source import demo_clip, open_source

ASSETS = Path(__file__).parents[2] / "camera" / "assets"


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    source = open_source(str(demo_clip()))
    first = source.read()
    source.close()
    assert first is not None
    return np.asarray(first.bgr)


@pytest.fixture(scope="module")
def protection() -> SceneProtection:
    bundle = load_bundle(None, mode="scene")
    faces = load_bundle(None)
    return SceneProtection(bundle, Generator(bundle), faces, Generator(faces))


def test_the_person_is_shown_and_no_pixel_of_the_picture(
    protection: SceneProtection, frame: np.ndarray
) -> None:
    found = protection(frame)
    assert found.bgr.shape == frame.shape
    assert found.code is not None
    assert len(found.hulls) == 1
    near = np.abs(found.bgr.astype(int) - frame).max(-1) <= 2
    assert near.mean() < 0.2
    x, y = found.hulls[0].mean(0).astype(int)
    background = found.bgr[5, frame.shape[1] // 2]
    assert np.abs(found.bgr[y, x].astype(int) - background).max() > 8  # somebody stands there


def test_looks_are_drawn_anew_for_each_picture(
    protection: SceneProtection, frame: np.ndarray
) -> None:
    first, second = protection(frame), protection(frame)
    assert not np.array_equal(first.bgr, second.bgr)


def test_who_is_not_there_has_no_code(protection: SceneProtection) -> None:
    found = protection(np.full((240, 320, 3), 120, np.uint8))
    assert (found.code, found.hulls) == (None, ())


def test_a_bundle_of_another_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="'frame' cannot be audited yet"):
        run_audit(AuditOptions(bundle=ASSETS / "frame.veil"))
