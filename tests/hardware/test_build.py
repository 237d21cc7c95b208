"""Building an image: what is refused, what mkosi is told, and the bill of materials."""

import configparser
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from veilcam.camera.errors import ConfigError, InputError
from veilcam.hardware import build
from veilcam.hardware.bom import debian_components, make_bom, python_components
from veilcam.hardware.build import BuildOptions, build_image
from veilcam.hardware.device_tree import device_files, find_project

LOCK = (
    "click==8.1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nh11==0.16.0 --hash=sha256:cc\n"
)


def say(_text: str) -> None:
    """Nobody listens."""


def options(tmp_path: Path, board: str = "x86-64-uefi") -> BuildOptions:
    return BuildOptions(board=board, version="1.0.0", work=tmp_path / "work")


@pytest.mark.parametrize(
    ("board", "message"),
    [("toaster", "unknown board"), ("rpi5", "has no image"), ("jetson-orin", "has no image")],
)  # fmt: skip
def test_a_board_without_an_image_is_refused(tmp_path: Path, board: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_image(tmp_path / "x.img", options(tmp_path, board), say)
    assert not list(tmp_path.iterdir())


def test_a_missing_program_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "bwrap" else name)
    with pytest.raises(InputError, match="bwrap is missing; apt install bubblewrap"):
        build_image(tmp_path / "x.img", options(tmp_path), say)


@pytest.mark.parametrize(
    ("registered", "can_run"),
    [("", False), ("disabled\ninterpreter /x\nflags: PF\n", False),
     ("enabled\ninterpreter /x\nflags: P\n", False),
     ("enabled\ninterpreter /x\nflags: PF\n", True)],
)  # fmt: skip
def test_another_machines_programs_need_an_emulator_that_is_there_in_a_chroot(
    tmp_path: Path, registered: str, can_run: bool
) -> None:
    if registered:
        (tmp_path / "qemu-aarch64").write_text(registered)
    assert build._can_run("aarch64", tmp_path) is can_run


def test_a_missing_emulator_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_BINFMT", tmp_path)
    monkeypatch.setattr(shutil, "which", str)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(InputError, match=r"aarch64.*apt install qemu-user-static binfmt-support"):
        build_image(tmp_path / "x.img", options(tmp_path, "arm64-uefi"), say)


def test_a_failing_step_says_its_last_line_and_where_the_log_is(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo working; echo no space left >&2; exit 1"]
    with pytest.raises(InputError, match=r"sh failed: no space left; all of it: .*step\.log"):
        build._run(command, tmp_path / "step.log", {"PATH": "/usr/bin:/bin"})


def test_the_recipe_is_laid_out_as_mkosi_wants_it(tmp_path: Path) -> None:
    build._write_recipe(tmp_path / "recipe", "http://mirror.example")
    found = {str(p.relative_to(tmp_path / "recipe")) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {
        "mkosi.conf", "mkosi.postinst.chroot", "mkosi.repart/00-esp.conf",
        "mkosi.repart/10-root.conf", "mkosi.repart/11-root-verity.conf",
        "mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources",
    }  # fmt: skip
    sources = (tmp_path / "recipe/mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources").read_text()
    assert sources.count("http://mirror.example/debian") == 2
    assert "trixie-security" in sources


def slot(place: str, name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(find_project() / "hardware" / place / name)
    return dict(parser["Partition"])


@pytest.mark.parametrize(
    ("flashed", "other"),
    [("10-root", "30-root-b"), ("11-root-verity", "31-root-b-verity")],
)
def test_both_slots_have_one_size(flashed: str, other: str) -> None:
    first, second = slot("recipe", f"repart-{flashed}.conf"), slot("device", f"repart-{other}.conf")
    for key in ("Type", "SizeMinBytes", "SizeMaxBytes"):
        assert first[key] == second[key]
    assert second["Label"] == "_empty", "what an update may overwrite"


def test_units_of_the_device_are_well_formed() -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    folder = find_project() / "hardware" / "device"
    for name in (
        "veilcam.service",
        "veilcam-web.service",
        "veilcam-rtsp.service",
        "veilcam-light.service",
    ):
        done = subprocess.run(
            [tool, "security", "--offline=true", "--threshold=15", str(folder / name)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-500:] + done.stderr
        assert "ignoring" not in done.stderr, done.stderr


def test_what_sees_raw_pictures_has_no_way_to_the_network() -> None:
    text = (find_project() / "hardware/device/veilcam.service").read_text()
    lines = set(text.splitlines())
    assert {"PrivateNetwork=yes", "IPAddressDeny=any", "IPAddressAllow=localhost"} <= lines
    assert {"CapabilityBoundingSet=", "NoNewPrivileges=yes", "ProtectSystem=strict"} <= lines
    writable = [line for line in lines if line.startswith(("ReadWritePaths", "StateDirectory"))]
    assert writable == [], "nothing of it may be kept"


def test_what_is_enabled_exists() -> None:
    preset = (find_project() / "hardware/device/00-veilcam.preset").read_text()
    assert preset.rstrip().endswith("disable *")
    ours = {name for name in device_files() if name.endswith((".service", ".socket", ".timer"))}
    assert {"veilcam.service", "veilcam-setup.service", "veilcam-health.service"} <= ours


def test_the_bill_lists_what_is_installed_with_its_hashes(tmp_path: Path) -> None:
    info = tmp_path / "Click-8.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Name: Click\nVersion: 8.1.0\nLicense-Expression: BSD-3-Clause\n"
    )
    manifest = {"packages": [
        {"type": "deb", "name": "libc6", "version": "2.41-12", "architecture": "amd64"},
        {"type": "rpm", "name": "no", "version": "1"},
    ]}  # fmt: skip
    parts = [*python_components(tmp_path, LOCK), *debian_components(manifest)]
    text = make_bom(parts, version="1.0.0", epoch=0, image_sha256="ab" * 32)
    assert text == make_bom(reversed(parts), version="1.0.0", epoch=0, image_sha256="ab" * 32)
    bom = json.loads(text)
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    purls = [entry["purl"] for entry in bom["components"]]
    assert purls == ["pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13",
                     "pkg:pypi/click@8.1.0"]  # fmt: skip
    assert bom["components"][1]["properties"][0]["value"] == "aa, bb"
    assert bom["components"][1]["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert bom["metadata"]["component"]["hashes"][0]["content"] == "ab" * 32


def test_update_files_are_listed_with_their_sums(tmp_path: Path) -> None:
    (made := tmp_path / "out").mkdir()
    names = ("veilcam_1.0.0.efi", "veilcam_1.0.0.root-x86-64.0123.raw", "veilcam_1.0.0.esp.raw",
             "veilcam_1.0.0.root-x86-64-verity.4567.raw", "veilcam_1.0.0.raw")  # fmt: skip
    for name in names:
        (made / name).write_text(name)
    build._fill_update(tmp_path / "update", made / "veilcam_1.0.0.raw", "1.0.0")
    listed = (tmp_path / "update/SHA256SUMS").read_text()
    assert [line.split()[1] for line in listed.splitlines()] == sorted(
        name for name in names if ".esp." not in name and name != "veilcam_1.0.0.raw"
    )
    check = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "update")
    assert check.returncode == 0


def test_no_partition_but_the_last_grows_on_the_device() -> None:
    names = sorted(name for name in device_files() if name.startswith("repart-"))
    for name in names[:-1]:
        sizes = slot("device", name)
        assert sizes["SizeMinBytes"] == sizes["SizeMaxBytes"]
    assert slot("device", names[-1])["Label"] == "veilcam-data"
    for flashed, there in (("00-esp", "10-esp"), ("10-root", "20-root-a"),
                           ("11-root-verity", "21-root-a-verity")):  # fmt: skip
        first, second = (
            slot("recipe", f"repart-{flashed}.conf"), slot("device", f"repart-{there}.conf")
        )  # fmt: skip
        assert first["SizeMaxBytes"] == second["SizeMaxBytes"]


def test_what_a_killed_build_left_mounted_is_unmounted_before_it_is_removed(tmp_path: Path) -> None:
    place = tmp_path / "tools.part" / "sys"
    place.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("nothing can be mounted here")
    (place / "ours").touch()
    (tmp_path / "link").symlink_to(tmp_path)  # a work folder may be reached by another name
    build._unmount_below(tmp_path / "link" / "tools.part")
    assert not place.is_mount()
    assert list(place.iterdir()) == []  # what was mounted there was not touched
