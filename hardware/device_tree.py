"""Puts together what the device gets beyond Debian's packages: our files, our wheel, its needs."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.resources import files
from pathlib import Path

from veilcam.camera.errors import InputError

_SITE = Path("usr/lib/veilcam")
_PARTS = ("camera", "hardware", "model", "export")
_NOT_ON_DEVICE = ("model", "export")  # training and export stay on the maker's machine
# What of the installed packages nothing on a device uses.
_LEFT_OUT = (
    "bin", "onnxruntime/transformers", "onnxruntime/quantization", "onnxruntime/tools",
    "onnxruntime/datasets", "numpy/f2py", "numpy/tests", "numpy/*/tests", "cv2/qt",
)  # fmt: skip


# Of no use on a device whose root can't be written to; each would cost a second of every start.
_MASKED = (
    "dev-hugepages.mount", "dev-mqueue.mount", "ldconfig.service",
    "proc-sys-fs-binfmt_misc.automount",
    "proc-sys-fs-binfmt_misc.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "systemd-binfmt.service", "systemd-hibernate-clear.service", "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service", "systemd-journal-flush.service",
    "systemd-pcrmachine.service", "systemd-pcrphase-sysinit.service", "systemd-pcrphase.service",
    "systemd-rfkill.socket", "systemd-tpm2-setup-early.service", "systemd-tpm2-setup.service",
    "systemd-update-done.service", "wpa_supplicant.service",
)  # fmt: skip


def device_files() -> dict[str, str]:
    """Name of each file of the folder `device` -> its place, from `places.toml`."""
    return tomllib.loads((files("veilcam.hardware.device") / "places.toml").read_text())


def make_tree(target: Path, *, project: Path, platform: tuple[str, ...]) -> None:
    """Fills the folder `target` with all of it.

    Args:
        target: Emptied first.
        project: The checkout whose wheel is installed.
        platform: Tags of wheels that run there, as pip names them.

    Raises:
        InputError: The wheel cannot be built or a locked package cannot be had.
    """
    if target.exists():
        shutil.rmtree(target)
    for name, place in device_files().items():
        path = target / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((files("veilcam.hardware.device") / name).read_bytes())
        path.chmod(0o755 if place.startswith("usr/bin/") else 0o644)
    masks = target / "etc/systemd/system"
    masks.mkdir(parents=True)
    for name in _MASKED:
        (masks / name).symlink_to("/dev/null")
    for place in ("data", "boot"):
        (target / place).mkdir(exist_ok=True)
    site = target / _SITE
    _install_locked(site, platform)
    _install_wheel(site, project)
    for pattern in _LEFT_OUT:
        for path in site.glob(pattern):
            shutil.rmtree(path)
    for path in [*site.rglob("__pycache__"), *site.glob("veilcam/[me]*")]:
        if path.name in ("__pycache__", *_NOT_ON_DEVICE):
            shutil.rmtree(path)


def lock_text() -> str:
    """Every package from the index with version and hashes."""
    return (files("veilcam.hardware.recipe") / "device.lock").read_text()


def find_project() -> Path:
    """The checkout this package runs from.

    Raises:
        InputError: It was installed from a wheel.
    """
    root = Path(str(files("veilcam.hardware"))).resolve().parent
    if not (root / "pyproject.toml").is_file():
        raise InputError("an image is built from a checkout of the project; clone it and run there")
    return root


def _install_locked(site: Path, platform: tuple[str, ...]) -> None:
    lock = site.parent / "device.lock"
    site.mkdir(parents=True)
    lock.write_text(lock_text())
    tags = [part for tag in platform for part in ("--platform", tag)]
    _pip("install", "--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile",
         "--python-version", "3.13", "--implementation", "cp", *tags, "--target", str(site),
         "-r", str(lock))  # fmt: skip
    lock.unlink()


def _install_wheel(site: Path, project: Path) -> None:
    """Our own wheel, built from a copy: setuptools leaves folders behind where it works."""
    copy = site.parent / "wheel"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in _PARTS:
        shutil.copytree(project / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(project / name, copy / name)
    _pip("wheel", "--no-deps", "-w", str(copy / "out"), ".", cwd=copy)
    (wheel,) = (copy / "out").glob("veilcam-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    shutil.rmtree(copy)


def _pip(*arguments: str, cwd: Path | None = None) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"pip {arguments[0]} failed: {lines[-1]}; check network and disk")
