"""Updates of a started image: a good one, a broken one, and power cuts in the middle of one.

Versions are built from this checkout; the broken one from a copy whose capture process fails.
The guest asks a web server of this machine over and over, as its timer would once a day.
"""

import functools
import http.server
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from veilcam.hardware.build import BuildOptions, build_image, project_epoch
from veilcam.hardware.device_tree import find_project

HOST = "10.0.2.2"  # this machine, as QEMU's guest sees it
GOOD, BROKEN, NEXT = "1.0.1", "1.0.2", "1.0.3"
# The build's own check imports it all and would find a file that cannot be read.
_BREAK = """

def run_capture(*_: object) -> None:
    raise RuntimeError("broken on purpose")
"""
UPDATE_UNITS = {
    "fetch.service": """[Unit]
After=veilcam-setup.service network.target
[Service]
ExecStart=/bin/sh -c 'while test -e /dev/video0 && sleep 60 || sleep 5; do \
systemctl start veilcam-update.service; done'
""",
    # Which version starts, told early: a broken one is gone before anything else could tell.
    "tell.service": """[Unit]
DefaultDependencies=no
After=sysinit.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c '. /etc/os-release; echo "<boot> $$IMAGE_VERSION </boot>" >/dev/@LINE@'
""",
}
Said = Callable[[Any, str], str | None]


def settings_of(port: int) -> dict[str, str]:
    """The device's setting: where its updates lie."""
    return {"update_url": f"http://{HOST}:{port}/"}


def make_key(folder: Path) -> Path:
    """A key of the test's own; its public half as the image wants it."""
    home = folder / "gpg"
    home.mkdir(mode=0o700, exist_ok=True)
    public = folder / "updates.gpg"
    if not public.exists():
        _gpg(home, "--quick-gen-key", "test@veilcam.invalid", "default", "default", "never")
        public.write_bytes(_gpg(home, "--export"))
    return public


def _gpg(home: Path, *arguments: str) -> bytes:
    command = ["gpg", "--batch", "--yes", "--passphrase", "", "--homedir", str(home), *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


def make_version(folder: Path, board: str, version: str, *, is_broken: bool = False) -> Path:
    """Folder of signed update files of a version."""
    project = find_project()
    if is_broken:
        copy = folder / "broken"
        shutil.rmtree(copy, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", str(project), str(copy)], check=True)
        with (copy / "camera" / "capture.py").open("a") as file:
            file.write(_BREAK)
        project = copy
    image = folder / f"veilcam-{version}.img"
    update = image.with_name(f"{image.name}.update")
    if not (update / "SHA256SUMS.gpg").exists():
        options = BuildOptions(
            board=board, version=version, work=folder / "work", project=project,
            epoch=project_epoch(find_project()), public_key=make_key(folder),
        )  # fmt: skip
        build_image(image, options, lambda _text: None)
        sums = update / "SHA256SUMS"
        _gpg(folder / "gpg", "--output", f"{sums}.gpg", "--detach-sign", str(sums))
    return update


class UpdateServer:
    """Serves one version at a time to the guest; use it as a context.

    `is_asked` is set once a slot's contents are asked for.

    Args:
        folder: Gets a link to what is served.
        port: Of this machine.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.is_asked = threading.Event()
        self._root = folder / "served"
        self._root.mkdir(exist_ok=True)
        handler = functools.partial(_Quiet, self.is_asked, directory=str(self._root))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "UpdateServer":
        """Starts it, with nothing to offer."""
        self.offer(None)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self._server.shutdown()

    def offer(self, update: Path | None) -> None:
        """From now on this version's files are there, and no others."""
        for entry in self._root.iterdir():
            entry.unlink()
        names = sorted(update.iterdir(), key=lambda p: p.name.startswith("SHA")) if update else []
        for path in names:
            os.link(path, self._root / path.name)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def __init__(self, is_asked: threading.Event, *arguments: Any, **options: Any) -> None:
        self._is_asked = is_asked
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        """Notes that a slot's contents are asked for: from here on an update writes."""
        if self.path.endswith(".raw"):
            self._is_asked.set()
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def check_updates(
    machine: Any, server: UpdateServer, folder: Path, board: str, checks: Any, said: Said,
    has_picture: Callable[[], bool], num_cuts: int, patience_s: float,
) -> None:  # fmt: skip
    """Good, broken, power cuts; one line each."""
    versions = {name: make_version(folder, board, name) for name in (GOOD, NEXT)}
    versions[BROKEN] = make_version(folder, board, BROKEN, is_broken=True)

    def runs(version: str) -> Callable[[], bool]:
        return lambda: f'"{version}"' in (said(machine, "version") or "")

    def lies_there(name: str) -> Callable[[], bool]:
        return lambda: name in (said(machine, "slots") or "")

    def update_to(version: str) -> float:
        server.is_asked.clear()
        server.offer(versions[version])
        machine.started_s = time.monotonic()  # patience counts from here
        machine.wait_for("transfer", server.is_asked.is_set, patience_s)
        begin_s = time.monotonic()
        machine.wait_for(f"update {version}", lies_there(f"veilcam_{version}"), patience_s)
        return time.monotonic() - begin_s

    spent_s = update_to(GOOD)
    restart(machine)
    machine.wait_for(f"version {GOOD}", runs(GOOD), patience_s)
    after_s = machine.wait_for("picture", has_picture, patience_s)
    machine.wait_for("blessing", lies_there(f"veilcam_{GOOD}.efi"), patience_s)
    checks.tell("good_update", True, update_s=round(spent_s, 1), picture_s=round(after_s, 1),
                slots=said(machine, "slots"))  # fmt: skip
    update_to(BROKEN)
    restart(machine)

    def is_back() -> bool:
        tries = machine.log().count(f"<boot> {BROKEN} </boot>")
        return tries > 0 and machine.log().rpartition("<boot>")[2].strip().startswith(GOOD)

    back_s = machine.wait_for("return to the good version", is_back, 2 * patience_s)
    server.offer(None)
    machine.wait_for("picture", has_picture, 2 * patience_s)
    tries = machine.log().count(f"<boot> {BROKEN} </boot>")
    checks.tell("broken_update_rolls_back", tries == 2, tries=tries, back_s=round(back_s, 1),
                slots=said(machine, "slots"))  # fmt: skip
    cut_power_in(machine, server, versions[NEXT], checks, said, has_picture, num_cuts, spent_s,
                 patience_s)  # fmt: skip


def restart(machine: Any) -> None:
    """Off and on again, as somebody who pulls the plug."""
    time.sleep(5)
    machine.cut_power()
    machine.start()


def cut_power_in(
    machine: Any, server: UpdateServer, update: Path, checks: Any, said: Said,
    has_picture: Callable[[], bool], num_cuts: int, transfer_s: float, patience_s: float,
) -> None:  # fmt: skip
    """Cuts the power at random moments of an update, over and over, of a device without a camera.

    Without one, because an emulated processor that looks for people has little left to update with.
    Each start looks at what the last cut left and goes on with the update, so that leftovers of
    several cuts meet. Once the new version runs, the disk is put back.
    """
    if not num_cuts:
        return
    machine.cut_power()
    kept = machine.disk.with_suffix(".kept")
    copy_disk(machine.disk, kept)
    dice = random.Random(1)
    seen: dict[str, int] = {}
    server.offer(update)
    server.is_asked.clear()
    machine.has_camera = False
    machine.start()
    for number in range(num_cuts):
        machine.wait_for("transfer", server.is_asked.is_set, patience_s)
        wait_s = dice.uniform(0, transfer_s)
        time.sleep(wait_s)
        machine.cut_power()
        server.is_asked.clear()
        machine.start()
        start_s = machine.wait_for("start", lambda: said(machine, "failed") is not None, patience_s)
        version, failed = said(machine, "version"), said(machine, "failed")
        seen[str(version)] = seen.get(str(version), 0) + 1
        failed = " ".join(set(failed.split()) - {"veilcam-update.service"})  # it is tried again
        checks.tell(f"cut_{number}", failed == "", cut_after_s=round(wait_s, 1),
                    start_s=round(start_s, 1), version=version, failed=failed,
                    slots=said(machine, "slots"))  # fmt: skip
        if NEXT in str(version):
            machine.cut_power()
            copy_disk(kept, machine.disk)
            server.is_asked.clear()
            machine.start()
    machine.cut_power()
    machine.has_camera = True
    machine.start()
    picture_s = machine.wait_for("picture", has_picture, 2 * patience_s)
    checks.tell("power_cuts", True, cuts=num_cuts, versions=seen, picture_s=round(picture_s, 1))


def copy_disk(disk: Path, to: Path) -> None:
    """Copies a disk with its holes."""
    subprocess.run(["cp", "--sparse=always", str(disk), str(to)], check=True)
