"""What capture and publish each need, and so what they keep: their barrier plans.

Capture reads our code, the models and its source; it writes nothing but ring and pipe. Publish
reads our code and writes where its sink says; no camera is among its paths.
"""

import os
import re
import socket
import sys
import sysconfig
from pathlib import Path
from urllib.parse import urlsplit

from veilcam.camera.barriers import Plan
from veilcam.camera.cast import TEXT_PART
from veilcam.camera.landlock import DEVICE, FOLDER, READ, Rule
from veilcam.camera.seccomp import Policy
from veilcam.camera.settings import Settings

# who comes back to them sees the newest picture
LIVE_SINKS = ("window", "virtual", "web", "rtsp", "null")
_LOOPBACKS = Path("/sys/devices/virtual/video4linux")
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_SYSTEM = (
    "/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache",
    "/etc/localtime", "/usr/share/zoneinfo", "/proc/self", "/proc/cpuinfo", "/proc/meminfo",
    "/proc/stat", "/proc/sys/vm", "/sys/devices/system", "/sys/fs/cgroup",
)  # fmt: skip
_NAME_SERVICE = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf",
                 "/etc/gai.conf", "/etc/ssl", "/run/systemd/resolve")  # fmt: skip
_SCREEN = ("/usr/share", "/etc/fonts", "/etc/alternatives", "/tmp/.X11-unix", "/sys/dev/char",
           "/sys/devices")  # fmt: skip


def capture_plan(settings: Settings) -> Plan:
    """Barriers of the process that sees raw pictures."""
    rules = _code_rules()
    if settings.bundle:
        rules.append(Rule(Path(settings.bundle), READ))
        if settings.cast:
            rules.append(Rule(Path(settings.bundle).parent / TEXT_PART, READ))
    device = camera_device(settings.source)
    address = urlsplit(settings.source) if "://" in settings.source else None
    families: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    if device is not None:
        rules += [Rule(device, DEVICE), Rule(Path("/sys/class/video4linux"), READ),
                  Rule(Path("/sys/devices"), READ)]  # fmt: skip
    elif address is not None:
        families = (
            socket.AF_INET,
            socket.AF_INET6,
            socket.AF_UNIX,
            getattr(socket, "AF_NETLINK", 16),
        )
        ports = (_port(address.scheme, settings.source),)
        rules += [Rule(Path(path), READ) for path in _NAME_SERVICE]
    elif settings.source != "demo":
        rules.append(Rule(Path(settings.source), READ))
    policy = Policy(
        may_connect=families,
        may_write=False,
        may_open_devices=device is not None,
        may_stream_camera=device is not None,
    )
    return Plan(
        rules=tuple(rules), policy=policy, needs_network=address is not None, tcp_ports=ports
    )


def publish_plan(settings: Settings) -> Plan:
    """Barriers of the process that sees safe pictures only."""
    kind, _, target = settings.sink.partition(":")
    rules = _code_rules()
    families: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    if kind in ("file", "png") and target:
        rules.append(Rule(Path(target).absolute().parent, FOLDER))
    if kind == "virtual":
        rules += [Rule(device, DEVICE) for device in loopback_devices()]
        rules += [Rule(Path("/sys/class/video4linux"), READ), Rule(Path("/sys/devices"), READ)]
    if kind == "window":
        rules += _screen_rules()
        families = (socket.AF_UNIX,)
        if (number := _remote_display()) is not None:
            families, ports = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6), (6000 + number,)
            rules += [Rule(Path(path), READ) for path in _NAME_SERVICE]
    policy = Policy(
        may_connect=families,
        may_write=kind in ("file", "png", "window"),
        may_open_devices=kind == "virtual",
        may_stream_camera=False,
        may_answer=kind in ("web", "rtsp"),  # on the socket that the supervisor opened and bound
    )
    return Plan(rules=tuple(rules), policy=policy, needs_network=bool(ports), tcp_ports=ports)


def camera_device(source: str, folder: Path = Path("/dev")) -> Path | None:
    """The device file of a webcam source, None for every other.

    >>> camera_device("2"), camera_device("demo")
    (PosixPath('/dev/video2'), None)
    """
    found = re.fullmatch(r"(?:/dev/video)?(\d{1,3})", source)
    return folder / f"video{int(found[1])}" if found else None


def loopback_devices(folder: Path = _LOOPBACKS) -> list[Path]:
    """Device files of virtual cameras (v4l2loopback), lowest number first; never a real camera."""
    found = [path.name for path in folder.glob("video*")] if folder.is_dir() else []
    return [Path("/dev") / name for name in sorted(found, key=lambda name: int(name[5:] or 0))]


def _code_rules() -> list[Rule]:
    """Python, our packages and what they are linked to, to read; two harmless devices."""
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()}
    paths |= {entry for entry in sys.path if Path(entry).is_absolute()}
    paths.add(str(Path(__file__).parent))
    paths.update(_SYSTEM)
    rules = [Rule(Path(path), READ) for path in sorted(paths) if path != "/"]
    rules += [Rule(Path(f"/dev/{name}"), READ) for name in ("zero", "urandom", "random")]
    return [*rules, Rule(Path("/dev/null"), DEVICE)]


def _screen_rules() -> list[Rule]:
    names = ("XAUTHORITY", "XDG_RUNTIME_DIR")
    paths = [os.environ.get(name, "") for name in names] + [str(Path.home() / ".Xauthority")]
    rules = [Rule(Path(path), READ) for path in [*_SCREEN, *paths] if path]
    return [*rules, Rule(Path("/dev/dri"), READ | DEVICE), Rule(Path("/dev/shm"), FOLDER)]


def _remote_display() -> int | None:
    """Number of a display that is reached over TCP (`host:10.0`), or None."""
    found = re.fullmatch(r"[^:/]+:(\d+)(\.\d+)?", os.environ.get("DISPLAY", ""))
    return int(found[1]) if found and not os.environ.get("WAYLAND_DISPLAY") else None


def _port(scheme: str, address: str) -> int:
    try:
        return urlsplit(address).port or _PORTS.get(scheme, 554)
    except ValueError:
        return _PORTS.get(scheme, 554)
