"""The commands as a user types them: exit codes, one JSON object, clear errors."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from veilcam.camera.cli import call


@pytest.fixture
def image(tmp_path: Path) -> Path:
    data = bytearray(hashlib.shake_128(b"image").digest(70_000))
    data[510:512] = b"\x55\xaa"
    (path := tmp_path / "veilcam.img").write_bytes(data)
    return path


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


@pytest.mark.parametrize("command", [["flash"], ["image", "flash"]])
def test_flash_writes_and_verifies(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    card = tmp_path / "card"
    assert call([*command, str(image), str(card), "--yes", "--json"]) == 0
    report = result(capsys)
    assert report["verified"]
    assert report["bytes"] == 70_000
    assert card.read_bytes() == image.read_bytes()
    assert call(["image", "verify", str(image), str(card), "--json"]) == 0
    assert result(capsys)["verified"]
    card.write_bytes(card.read_bytes()[:-1] + b"\0\0")
    assert call(["image", "verify", str(image), str(card), "--json"]) == 2
    assert "differs from the image" in result(capsys)["error"]


def test_bad_input_ends_with_two_and_one_line(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ["flash", str(tmp_path / "none.img"), str(tmp_path / "card"), "--yes"],
        ["flash", str(image), "/dev/null", "--yes"],
        ["flash", str(image), str(tmp_path), "--yes"],
        ["image", "verify", str(image)],
        ["image", "customize", str(image), "--set", "name"],
        ["image", "build", "--board", "toaster", "-o", str(tmp_path / "x.img")],
    ):
        assert call(arguments) == 2, arguments
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.strip().splitlines()) == 1, said.err
    assert {path.name for path in tmp_path.iterdir()} == {"veilcam.img"}


def test_disks_and_boards_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["image", "boards", "--json"]) == 0
    assert result(capsys)["rpi5"]["untested"]
    code = call(["image", "list", "--json"])
    value = result(capsys)
    assert (code == 0 and all("because" in disk for disk in value["disks"])) or "lsblk" in value[
        "error"
    ]


def test_every_command_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["flash"], ["image"], *(["image", name] for name in (
        "build", "boards", "customize", "flash", "list", "verify"))):  # fmt: skip
        assert call([*command, "--help"]) == 0
        assert "Examples:" in capsys.readouterr().out
