"""Pose, placement and expression come back from a mesh that was posed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilcam.camera import head_model
from veilcam.camera.expression import REST, ExpressionScale

pitches = st.floats(-25, 25, allow_subnormal=False)
angles = st.floats(-45, 45, allow_subnormal=False)


@given(yaw=angles, pitch=pitches, roll=angles, scale=st.floats(5, 200))
def test_fit_pose_inverts_a_similarity(yaw: float, pitch: float, roll: float, scale: float) -> None:
    rotation = head_model.rotation_matrix(yaw, pitch, roll)
    mesh = head_model.reference_mesh() @ rotation.T * scale + np.array([320.0, 240.0, 0.0])
    pose = head_model.fit_pose(mesh.astype(np.float32))
    assert pose.yaw_deg == pytest.approx(yaw, abs=0.1)
    assert pose.pitch_deg == pytest.approx(pitch, abs=0.1)
    assert pose.roll_deg == pytest.approx(roll, abs=0.1)
    assert pose.scale == pytest.approx(scale, rel=1e-3)
    np.testing.assert_allclose(pose.center_xy, (320, 240), atol=0.05 * scale)
    np.testing.assert_allclose(pose.canonical, head_model.reference_mesh(), atol=1e-2)


def test_positive_yaw_moves_the_nose_to_the_right_and_positive_pitch_up() -> None:
    reference = head_model.reference_mesh()
    right = reference @ head_model.rotation_matrix(20.0, 0.0, 0.0).T
    up = reference @ head_model.rotation_matrix(0.0, 20.0, 0.0).T
    assert right[1, 0] > reference[1, 0]
    assert up[1, 1] < reference[1, 1]


def test_patch_holds_the_whole_face() -> None:
    mesh = head_model.reference_mesh() * 40 + np.array([300, 200, 0], np.float32)
    center, side = head_model.patch_placement(head_model.fit_pose(mesh))
    assert np.abs(mesh[:, :2] - center).max() < side / 2


def test_an_open_mouth_is_measured() -> None:
    mesh = head_model.reference_mesh().copy()
    before = head_model.measure_expression(mesh)["mouth_open"]
    mesh[14, 1] += 0.2
    assert head_model.measure_expression(mesh)["mouth_open"] > before + 0.1


def test_what_is_a_persons_own_does_not_reach_the_code() -> None:
    narrow, wide = ExpressionScale(), ExpressionScale()
    for _ in range(300):
        a = narrow(REST | {"mouth_wide": 0.75, "brow": 0.33})
        b = wide(REST | {"mouth_wide": 0.95, "brow": 0.43})
    assert a["mouth_wide"] == pytest.approx(b["mouth_wide"], abs=0.02)
    assert a["brow"] == pytest.approx(b["brow"], abs=0.02)


def test_a_blink_of_narrow_eyes_shuts_the_average_eye() -> None:
    scale = ExpressionScale()
    for _ in range(60):
        opened = scale(REST | {"eyelid_left": 0.10})
    shut = scale(REST | {"eyelid_left": 0.068})
    assert opened["eyelid_left"] > 0.12
    assert shut["eyelid_left"] < 0.02
