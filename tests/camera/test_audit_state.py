"""An audit that was interrupted goes on from numbers that are its own, and leaves none behind."""

from pathlib import Path

import numpy as np
import pytest

from veilcam.camera.audit_faces import FaceFinder
from veilcam.camera.audit_people import Picture
from veilcam.camera.audit_protect import Protected
from veilcam.camera.audit_shots import Instruments, Shot, load_mesh, measure
from veilcam.camera.audit_state import AuditState
from veilcam.camera.errors import ConfigError

WHAT = {"bundle": "ab", "strength": "strict"}


def a_shot() -> Shot:
    random = np.random.default_rng(0)
    return Shot(
        "somebody", 1,
        vectors={("veilcam", "one"): random.random(8).astype(np.float32),
                 ("original", "pixels"): random.random(3).astype(np.float32)},
        code=random.random(5).astype(np.float32), features={"original": random.random(4)},
        look={"veilcam": {"yaw": 1.5}}, traits={"sex": 0.2}, num_faces={"veilcam": 1},
    )  # fmt: skip


def test_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    AuditState(tmp_path / "s", WHAT).put("somebody", 1, a_shot(), is_learning=True)
    state = AuditState(tmp_path / "s", WHAT)
    is_known, shot = state.get("somebody", 1, is_learning=True)
    assert is_known
    assert shot is not None
    wanted = a_shot()
    for key, vector in wanted.vectors.items():
        assert np.array_equal(shot.vectors[key], vector)
    assert np.array_equal(shot.code, wanted.code)
    assert np.array_equal(shot.features["original"], wanted.features["original"])
    assert (shot.planted, shot.look, shot.traits) == (None, wanted.look, wanted.traits)
    assert state.get("somebody", 1, is_learning=False) == (False, None)
    assert state.get("somebody", 2, is_learning=True) == (False, None)


def test_names_are_not_in_file_names_and_the_folder_is_for_its_owner(tmp_path: Path) -> None:
    AuditState(tmp_path / "s", WHAT).put("somebody", 1, a_shot(), is_learning=True)
    assert not [path for path in (tmp_path / "s").iterdir() if "somebody" in path.name]
    assert (tmp_path / "s").stat().st_mode & 0o077 == 0


def test_another_audit_and_other_folders_are_refused(tmp_path: Path) -> None:
    AuditState(tmp_path / "s", WHAT)
    with pytest.raises(ConfigError, match="another bundle, strength or people"):
        AuditState(tmp_path / "s", WHAT | {"strength": "balanced"})
    with pytest.raises(ConfigError, match="no state of an audit"):
        AuditState(tmp_path, WHAT)


def test_a_picture_without_a_face_is_not_looked_at_again(tmp_path: Path) -> None:
    reads = []

    def read() -> np.ndarray:
        reads.append(1)
        return np.zeros((64, 64, 3), np.uint8)

    def protect(_bgr: np.ndarray) -> Protected:
        raise AssertionError("nobody is there to be protected")

    tools = Instruments(
        protection=protect, finder=FaceFinder(), recognizers=(), mesh=load_mesh(), guess=None,
        features=None,
    )  # fmt: skip
    pictures = [Picture("a", 0, read), Picture("b", 0, read)]
    for _ in range(2):
        state = AuditState(tmp_path / "s", WHAT)
        assert not measure(pictures, tools, is_learning=True, tick=list, state=state)
    assert len(reads) == 2
    state.remove()
    assert not (tmp_path / "s").exists()
