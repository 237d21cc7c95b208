"""What the real processes cannot do: each attempt is made from inside, once the barriers are up."""

import importlib.util
import json
import os
import platform
import socket
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the barriers are Linux's", allow_module_level=True)

from veilcam.camera import barriers, landlock, sandbox, seccomp, syscalls
from veilcam.camera.doctor import probe_barriers
from veilcam.camera.errors import ConfigError, VeilcamError
from veilcam.camera.sandbox import capture_plan, publish_plan
from veilcam.camera.settings import Settings
from veilcam.camera.supervise import Supervisor

NEEDS = pytest.mark.skipif(
    landlock.abi_version() < 1 or not seccomp.is_available(),
    reason=f"barriers not provable here: Landlock ABI {landlock.abi_version()}, seccomp "
    f"{seccomp.is_available()} on {platform.machine()}",
)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lean, storm = load("lean"), load("storm")


@pytest.fixture
def options(tmp_path: Path):
    """A folder with a file and a socket, a listening port, a stand-in camera, a process."""
    (tmp_path / "secret").write_text("secret")
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        unix.listen()
        yield {
            "folder": str(tmp_path), "port": server.getsockname()[1], "pid": other.pid,
            "camera": "/dev/full", "program": os.path.realpath(sys.executable),
        }  # fmt: skip
    other.communicate(b"\n")


def outcomes(supervisor: Supervisor) -> dict[str, str]:
    with pytest.raises(VeilcamError) as caught:
        supervisor.run(lambda: False)
    words = (word.partition("=") for word in str(caught.value).split())
    return {name: outcome for name, _, outcome in words}


def from_publish(options: dict, sink: str) -> dict[str, str]:
    found = Supervisor(
        Settings(source="storm", sink=sink),
        capture_command=storm.command("capture"),
        publish_command=lean.command("publish", **options),
    )
    return outcomes(found)


NUM_ATTEMPTS = 25


def test_without_barriers_the_attempts_go_through(options) -> None:
    """The control: what is refused below is refused by a barrier."""
    names = ["tcp_loopback", "udp_loopback", "unix", "socketpair", "read", "list", "write",
             "create", "mkdir", "camera", "memfd", "fork", "kill_parent"]  # fmt: skip
    code = "import runpy, sys, json; m = runpy.run_path(sys.argv[1], run_name='lean'); "
    code += "print(m['line'](json.loads(sys.argv[2])))"  # its own process: it forks
    told = json.dumps(options | {"only": names})
    command = [sys.executable, "-c", code, lean.__file__, told]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = dict(word.split("=") for word in line.split())
    assert found == {"tried": str(len(names))} | dict.fromkeys(names, "ok")


@NEEDS
def test_capture_reaches_nothing_but_its_camera(options) -> None:
    found = Supervisor(
        Settings(source="0", sink="null"),
        capture_command=lean.command("capture", **options),
        publish_command=storm.command("publish"),
    )
    assert outcomes(found) == {"tried": str(NUM_ATTEMPTS), "camera": "ok"}


@NEEDS
def test_publish_opens_no_camera_and_nothing_else(options) -> None:
    assert from_publish(options, "null") == {"tried": str(NUM_ATTEMPTS)}


@NEEDS
def test_publish_with_a_file_writes_beside_it_and_still_opens_no_camera(
    options, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    inside = options | {"folder": str(tmp_path / "out"), "only": ["create", "mkdir", "camera"]}
    found = from_publish(inside, f"file:{tmp_path}/out/out.mp4")
    assert found == {"tried": "3", "create": "ok", "mkdir": "ok"}
    outside = options | {"only": ["read", "list", "create", "mkdir", "camera"]}
    assert from_publish(outside, f"file:{tmp_path}/out/out.mp4") == {"tried": "5"}


@NEEDS
def test_both_processes_say_that_all_are_up() -> None:
    found = probe_barriers()
    assert set(found) == {"capture", "publish"}
    assert barriers.all_missing(found) == []


@pytest.mark.parametrize("lost", ["landlock", "seccomp"])
def test_a_missing_barrier_is_told_and_can_be_required(options, lost: str) -> None:
    weak = lean.command("capture", **options, weaken=[lost], only=["camera"])
    commands = {"capture_command": weak, "publish_command": storm.command("publish")}
    settings = Settings(source="0", sink="null")
    supervisor = Supervisor(settings, **commands)
    outcomes(supervisor)
    assert supervisor.notes.barriers["capture"][lost].startswith("down (")
    with pytest.raises(ConfigError, match=rf"--require-barriers: .*{lost}: down"):
        Supervisor(settings, require_barriers=True, **commands).run(lambda: False)


def test_a_network_camera_keeps_its_port_and_is_not_called_closed() -> None:
    plan = capture_plan(Settings(source="rtsp://cam.local:8554/live", sink="null"))
    assert plan.needs_network
    assert plan.tcp_ports == (8554,)
    state = dict.fromkeys(barriers.REQUIRED, "up") | {
        "network": "open (the work is on the network)"
    }
    assert barriers.missing(state, "capture") == ["network"]
    assert barriers.missing(state, "publish") == []
    assert barriers.missing(state | {"network": "down (x)"}, "publish") == ["network"]


def test_no_plan_of_publish_has_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "loopback_devices", lambda: [Path("/dev/video9")])
    monkeypatch.setenv("DISPLAY", ":0")
    for sink in ("null", "window", "virtual", "file:/tmp/a.mp4", "png:/tmp/a"):
        plan = publish_plan(Settings(source="0", sink=sink))
        videos = [rule.path for rule in plan.rules if rule.path.match("/dev/video*")]
        assert videos == ([Path("/dev/video9")] if sink == "virtual" else [])
        assert Path("/dev") not in [rule.path for rule in plan.rules]
        assert not plan.policy.may_stream_camera


def test_only_virtual_devices_are_loopbacks(tmp_path: Path) -> None:
    for name in ("video10", "video2"):
        (tmp_path / name).mkdir()
    assert sandbox.loopback_devices(tmp_path) == [Path("/dev/video2"), Path("/dev/video10")]
    assert sandbox.loopback_devices(tmp_path / "none") == []


@pytest.mark.parametrize("machine", syscalls.ARCHITECTURES)
def test_the_filter_jumps_only_to_its_own_lines(machine: str) -> None:
    for may in (False, True):
        policy = seccomp.Policy(
            may_connect=(2, 10) if may else (), may_write=may, may_open_devices=may,
            may_stream_camera=may,
        )  # fmt: skip
        program = seccomp.build_program(policy, machine, 7)
        lines = list(struct.iter_unpack("=HBBI", program))
        assert 4 < len(lines) <= 4096
        assert lines[-1][0] == 0x06
        for number, (_, true, false, _) in enumerate(lines):
            assert number + 1 + max(true, false) < len(lines) + (true == false == 0)


def test_every_machine_knows_the_calls_that_matter() -> None:
    for _, numbers in syscalls.ARCHITECTURES.values():
        assert set(numbers) >= syscalls.SOCKETS
        needed = {"openat", "openat2", "clone", "clone3", "execve", "ptrace", "io_uring_setup"}
        assert needed <= set(numbers)
        assert len(set(numbers.values())) == len(numbers)


@NEEDS
def test_a_process_with_a_port_of_its_own_serves_on_no_other() -> None:
    code = (
        "import socket, sys; from pathlib import Path; from veilcam.camera import landlock\n"
        "port = int(sys.argv[1])\n"
        "abi = landlock.restrict([landlock.Rule(Path('/'), landlock.READ)], bind_ports=[port])\n"
        "socket.create_server(('127.0.0.1', port)).close()\n"
        "try: socket.create_server(('127.0.0.1', port + 1)).close()\n"
        "except PermissionError: sys.exit(0)\n"
        "sys.exit(0 if abi < 4 else 1)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    subprocess.run([sys.executable, "-c", code, str(port)], check=True)
