"""`veilcam image build`: a bootable disk image by mkosi, from Debian 13 and our own wheel.

mkosi and all it calls come from a tools tree that mmdebstrap makes once, so that the same programs
build everywhere. Work and caches lie in one folder; the image gets its name when it is whole.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from veilcam.camera.errors import ConfigError, InputError
from veilcam.hardware.boards import Board, load_board
from veilcam.hardware.bom import debian_components, make_bom, python_components
from veilcam.hardware.device_tree import find_project, lock_text, make_tree

MAX_IMAGE_BYTES = 700_000_000
_TOOLS = (
    "mkosi", "systemd-ukify", "systemd-repart", "systemd-container", "systemd-boot",
    "systemd-boot-efi", "erofs-utils", "mtools", "dosfstools", "e2fsprogs", "cryptsetup-bin",
    "sbsigntool", "zstd", "cpio", "debian-archive-keyring", "bubblewrap", "uidmap", "kmod",
    "xz-utils",
)  # fmt: skip
_MACHINES = {"x86-64": "x86_64", "arm64": "aarch64"}  # as the kernel names them
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_SEED_SPACE = uuid.UUID("7665696c-6361-6d20-696d-616765730000")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What the command line asks for.

    Attributes:
        board: Name of a board profile.
        version: Of the image; a later one must sort after an earlier one.
        work: Folder for tools tree and caches.
        mirror: Debian's, or one like it.
        public_key: Key ring (gpg --export) whose owner may sign updates; None: no updates.
        epoch: Time that all files get, seconds since 1970.
        project: Checkout that our own wheel is made of; None: the one that this file lies in.
    """

    board: str
    version: str
    work: Path
    mirror: str = "http://deb.debian.org"
    public_key: Path | None = None
    epoch: int = 0
    project: Path | None = None


def build_image(out: Path, options: BuildOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Builds the image `out`, beside it `.sha256`, `.cdx.json` and the folder `.update`.

    Args:
        out: The image's final name.
        options: How.
        say: Gets a line for each step.

    Raises:
        ConfigError: The board has no image.
        InputError: A program is missing, or a step failed; what was there stays.
    """
    board = load_board(options.board)
    if board.system.install != "image":
        raise ConfigError(f"{board.name} has no image: {board.system.boot}; see docs/device.md")
    _check_programs(board)
    start_s = time.monotonic()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    tools = _tools_tree(work, options.mirror, say)
    say("files of the device: locked packages, our wheel")
    tree = work / "tree"
    make_tree(
        tree,
        project=options.project or find_project(),
        platform=tuple(board.system.wheel_platforms),
    )
    if options.public_key is not None:
        _add_key(tree, options.public_key)
    say("operating system: mkosi (minutes; the log is in the work folder)")
    made = _run_mkosi(work, tools, board, options)
    say("bill of materials, hashes")
    report = _finish(out, made, tree, options)
    return report | {"board": board.name, "build_s": round(time.monotonic() - start_s, 1)}


def default_work() -> Path:
    """Where tools and caches lie unless the user says so."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "veilcam" / "image"


def project_epoch(project: Path) -> int:
    """Time of the checkout's last commit: the same source gives the same image."""
    if asked := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(asked)
    command = ["git", "-C", str(project), "log", "-1", "--format=%ct"]
    done = subprocess.run(command, capture_output=True, text=True)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip() else 1_700_000_000


def _check_programs(board: Board) -> None:
    for name in ("mmdebstrap", "bwrap"):
        if shutil.which(name) is None:
            package = {"bwrap": "bubblewrap"}.get(name, name)
            raise InputError(f"{name} is missing; apt install {package} (see docs/device.md)")
    if os.geteuid() != 0:
        raise InputError("building an image needs root for its own name spaces; use sudo")
    machine = _MACHINES[board.system.architecture]
    if machine != platform.machine() and not _can_run(machine, _BINFMT):
        raise InputError(
            f"programs for {machine}, which an image for {board.name} needs while it is built, "
            "cannot be run here; apt install qemu-user-static binfmt-support (see docs/device.md)"
        )


def _can_run(machine: str, registered: Path) -> bool:
    """Whether the kernel hands that machine's programs to an emulator, in a chroot, too (F)."""
    try:
        lines = (registered / f"qemu-{machine}").read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags:")), "")
    return "enabled" in lines and "F" in flags


def _tools_tree(work: Path, mirror: str, say: Callable[[str], None]) -> Path:
    tree = work / "tools"
    if (tree / "usr/bin/mkosi").exists():
        return tree
    say("tools of Debian 13: mmdebstrap (once, about a minute)")
    temporary = work / "tools.part"
    _unmount_below(temporary)  # one that was killed leaves /proc, /sys and /dev mounted in there
    shutil.rmtree(temporary, ignore_errors=True)
    command = ["mmdebstrap", "--variant=apt", f"--include={','.join(_TOOLS)}", "trixie",
               str(temporary), f"{mirror}/debian"]  # fmt: skip
    _run(command, work / "tools.log", os.environ)
    temporary.replace(tree)
    return tree


def _unmount_below(folder: Path) -> None:
    """Nothing of this machine's own may lie in a folder that is going to be removed.

    Raises:
        InputError: A file system there cannot be unmounted.
    """
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    real = folder.resolve()  # as the kernel names it
    for place in sorted((p for p in mounted if Path(p).is_relative_to(real)), reverse=True):
        done = subprocess.run(["umount", place], capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"{place} is mounted and busy; unmount it, then try again")


def _run_mkosi(work: Path, tools: Path, board: Board, options: BuildOptions) -> Path:
    recipe = work / "recipe"
    shutil.rmtree(recipe, ignore_errors=True)
    _write_recipe(recipe, options.mirror)
    out, space = work / "out", work / "space"
    shutil.rmtree(out, ignore_errors=True)
    for folder in (out, space, work / "cache", work / "packages"):
        folder.mkdir(exist_ok=True)
    seed = uuid.uuid5(_SEED_SPACE, f"{board.name} {options.version}")
    arguments = {
        "--directory": recipe, "--tools-tree": tools, "--image-version": options.version,
        "--architecture": board.system.architecture, "--seed": seed,
        "--source-date-epoch": options.epoch, "--incremental": "yes",
        "--cache-directory": work / "cache", "--package-cache-dir": work / "packages",
        "--output-directory": out, "--workspace-directory": space, "--build-sources": "",
        "--extra-tree": work / "tree", "--package": board.system.kernel_package,
    }  # fmt: skip
    command = [sys.executable, "-m", "mkosi", "--force"]
    command += [f"{name}={value}" for name, value in arguments.items()]
    environment = os.environ | {"PYTHONPATH": str(tools / "usr/lib/python3/dist-packages")}
    _run([*command, "build"], work / "mkosi.log", environment)
    return out / f"veilcam_{options.version}.raw"


def _write_recipe(recipe: Path, mirror: str) -> None:
    """Our files under the names that mkosi looks for."""
    (recipe / "mkosi.repart").mkdir(parents=True)
    for entry in files("veilcam.hardware.recipe").iterdir():
        data = entry.read_bytes() if entry.is_file() else b""
        if entry.name == "mkosi.conf":
            (recipe / entry.name).write_bytes(data)
        elif entry.name.startswith("repart-"):
            name = entry.name.removeprefix("repart-")
            (recipe / "mkosi.repart" / name).write_bytes(data)
        elif entry.name == "postinst.sh":
            script = recipe / "mkosi.postinst.chroot"
            script.write_bytes(data)
            script.chmod(0o755)
    sources = recipe / "mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources"
    sources.parent.mkdir(parents=True)
    stanzas = (("debian", "trixie trixie-updates"), ("debian-security", "trixie-security"))
    sources.write_text(
        "\n".join(
            f"Types: deb\nURIs: {mirror}/{folder}\nSuites: {suites}\nComponents: main\n"
            "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
            for folder, suites in stanzas
        )
    )


def _add_key(tree: Path, public_key: Path) -> None:
    try:
        data = public_key.read_bytes()
    except OSError as error:
        raise InputError(f"{public_key} cannot be read ({error.strerror})") from error
    if data.startswith(b"-----BEGIN"):
        raise InputError(f"{public_key} is armored; wanted the output of `gpg --export` as it is")
    target = tree / "usr/lib/systemd/import-pubring.gpg"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def _finish(out: Path, made: Path, tree: Path, options: BuildOptions) -> dict[str, Any]:
    """Names what was made; the image itself last."""
    manifest = json.loads(made.with_suffix(".manifest").read_text())
    size = made.stat().st_size
    if size > MAX_IMAGE_BYTES:
        raise InputError(f"the image has {size} bytes, wanted at most {MAX_IMAGE_BYTES}")
    digest = _sha256(made)
    site = tree / "usr/lib/veilcam"
    components = [*debian_components(manifest), *python_components(site, lock_text())]
    text = make_bom(components, version=options.version, epoch=options.epoch, image_sha256=digest)
    try:
        update = out.with_name(f"{out.name}.update")
        _fill_update(update, made, options.version)
        out.with_name(f"{out.name}.cdx.json").write_text(text)
        out.with_name(f"{out.name}.sha256").write_text(f"{digest}  {out.name}\n")
        temporary = out.with_name(f".{out.name}.part")
        subprocess.run(["cp", "--sparse=always", str(made), str(temporary)], check=True)
        temporary.replace(out)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"{out} cannot be written ({error}); choose another -o") from error
    return {
        "image": str(out),
        "version": options.version,
        "bytes": size,
        "sha256": digest,
        "components": len(components),
        "update": str(update),
    }


def _fill_update(folder: Path, made: Path, version: str) -> None:
    """What an update server offers: kernel, root, its hash tree, and their sums (to be signed)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = [
        path
        for path in sorted(made.parent.glob(f"veilcam_{version}*"))
        if path.suffix == ".efi" or (path.suffix == ".raw" and ".root-" in path.name)
    ]
    lines = []
    for path in parts:
        subprocess.run(["cp", "--sparse=always", str(path), str(folder)], check=True)
        lines.append(f"{_sha256(path)}  {path.name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(command: list[str], log: Path, environment: Mapping[str, str]) -> None:
    """Runs a program with its output in `log`; the log's last lines are the error."""
    with log.open("w") as file:
        try:
            done = subprocess.run(command, stdout=file, stderr=file, env=dict(environment))
        except OSError as error:
            raise InputError(f"{command[0]} cannot be run ({error.strerror})") from error
    if done.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        raise InputError(f"{Path(command[0]).name} failed: {last.strip()}; all of it: {log}")
