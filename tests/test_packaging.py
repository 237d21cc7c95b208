"""Folders, pyproject and imports agree; the wheel holds what the tree holds."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("camera", "model", "export", "hardware")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def folders() -> dict[str, str]:
    """Every folder with sources or data under the parts, by package name."""
    found = {}
    for part in PARTS:
        for folder in [ROOT / part, *(ROOT / part).iterdir()]:
            if folder.is_dir() and folder.name not in ("__pycache__",):
                place = folder.relative_to(ROOT)
                found["veilcam." + ".".join(place.parts)] = str(place)
    return found


def test_packages_and_folders_agree() -> None:
    listed = PROJECT["tool"]["setuptools"]
    assert set(listed["packages"]) == set(listed["package-dir"])
    nested = {name for name in folders() if name.count(".") > 1}
    assert nested <= set(listed["packages"])
    for name in listed["packages"]:
        assert listed["package-dir"][name] == name.removeprefix("veilcam.").replace(".", "/")
        assert (ROOT / listed["package-dir"][name]).is_dir()


def test_camera_imports_no_training_side() -> None:
    code = (
        "import sys, veilcam.camera.loop, veilcam.camera.cli\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('jax', 'flax', 'optax', 'torch')"
        " or m.startswith(('veilcam.model', 'veilcam.export'))]\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_one_opencv_wheel_is_asked_for() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    asked = [*PROJECT["project"]["dependencies"], *(entry for extra in extras for entry in extra)]
    wheels = [entry for entry in asked if entry.startswith("opencv")]
    assert len(wheels) == 1
    assert wheels[0].startswith("opencv-python-headless")


def sources() -> list[Path]:
    return [path for part in PARTS for path in sorted((ROOT / part).glob("*.py"))]


@pytest.mark.parametrize("path", sources(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_sources_keep_the_house_rules(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    assert not re.search(r"^\s*(from|import) (camera|model|export|hardware)\b", text, re.M)
    assert "from __future__ import annotations" not in text
    if path.parent.name == "camera":
        assert not re.search(r"^\s*(from|import) (jax|flax|veilcam\.(model|export))\b", text, re.M)


@pytest.mark.slow
def test_the_wheel_holds_every_source_and_asset(tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    names = [*PARTS, "pyproject.toml", "README.md", "LICENSE"]
    copy.mkdir()
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in names), str(copy)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), "."]
    subprocess.run(command, cwd=copy, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"veilcam/{path.relative_to(ROOT)}" for path in sources()}
    assets = (ROOT / "camera" / "assets").rglob("*")
    wanted |= {f"veilcam/{path.relative_to(ROOT)}" for path in assets if path.is_file()}
    assert not wanted - packed
