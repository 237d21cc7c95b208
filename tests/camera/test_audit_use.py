import numpy as np
import pytest

from veilcam.camera.audit_shots import COPY, ORIGINAL, OURS, VIEWS, Shot
from veilcam.camera.audit_use import kid, utility_rows, variety_row

LOOK = ("landmark_error", "yaw", "pitch", "roll", "mouth_open", "mouth_wide", "smile", "brow",
        "eyelids")  # fmt: skip


def shots(num: int = 60) -> list[Shot]:
    random = np.random.default_rng(0)
    found = []
    for index in range(num):
        shot = Shot(f"p{index}", 0)
        look = {name: float(random.standard_normal()) for name in LOOK} | {"landmark_error": 0.0}
        for view in VIEWS:
            shot.num_faces[view] = 1 if view != "solid" else 0
            shot.features[view] = random.random(16) + (view == "solid")
            if view != "solid":
                shot.look[view] = dict(look)
        shot.look[OURS]["yaw"] += 5.0
        found.append(shot)
    return found


def test_rows_tell_kept_from_lost() -> None:
    rows = {(r["metric"], r["protection"]): r for r in utility_rows(shots())}
    assert rows["detection_recall", OURS]["value"] == 1.0
    assert rows["detection_recall", "solid"]["value"] == 0.0
    assert rows["yaw_error", OURS]["value"] == pytest.approx(5.0)
    assert rows["smile_correlation", COPY]["value"] == pytest.approx(1.0)
    assert rows["kid", "solid"]["value"] > rows["kid", OURS]["high"]
    assert ("yaw_error", "solid") not in rows


def test_kid_of_one_distribution_is_about_zero_and_of_two_is_not() -> None:
    random = np.random.default_rng(0)
    a, b = random.random((300, 32)), random.random((300, 32))
    assert abs(kid(a, b)) < 0.01
    assert kid(a, b + 1.0) > 1.0


def test_stand_ins_of_one_face_are_not_told_apart() -> None:
    random, alike, unlike = np.random.default_rng(0), [], []
    for index in range(20):
        for group, vector in ((alike, np.eye(8)[0]), (unlike, random.standard_normal(8))):
            unit = (vector / np.linalg.norm(vector)).astype(np.float32)
            group.append(Shot(f"p{index}", 0, {(OURS, "one"): unit, (ORIGINAL, "one"): unit}))
    same, other = variety_row(alike, "one", 0.9), variety_row(unlike, "one", 0.9)
    assert same is not None
    assert other is not None
    assert same["value"] == 0.0
    assert other["value"] > 0.95
