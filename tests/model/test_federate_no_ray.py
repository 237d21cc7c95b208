"""The Ray engine without Ray says what to do."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="extra `federate` is not installed")

from veilcam.camera.errors import ConfigError
from veilcam.model import federate_ray
from veilcam.model.federate import Federation


def test_a_missing_ray_is_named_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        federate_ray.importlib.util, "find_spec", lambda name: None if name == "ray" else find(name)
    )
    federation = object.__new__(Federation)  # it is not looked at
    with pytest.raises(ConfigError, match=r"scripts/setup simulation, or use --engine local"):
        federate_ray.run_ray(federation, tmp_path / "people.npz", tmp_path / "public.npz")
