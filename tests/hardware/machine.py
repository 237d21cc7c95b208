"""A PC in QEMU that starts an image as a user's would: UEFI, a disk, a camera (vivid), a network.

Always software emulation (TCG): a /dev/kvm that opens may still be unusable. Used by
`scripts/test-image`, not by the suite.
"""

import base64
import http.client
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What differs between kinds of machines: QEMU's own words, firmware and serial line."""

    command: tuple[str, ...]
    firmware: Path
    variables: Path
    serial: str
    kernel: str = ""


KINDS = {
    "x86-64": Kind(
        command=("qemu-system-x86_64", "-machine", "q35", "-cpu", "max"),
        firmware=Path("/usr/share/OVMF/OVMF_CODE_4M.fd"),
        variables=Path("/usr/share/OVMF/OVMF_VARS_4M.fd"),
        serial="ttyS0",
        kernel="no_timer_check",
    ),
    # pointers signed as the architecture says would take most of an emulator's time
    "arm64": Kind(
        command=("qemu-system-aarch64", "-machine", "virt", "-cpu", "max,pauth-impdef=on"),
        firmware=Path("/usr/share/AAVMF/AAVMF_CODE.fd"),
        variables=Path("/usr/share/AAVMF/AAVMF_VARS.fd"),
        serial="ttyAMA0",
    ),
}
_CAMERA = "modules_load=vivid vivid.n_devs=1 vivid.node_types=0x1"
_POLL_S = 2.0


class MachineError(Exception):
    """The machine did not do what was waited for."""


class Machine:
    """One virtual PC; use it as a context, so that it never outlives the test.

    Attributes:
        has_camera: Whether one is plugged in at the next start.

    Args:
        folder: For its variables and logs.
        disk: Disk image, written to.
        web_port: Port of this machine that leads to its port 80; the next leads to RTSP's.
        kind: Of `KINDS`.
        kernel: Further kernel arguments.
        units: Further systemd units, name -> text, handed over by the firmware (SMBIOS).
        changes: The same for what is changed in units that are there.
        memory_mb: Its memory.
    """

    def __init__(
        self, folder: Path, disk: Path, *, web_port: int, kind: Kind = KINDS["x86-64"],
        kernel: str = "", units: dict[str, str] | None = None,
        changes: dict[str, str] | None = None, memory_mb: int = 2048,
    ) -> None:  # fmt: skip
        self.folder, self.disk, self.web_port = folder, disk, web_port
        self.serial = folder / "serial.log"
        # A device speaks on the console that comes last, its screen; here on the serial line.
        self._kernel = f"console={kind.serial} {kind.kernel} {kernel}"
        self.has_camera = True
        self._kind, self._memory_mb = kind, memory_mb
        self._handed = {f"extra-unit.{name}": text for name, text in (units or {}).items()}
        self._handed |= {f"unit-dropin.{name}": text for name, text in (changes or {}).items()}
        self._process: subprocess.Popen[bytes] | None = None
        self.started_s = 0.0

    def __enter__(self) -> "Machine":
        """Switches it on."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Cuts its power."""
        self.cut_power()

    def start(self) -> None:
        """Switches it on; its serial line starts a new log."""
        variables = self.folder / "variables.fd"
        if not variables.exists():
            shutil.copy(self._kind.variables, variables)
        if self.serial.exists():
            with (self.folder / "serial.all.log").open("ab") as log:
                log.write(self.serial.read_bytes())
        self.serial.write_bytes(b"")
        with (self.folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(self._command(variables), stdout=log, stderr=log)
        self.started_s = time.monotonic()

    def cut_power(self) -> None:
        """Off, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def is_on(self) -> bool:
        """False once it went off by itself."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Its serial line so far."""
        return self.serial.read_bytes().decode(errors="replace")

    def wait_for(self, what: str, is_there: Callable[[], bool], timeout_s: float) -> float:
        """Seconds since it was switched on until something is there.

        Raises:
            MachineError: It did not come in time, or the machine went off.
        """
        while not is_there():
            if not self.is_on():
                raise MachineError(f"the machine went off before {what}: {self.log()[-400:]}")
            if time.monotonic() - self.started_s > timeout_s:
                raise MachineError(f"no {what} within {timeout_s:.0f} s: {self.log()[-1500:]}")
            time.sleep(_POLL_S)
        return time.monotonic() - self.started_s

    def get(self, path: str, password: str = "") -> tuple[int, bytes]:
        """Status and body of a page of it; status 0 where it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.web_port, timeout=30)
        headers = {"Host": "127.0.0.1"}
        if password:
            login = base64.b64encode(f"veilcam:{password}".encode()).decode()
            headers["Authorization"] = f"Basic {login}"
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def _command(self, variables: Path) -> list[str]:
        kernel = f"{self._kernel} {_CAMERA if self.has_camera else ''}"
        strings = [f"io.systemd.stub.kernel-cmdline-extra={kernel}"]
        for name, text in self._handed.items():
            coded = base64.b64encode(text.encode()).decode()
            strings.append(f"io.systemd.credential.binary:systemd.{name}={coded}")
        smbios = [part for text in strings for part in ("-smbios", f"type=11,value={_comma(text)}")]
        return [
            *self._kind.command, "-accel", "tcg,thread=multi,tb-size=512", "-smp", "2",
            "-m", str(self._memory_mb), "-nodefaults", "-display", "none", "-no-user-config",
            "-drive", f"if=pflash,format=raw,readonly=on,file={self._kind.firmware}",
            "-drive", f"if=pflash,format=raw,file={variables}",
            "-drive", f"if=none,id=disk,format=raw,cache=writeback,file={self.disk}",
            "-device", "virtio-blk-pci,drive=disk,bootindex=1",
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.web_port}-:80,"
            f"hostfwd=tcp:127.0.0.1:{self.web_port + 1}-:8554",
            "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci",
            "-serial", f"file:{self.serial}", *smbios,
        ]  # fmt: skip


def _comma(text: str) -> str:
    """QEMU's options double a comma."""
    return text.replace(",", ",,")
