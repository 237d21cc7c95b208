"""Leans on the barriers from inside the real processes. Test code, also a program.

`lean.py capture|publish OPTIONS-AS-JSON` and what the supervisor appends. Once its barriers are up,
the process tries what it must not do and ends with one line: `name=outcome` for each attempt.
"""

import ctypes
import errno
import json
import os
import socket
import sys
from pathlib import Path


def attempt(work):
    """`ok`, or the name of the error."""
    try:
        work()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"


def connect(family, kind, address):
    with socket.socket(family, kind) as probe:
        probe.settimeout(1.0)
        probe.connect(address)


def open_for(path, flags):
    os.close(os.open(path, flags, 0o600))


def system_call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def fork():
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def attempts(options):
    """Everything that one of the two processes must not be able to do."""
    folder = Path(options["folder"])
    memory = (ctypes.c_char * 8)()
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(memory), 8)
    return {
        "tcp_loopback": lambda: connect(
            socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", options["port"])
        ),
        "udp_loopback": lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 9)),
        "tcp_outside": lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("192.0.2.1", 80)),
        "udp_outside": lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 53)),
        "tcp6": lambda: connect(socket.AF_INET6, socket.SOCK_STREAM, ("::1", options["port"])),
        "unix": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket")),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "socketpair": lambda: [end.close() for end in socket.socketpair()],
        "read": lambda: open_for(folder / "secret", os.O_RDONLY),
        "list": lambda: list(folder.iterdir()),
        "write": lambda: open_for(folder / "secret", os.O_WRONLY),
        "create": lambda: open_for(folder / "new", os.O_WRONLY | os.O_CREAT),
        "create_shm": lambda: open_for("/dev/shm/veilcam-lean", os.O_WRONLY | os.O_CREAT),
        "mkdir": lambda: (folder / "sub").mkdir(),
        "rename": lambda: (folder / "secret").rename(folder / "moved"),
        "camera": lambda: open_for(options["camera"], os.O_RDWR),
        "memfd": lambda: os.close(os.memfd_create("x")),
        "fork": fork,
        "execute": lambda: os.execv(options["program"], [options["program"], "-c", ""]),
        "kill_parent": lambda: os.kill(os.getppid(), 0),
        "memory_file": lambda: open_for(f"/proc/{options['pid']}/mem", os.O_RDONLY),
        "memory_read": lambda: system_call(
            "process_vm_readv", options["pid"], vector, 1, vector, 1, 0
        ),
        "trace": lambda: system_call("ptrace", 16, options["pid"], 0, 0),
        "io_uring": lambda: system_call("syscall", 425, 1, memory),
        "user_namespace": lambda: system_call("unshare", 0x10000000),
    }


def line(options):
    """One line for the supervisor: how many attempts, and what each that was not refused gave."""
    works = attempts(options)
    names = options.get("only") or list(works)
    found = {name: attempt(works[name]) for name in names}
    told = [f"{name}={out}" for name, out in found.items() if out not in ("EPERM", "EACCES")]
    return " ".join([f"tried={len(found)}", *told])


def weaken(names):
    """A kernel that lacks something."""
    from veilcam.camera import landlock, seccomp

    if "landlock" in names:
        landlock.abi_version = lambda: 0
    if "seccomp" in names:
        seccomp.is_available = lambda: False


def command(role, **options):
    """The program of a role, for `Supervisor`."""
    return (sys.executable, "-P", __file__, role, json.dumps(options))


def main(argv):
    role, options = argv[0], json.loads(argv[1])
    from veilcam.camera import capture, publish, sandbox
    from veilcam.camera.errors import SinkError, SourceError

    weaken(options.get("weaken", []))
    if "camera" in options:  # a stand-in for /dev/video0, in the rule that a camera would have
        sandbox.camera_device = lambda source, folder=None: Path(options["camera"])

    def load(_settings):
        raise SourceError(line(options))

    def open_sink(_spec, **_sizes):
        raise SinkError(line(options))

    if role == "capture":
        return capture.main(argv[2:], load)
    return publish.main(argv[2:], open_sink)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
