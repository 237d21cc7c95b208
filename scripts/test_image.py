"""Starts an image in QEMU as a user would, and looks from outside at what comes out.

    ./scripts/test-image --folder /tmp/image            # builds first
    ./scripts/test-image --image veilcam.img            # takes one that is there
    ./scripts/test-image --board arm64-uefi              # the same for 64-bit Arm
    ./scripts/test-image --updates --cuts 20            # a good update, a broken one, power cuts

The guest's camera is vivid, the kernel's test driver, whose colour bars are set moving: nothing of
them may be in `scene` mode's pictures, and the same search must find them in `face` mode's, where
they pass by design (no head is in them). One JSON line a check; exit 1 where one failed.
"""

import argparse
import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import av
import cv2
import numpy as np

from veilcam.hardware.boards import load_board
from veilcam.hardware.build import BuildOptions, build_image, project_epoch
from veilcam.hardware.customize import customize
from veilcam.hardware.device_tree import find_project
from veilcam.hardware.flash_command import flash
from veilcam.hardware.settings import Secrets

sys.path.insert(0, str(Path(__file__).parent))
from image_updates import (
    UPDATE_UNITS,
    Guest,
    UpdateServer,
    check_updates,
    cut_power,
    make_key,
    make_versions,
    settings_of,
)

PASSWORD = "four short words here"
DISK_BYTES = 2 << 30
FOUND = 0.8  # likeness to the bars from which they count as found
STREAM_PASSWORD = "four other words here"
TCP_PORTS, UDP_PORTS = {"80", "8554"}, {"68", "546", "5353"}
# An emulated machine that shares its host may take minutes for what takes seconds.
PATIENT = "[Service]\nTimeoutStartSec=1h\nWatchdogSec=0\nEnvironment=VEILCAM_PATIENCE=100\n"
# An emulated processor needs seconds to paint what the driver would give thirty times a second.
PATIENT_HEALTH = "[Service]\nTimeoutStartSec=1h\n"
NAME = "veiltest"
SETTINGS = {"name": NAME, "mode": "face", "size": "320x180", "fps": "2", "rtsp": "true"}
# Bars that run: a long mean over them is one grey, so whoever shows bars shows a live picture.
MOVE = """[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -c "import fcntl,struct;\
fcntl.ioctl(open('/dev/video0','rb+',0),0xc008561c,struct.pack('Ii',0xf0f002,1))"
[Unit]
After=systemd-modules-load.service
Before=veilcam.service
ConditionPathExists=/dev/video0
"""
# The line is opened each time: the login that comes to it hangs up on whoever holds it.
LOOK = """[Unit]
After=veilcam-setup.service
[Service]
ExecStart=/bin/sh -c 'while sleep 20; do { \
echo "<ports>" $$(ss -lntuH | tr -s " " | cut -d" " -f1,5 | tr " \\n" "=,") "</ports>"; \
echo "<net>" $$(tail -n +3 /proc/$$(systemctl show -P MainPID veilcam)/net/dev | \
cut -d: -f1) "</net>"; \
echo "<version>" $$(grep IMAGE_VERSION /etc/os-release) "</version>"; \
echo "<slots>" $$(ls /efi/EFI/Linux /boot/EFI/Linux 2>&1 | tr "\\n" ",") "</slots>"; \
echo "<update>" $$(systemctl show -P Result veilcam-update) "</update>"; \
echo "<failed>" $$(systemctl --failed --plain --no-legend | cut -d" " -f1) "</failed>"; \
echo "<status>" $$(systemctl show -P StatusText veilcam) "</status>"; \
echo "<blame>" $$(systemd-analyze blame | head -8 | tr "\\n" ",") "</blame>"; \
echo "<journal>" $$(journalctl -u "veilcam*" -n 6 -o cat | tr "\\n" "|") "</journal>"; \
echo "<space>" $$(systemd-analyze time | head -1) "</space>"; } >/dev/@LINE@; done'
"""


def load_machine() -> ModuleType:
    """`tests/hardware/machine.py`, which is no package."""
    path = find_project() / "tests" / "hardware" / "machine.py"
    spec = spec_from_file_location("veilcam_machine", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bars_likeness(bgr: np.ndarray) -> float:
    """How much a picture looks like colour bars at any shift: 1 for bars, about 0 for none.

    Args:
        bgr: uint8 (h, w, 3).
    """
    height = bgr.shape[0]
    band = bgr[height // 2 : height * 9 // 10].mean(0, keepdims=True).astype(np.float32)
    row = cv2.resize(band, (64, 1), interpolation=cv2.INTER_AREA)[0]
    bars = [(1, 1, 1), (0, 1, 1), (1, 1, 0), (0, 1, 0), (1, 0, 1), (0, 0, 1), (1, 0, 0), (0, 0, 0)]
    template = np.repeat(np.array(bars, np.float32), 8, axis=0)
    row, template = row - row.mean(0), template - template.mean(0)
    scale = float(np.linalg.norm(row) * np.linalg.norm(template))
    if scale < 1e-3:
        return 0.0
    return max(float((np.roll(template, shift, 0) * row).sum()) / scale for shift in range(64))


def snapshot(machine: Any) -> np.ndarray | None:
    """The device's newest picture."""
    status, body = machine.get("/snapshot.jpg", PASSWORD)
    return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR) if status == 200 else None


def choose_mode(machine: Any, mode: str) -> int:
    """What a user does on the page: logs in and picks a mode; the answer's status."""
    base = ("127.0.0.1", machine.web_port)
    origin = {"Origin": f"http://{NAME}.local", "Content-Type": "application/json",
              "Host": f"{NAME}.local"}  # fmt: skip
    connection = http.client.HTTPConnection(*base, timeout=60)
    connection.request("POST", "/api/login", json.dumps({"password": PASSWORD}), origin)
    answer = connection.getresponse()
    value = json.loads(answer.read())
    cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
    headers = origin | {"Cookie": cookie, "X-CSRF-Token": value.get("csrf", "")}
    body = json.dumps({"mode": mode, "strength": "balanced", "prompt": ""})
    connection.request("POST", "/api/settings", body, headers)
    return connection.getresponse().status


def said(machine: Any, name: str) -> str | None:
    """What the guest last said between <name> and </name> on its serial line."""
    parts = machine.log().rpartition(f"<{name}>")[2].partition(f"</{name}>")
    return parts[0].strip() if parts[1] else None


class Checks:
    """Tells each result at once and remembers whether one failed."""

    def __init__(self) -> None:
        self.num_failed = 0

    def tell(self, name: str, is_good: bool, **values: Any) -> None:
        """One JSON line."""
        self.num_failed += not is_good
        sys.stdout.write(json.dumps({"check": name, "ok": is_good} | values) + "\n")
        sys.stdout.flush()


def make_image(folder: Path, board: str, image: Path | None, checks: Checks) -> Path:
    """Builds an image, or takes one, and sets it up in a copy."""
    if image is None:
        image = folder / "veilcam.img"
        options = BuildOptions(
            board=board, version="1.0.0", work=folder / "work",
            epoch=project_epoch(find_project()), public_key=make_key(folder),
        )  # fmt: skip
        report = build_image(image, options, lambda text: sys.stderr.write(f"{text}\n") and None)
        checks.tell("build", True, **report)
    return image


def make_disk(folder: Path, image: Path, settings: dict[str, str], checks: Checks) -> Path:
    """A disk as `veilcam flash` writes it, with settings of `veilcam image customize`."""
    disk = folder / "disk.raw"
    quiet = lambda _what, _done, _total: None  # noqa: E731
    report = flash(image, disk, serial=None, is_sure=True, progress=quiet, ask=str)
    with disk.open("r+b") as file:
        file.truncate(DISK_BYTES)
    secrets = Secrets(password=PASSWORD, stream_password=STREAM_PASSWORD)
    customize(disk, settings_file=None, assignments=settings, secrets=secrets)
    checks.tell("flash", report["verified"], sha256=report["sha256"])
    return disk


def watch(machine: Any, seconds: float) -> tuple[int, int, list[float]]:
    """Snapshots, distinct ones among them, and likeness of each to the bars."""
    seen: set[bytes] = set()
    likeness: list[float] = []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        picture = snapshot(machine)
        if picture is not None:
            seen.add(picture.tobytes())
            likeness.append(round(bars_likeness(picture), 3))
        time.sleep(0.5)
    return len(likeness), len(seen), likeness


def rtsp_address(machine: Any, password: str) -> str:
    """Of the device's stream, with a login."""
    return f"rtsp://veilcam:{quote(password)}@127.0.0.1:{machine.web_port + 1}/veilcam"


def check_rtsp(machine: Any, checks: Checks, *, is_scene: bool) -> None:
    """H.264 pictures by three readers of their own; bars in them in `face` mode alone."""
    address = rtsp_address(machine, STREAM_PASSWORD)
    pictures = []
    try:
        with av.open(address, options={"rtsp_transport": "tcp"}, timeout=120) as container:
            for frame in container.decode(video=0):
                pictures.append(frame.to_ndarray(format="bgr24"))
                if len(pictures) == 8:
                    break
    except av.error.FFmpegError as error:
        checks.tell("rtsp", False, error=str(error))
        return
    likeness = [round(bars_likeness(picture), 3) for picture in pictures]
    found = sum(value >= FOUND for value in likeness)
    is_good = found == 0 if is_scene else found > 0
    name = "rtsp_in_scene_mode" if is_scene else "rtsp_in_face_mode"
    checks.tell(name, is_good, pictures=len(pictures), bars_found=found, likeness=likeness)
    if is_scene:
        return
    try:
        av.open(rtsp_address(machine, "wrong password"), timeout=60).close()
    except av.error.FFmpegError as error:
        checks.tell(
            "rtsp_refuses_a_wrong_password", isinstance(error, av.error.HTTPUnauthorizedError)
        )
    else:
        checks.tell("rtsp_refuses_a_wrong_password", False)
    probe = ["ffprobe", "-v", "error", "-rtsp_transport", "tcp", "-of", "json", "-show_entries",
             "stream=codec_name,profile,width,height", address]  # fmt: skip
    play = ["gst-launch-1.0", "-q", "rtspsrc", f"location={address}", "!", "rtph264depay", "!",
            "h264parse", "!", "avdec_h264", "!", "fakesink", "num-buffers=4"]  # fmt: skip
    for command in (probe, play):
        if shutil.which(command[0]) is None:
            checks.tell(command[0], False, error="not installed: apt install ffmpeg "
                        "gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad "
                        "gstreamer1.0-libav")  # fmt: skip
            continue
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        checks.tell(command[0], done.returncode == 0, said=" ".join(done.stdout.split())[:300],
                    error=done.stderr[-300:])  # fmt: skip


def has_picture(machine: Any) -> bool:
    """True where the device shows more than a blank."""
    picture = snapshot(machine)
    return picture is not None and float(picture.std()) > 10


def check_camera(machine: Any, checks: Checks, patience_s: float) -> None:
    """Frames flow; bars in `face` mode (the control), none in `scene` mode."""
    first_s = machine.wait_for("first picture", lambda: has_picture(machine), patience_s)
    checks.tell("first_picture", True, after_s=round(first_s, 1))
    num, distinct, likeness = watch(machine, 30)
    checks.tell("pictures_flow", distinct >= 3, pictures=num, distinct=distinct)
    found = sum(value >= FOUND for value in likeness)
    checks.tell("control_bars_found_in_face_mode", found > 0, likeness=likeness[-5:])
    check_rtsp(machine, checks, is_scene=False)
    status = choose_mode(machine, "scene")
    checks.tell("scene_mode_chosen", status == 202, status=status)
    if status != 202:
        return
    time.sleep(20)  # a new capture process starts
    check_rtsp(machine, checks, is_scene=True)
    num, distinct, likeness = watch(machine, 60)
    leaks = sum(value >= FOUND for value in likeness)
    checks.tell("no_bars_in_scene_mode", num > 0 and leaks == 0, pictures=num, leaks=leaks,
                highest=max(likeness, default=None))  # fmt: skip


def check_system(machine: Any, checks: Checks) -> None:
    """Password, ports, the camera's own network, failed units."""
    checks.tell("no_picture_without_password", machine.get("/snapshot.jpg")[0] == 401)
    checks.tell("no_picture_with_a_wrong_one", machine.get("/snapshot.jpg", "wrong" * 3)[0] == 401)
    machine.wait_for("look", lambda: said(machine, "space") is not None, 900)
    entries = [entry for entry in (said(machine, "ports") or "").split(",") if "=" in entry]
    tcp = {entry.rpartition(":")[2] for entry in entries if entry.startswith("tcp")}
    udp = {entry.rpartition(":")[2] for entry in entries if entry.startswith("udp")}
    checks.tell("ports", tcp == TCP_PORTS and udp <= UDP_PORTS, tcp=sorted(tcp), udp=sorted(udp))
    checks.tell("camera_has_no_network", said(machine, "net") == "lo", network=said(machine, "net"))
    # where it is to look for updates, none is offered yet, and that is no success
    failed = set((said(machine, "failed") or "").split()) - {"veilcam-update.service"}
    checks.tell("no_failed_units", not failed, failed=sorted(failed))
    names = ("version", "space", "blame", "status")
    checks.tell("start", True, **{name: said(machine, name) for name in names})


def main() -> int:
    """Runs the checks; exit code 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("/tmp/veilcam-image"))
    parser.add_argument("--image", type=Path, help="Take this one instead of building.")
    parser.add_argument("--board", default="x86-64-uefi", help="Whose image; see `image boards`.")
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument(
        "--patience", type=float, default=1500, help="Seconds to the first picture."
    )
    parser.add_argument("--disk", type=Path, help="Go on with this one: updates alone.")
    parser.add_argument("--updates", action="store_true", help="Try updates, too (an hour).")
    parser.add_argument("--cuts", type=int, default=0, help="Power cuts in an update (an hour).")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # so that no machine is left running
    checks = Checks()
    machines = load_machine()
    kind = machines.KINDS[load_board(arguments.board).system.architecture]
    is_updated = arguments.updates or arguments.cuts
    settings = SETTINGS | (settings_of(arguments.port + 2) if is_updated else {})
    disk = arguments.disk
    if disk is None:
        image = make_image(arguments.folder, arguments.board, arguments.image, checks)
        disk = make_disk(arguments.folder, image, settings, checks)
    versions = make_versions(
        arguments.folder, arguments.board, updates=arguments.updates, cuts=arguments.cuts > 0
    )
    kernel = ("systemd.default_device_timeout_sec=1800 systemd.default_timeout_start_sec=1800 "
              "systemd.wants=look.service systemd.wants=move.service")  # fmt: skip
    units = {"look.service": LOOK, "move.service": MOVE}
    if is_updated:
        units |= UPDATE_UNITS
        kernel += "".join(f" systemd.wants={name}" for name in UPDATE_UNITS)
    units = {name: text.replace("@LINE@", kind.serial) for name, text in units.items()}
    machine = machines.Machine(
        arguments.folder, disk, web_port=arguments.port, kind=kind, kernel=kernel, units=units,
        changes={"veilcam.service": PATIENT, "veilcam-health.service": PATIENT_HEALTH},
    )  # fmt: skip
    with machine, UpdateServer(arguments.folder, arguments.port + 2) as server:
        try:
            if arguments.disk is None:
                check_camera(machine, checks, arguments.patience)
                check_system(machine, checks)
            guest = Guest(machine, server, said, arguments.patience)
            rest = (versions, checks, lambda: has_picture(machine))
            if arguments.updates:
                check_updates(guest, *rest)
            if arguments.cuts:
                cut_power(guest, *rest, arguments.cuts)
        except machines.MachineError as error:
            checks.tell("machine", False, error=str(error))
    return 1 if checks.num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
