"""Profiles of boards are whole, and a wrong one is refused."""

import pytest

from veilcam.camera.errors import ConfigError
from veilcam.hardware.boards import board_names, load_board, parse_board
from veilcam.hardware.device_tree import device_files, lock_text

GOOD = """
title = "T"
status = "not run"
untested = ["all"]
[system]
install = "image"
architecture = "arm64"
kernel_package = "linux"
boot = "UEFI"
wheel_platforms = ["manylinux_2_28_aarch64"]
[camera]
stack = "V4L2"
cameras = "USB"
[inference]
execution_providers = ["CPUExecutionProvider"]
precision = "int8"
threads = 2
[limits]
memory_mb = 1024
disk_mb = 1024
thermal = "none"
"""


@pytest.mark.parametrize("name", board_names())
def test_every_profile_is_whole_and_says_what_was_not_run(name: str) -> None:
    board = load_board(name)
    assert board.title
    assert board.untested
    tags = " ".join(board.system.wheel_platforms)
    assert {"x86-64": "x86_64", "arm64": "aarch64"}[board.system.architecture] in tags


def test_the_boards_of_the_design_are_there() -> None:
    assert {"x86-64-uefi", "arm64-uefi", "rpi5", "jetson-orin"} <= set(board_names())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "T"', "", "title is missing"),
        ('title = "T"', 'title = "T"\ncolour = "red"', "unknown colour"),
        ("threads = 2", 'threads = "2"', "threads is '2'"),
        ("threads = 2", "threads = 0", "threads must be"),
        ("threads = 2", "threads = true", "threads is True"),
        ('"int8"', '"int4"', "precision is 'int4'"),
        ('"arm64"', '"riscv"', "architecture is 'riscv'"),
        ('"image"', '"tape"', "install is 'tape'"),
        ('["CPUExecutionProvider"]', '["CPU"]', "not all names"),
        ('["all"]', "[]", "untested is"),
        ("memory_mb = 1024", "memory_mb = 1", "memory_mb must"),
        ("[camera]", "[kamera]", "camera"),
        ("[camera]", "[camera", "table declaration"),
    ],
)
def test_a_wrong_profile_is_refused(old: str, new: str, message: str) -> None:
    assert parse_board("good", GOOD).system.architecture == "arm64"
    with pytest.raises(ConfigError, match=message):
        parse_board("bad", GOOD.replace(old, new))


def test_an_unknown_board_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="known: arm64-uefi"):
        load_board("toaster")


def test_every_file_of_the_device_has_a_place_and_every_place_a_file() -> None:
    from importlib.resources import files

    there = {entry.name for entry in files("veilcam.hardware.device").iterdir()}
    assert there - {"__init__.py", "places.toml", "__pycache__"} == set(device_files())


def test_the_lock_holds_what_the_camera_and_its_page_need_and_nothing_of_training() -> None:
    text = lock_text()
    names = {line.split("==")[0] for line in text.splitlines() if "==" in line}
    wanted = {"numpy", "onnxruntime", "opencv-python-headless", "av", "click", "jaxtyping",
              "starlette", "uvicorn", "argon2-cffi", "pillow"}  # fmt: skip
    assert wanted <= names
    assert not names & {"jax", "jaxlib", "flax", "opencv-python", "torch", "pip", "setuptools"}
    for entry in text.replace("\\\n", " ").splitlines():
        assert not entry.strip() or entry.startswith("#") or "--hash=sha256:" in entry, entry
