"""What keeps a process from doing what is not its work: raised once, tried, told honestly.

A process raises its barriers before it imports anything but the standard library, because some bind
only the calling thread and what it starts. Each is then tried (a socket, a write, another program);
what does not hold is reported as down, never as up.
"""

import ctypes
import errno
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from veilcam.camera import landlock, seccomp

UP = "up"
REQUIRED = ("no_new_privs", "capabilities", "no_dump", "landlock", "seccomp", "network")
_PR_SET_DUMPABLE, _PR_GET_DUMPABLE, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 4, 3, 24, 47
_PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 38, 39
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_CAPABILITY_VERSION = 0x20080522


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a process keeps; all else goes.

    Attributes:
        rules: Paths that stay reachable.
        policy: System calls it gives up.
        needs_network: True where its work is on the network: then nothing closes it and the
            report says so.
        tcp_ports: With `needs_network`, the ports it may connect to; empty for any.
        bind_ports: With `needs_network`, the ports it may serve on; empty for any.
    """

    rules: tuple[landlock.Rule, ...]
    policy: seccomp.Policy
    needs_network: bool = False
    tcp_ports: tuple[int, ...] = ()
    bind_ports: tuple[int, ...] = ()


def raise_barriers(plan: Plan) -> dict[str, str]:
    """Raises every barrier that this kernel has, for the rest of this process's life.

    Returns:
        `up`, `up (detail)`, `open (why)` or `down (why)` for each barrier by name.
    """
    if not sys.platform.startswith("linux"):
        return dict.fromkeys(REQUIRED, f"down (no barriers on {sys.platform})")
    state = {
        "network_namespace": "open (the work is on the network)"
        if plan.needs_network
        else _attempt(_leave_network),
        "no_new_privs": _attempt(_forbid_new_privileges),
        "capabilities": _attempt(_drop_capabilities),
        "no_dump": _attempt(_forbid_dumps),
        "landlock": _attempt(lambda: _restrict_paths(plan)),
        "seccomp": _attempt(lambda: seccomp.install(plan.policy)),
    }
    return state | _tried(plan, state)


def missing(state: Mapping[str, str], role: str = "capture") -> list[str]:
    """Names of the required barriers that are not up; the network is publish's own to use."""
    fine: dict[str, tuple[str, ...]] = {name: (UP,) for name in REQUIRED}
    if role == "publish":
        fine["network"] = (UP, "open")
    return [name for name in REQUIRED if not state.get(name, "down").startswith(fine[name])]


def all_missing(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The same over several processes, as `role.name`."""
    return [f"{role}.{name}" for role in sorted(found) for name in missing(found[role], role)]


def _attempt(work: Callable[[], str | None]) -> str:
    try:
        detail = work()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        return f"down ({reason})"
    return f"{UP} ({detail})" if detail else UP


def _leave_network() -> None:
    """An empty network of its own; without root inside a user name space that maps us to us."""
    libc = ctypes.CDLL(None, use_errno=True)
    user_id, group_id = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWNET) == 0:
        return
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user_id} {user_id} 1"),
        ("gid_map", f"{group_id} {group_id} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(text)


def _forbid_new_privileges() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _drop_capabilities() -> None:
    for number in range(64):  # those the kernel does not know fail, as do all without privilege
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)  # clear all
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    if libc.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _forbid_dumps() -> None:
    """No core file with pictures in it, and no debugger from another process."""
    _prctl(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _restrict_paths(plan: Plan) -> str:
    if plan.needs_network and not plan.tcp_ports and not plan.bind_ports:
        return f"ABI {landlock.restrict(plan.rules, tcp_ports=None)}"
    ports = {"tcp_ports": plan.tcp_ports, "bind_ports": plan.bind_ports}
    return f"ABI {landlock.restrict(plan.rules, **ports)}"


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _tried(plan: Plan, state: Mapping[str, str]) -> dict[str, str]:
    """What the barriers do when something leans on them."""
    found: dict[str, str] = {}
    libc = ctypes.CDLL(None)
    if libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1:
        found["no_new_privs"] = "down (not set)"
    if libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        found["no_dump"] = "down (still dumpable)"
    if state["landlock"].startswith(UP) and not _is_refused(lambda: os.listdir("/")):  # noqa: PTH208
        found["landlock"] = "down (the root folder can be read)"
    if state["seccomp"].startswith(UP) and not _is_refused(_unshare_nothing):
        found["seccomp"] = "down (a forbidden call went through)"
    if plan.needs_network:
        found["network"] = "open (the work is on the network)"
    elif _is_refused(_reach_loopback):
        found["network"] = UP
    else:
        found["network"] = "down (a socket reaches the loopback address)"
    return found


def _is_refused(work: Callable[[], object]) -> bool:
    try:
        work()
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EPERM, errno.ENETUNREACH)
    return False


def _unshare_nothing() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0) != 0:  # changes nothing where it is allowed
        raise OSError(ctypes.get_errno(), "unshare")


def _reach_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", 9))
