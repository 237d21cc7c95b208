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


class Guest:
    """What the updated machine says of itself, and how it is offered an update.

    Args:
        machine: The machine.
        server: Where it looks for updates.
        said: Gives what it last said under a name.
        patience_s: The longest that anything may take.
    """

    def __init__(self, machine: Any, server: UpdateServer, said: Said, patience_s: float) -> None:
        self.machine, self.server, self.patience_s = machine, server, patience_s
        self.said = functools.partial(said, machine)

    def runs(self, version: str) -> bool:
        """Whether that is the running version."""
        return f'"{version}"' in (self.said("version") or "")

    def has(self, name: str) -> bool:
        """Whether a kernel of that name lies on the boot partition."""
        return name in (self.said("slots") or "")

    def wait_for(self, what: str, is_there: Callable[[], bool], times: float = 1) -> float:
        """As `Machine.wait_for`, with our patience."""
        wait: float = self.machine.wait_for(what, is_there, times * self.patience_s)
        return wait

    def update_to(self, version: str, update: Path) -> float:
        """Offers a version; seconds from the first byte asked for to the kernel's file."""
        self.server.is_asked.clear()
        self.server.offer(update)
        self.machine.started_s = time.monotonic()  # patience counts from here
        self.wait_for("transfer", self.server.is_asked.is_set)
        begin_s = time.monotonic()
        self.wait_for(f"update {version}", lambda: self.has(f"veilcam_{version}"))
        return time.monotonic() - begin_s

    def switch_on(self) -> None:
        """Starts it, as one that has asked for nothing yet."""
        self.server.is_asked.clear()
        self.machine.start()

    def restart(self) -> None:
        """Off and on again, as somebody who pulls the plug."""
        self.machine.cut_power()
        self.switch_on()


def make_versions(
    folder: Path, board: str, *, updates: bool, cuts: bool
) -> dict[str, Path]:  # fmt: skip
    """Folders of what is going to be offered; before the machine runs, which would slow it down."""
    names = [*([GOOD, BROKEN] if updates else []), *([NEXT] if cuts else [])]
    return {name: make_version(folder, board, name, is_broken=name == BROKEN) for name in names}


def check_updates(
    guest: Guest, versions: dict[str, Path], checks: Any, has_picture: Callable[[], bool]
) -> None:
    """A good update, then a broken one; a line each."""
    spent_s = guest.update_to(GOOD, versions[GOOD])
    time.sleep(5)
    guest.restart()
    guest.wait_for(f"version {GOOD}", lambda: guest.runs(GOOD))
    after_s = guest.wait_for("picture", has_picture)
    guest.wait_for("blessing", lambda: guest.has(f"veilcam_{GOOD}.efi"))
    checks.tell("good_update", True, update_s=round(spent_s, 1), picture_s=round(after_s, 1),
                slots=guest.said("slots"))  # fmt: skip
    guest.update_to(BROKEN, versions[BROKEN])
    time.sleep(5)
    guest.restart()
    log = guest.machine.log

    def is_back() -> bool:
        tries = log().count(f"<boot> {BROKEN} </boot>")
        return tries > 0 and log().rpartition("<boot>")[2].strip().startswith(GOOD)

    back_s = guest.wait_for("return to the good version", is_back, 2)
    guest.server.offer(None)
    guest.wait_for("picture", has_picture, 2)
    tries = log().count(f"<boot> {BROKEN} </boot>")
    checks.tell("broken_update_rolls_back", tries == 2, tries=tries, back_s=round(back_s, 1),
                slots=guest.said("slots"))  # fmt: skip


def cut_power(
    guest: Guest, versions: dict[str, Path], checks: Any, has_picture: Callable[[], bool],
    num_cuts: int,
) -> None:  # fmt: skip
    """Cuts the power at random moments of an update, over and over, of a device without a camera.

    Without one, because an emulated processor that looks for people has little left to update with.
    Each start looks at what the last cut left and goes on with the update, so that leftovers of
    several cuts meet. Once the new version runs, the disk is put back.
    """
    update, machine = versions[NEXT], guest.machine
    machine.cut_power()
    kept = machine.disk.with_suffix(".kept")
    copy_disk(machine.disk, kept)
    machine.has_camera = False
    guest.switch_on()
    transfer_s = guest.update_to(NEXT, update)
    checks.tell("whole_update", True, update_s=round(transfer_s, 1))
    machine.cut_power()
    copy_disk(kept, machine.disk)
    guest.switch_on()
    dice = random.Random(1)
    seen: dict[str, int] = {}
    for number in range(num_cuts):
        guest.wait_for("transfer", guest.server.is_asked.is_set)
        wait_s = dice.uniform(0, transfer_s)
        time.sleep(wait_s)
        guest.restart()
        start_s = guest.wait_for("start", lambda: guest.said("failed") is not None)
        version = str(guest.said("version"))
        seen[version] = seen.get(version, 0) + 1
        # a look for updates that failed is made again
        failed = set((guest.said("failed") or "").split()) - {"veilcam-update.service"}
        checks.tell(f"cut_{number}", not failed, cut_after_s=round(wait_s, 1),
                    start_s=round(start_s, 1), version=version, failed=sorted(failed),
                    slots=guest.said("slots"))  # fmt: skip
        if guest.runs(NEXT):
            machine.cut_power()
            copy_disk(kept, machine.disk)
            guest.switch_on()
    machine.cut_power()
    machine.has_camera = True
    guest.switch_on()
    picture_s = guest.wait_for("picture", has_picture, 2)
    checks.tell("power_cuts", True, cuts=num_cuts, versions=seen, picture_s=round(picture_s, 1))


def copy_disk(disk: Path, to: Path) -> None:
    """Copies a disk with its holes."""
    subprocess.run(["cp", "--sparse=always", str(disk), str(to)], check=True)
