"""Landlock: what of the file system and of TCP this process may still reach, by the kernel.

Standard library only, because it runs before anything else is imported: a rule set binds the
calling thread and what that thread starts, so it must be there before the first thread.
Source: Linux Documentation/userspace-api/landlock.rst.
"""

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same number on every architecture
_VERSION_FLAG = 1
_RULE_PATH, _RULE_PORT = 1, 2
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FILE_RIGHTS = 1 | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # by ABI; 16 from 5 on
_NET_BITS = 0b11  # bind and connect of TCP, from ABI 4
_BIND_TCP, _CONNECT_TCP = 0b01, 0b10
_SCOPES = 0b11  # abstract Unix sockets and signals, from ABI 6

READ = _READ_FILE | _READ_DIR
FOLDER = READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE
DEVICE = _READ_FILE | _WRITE_FILE | _IOCTL_DEV


@dataclass(frozen=True, slots=True)
class Rule:
    """A path and what stays allowed at and below it: `READ`, `FOLDER` (rewrite) or `DEVICE`."""

    path: Path
    rights: int


def abi_version() -> int:
    """The kernel's Landlock ABI, 0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(_libc().syscall(_CREATE, None, 0, _VERSION_FLAG)))


def restrict(
    rules: Iterable[Rule], *, tcp_ports: Iterable[int] | None = (), bind_ports: Iterable[int] = ()
) -> int:
    """Forbids this thread and its children every path and TCP port not named, for good.

    Args:
        rules: What stays reachable; a path that does not exist is left out.
        tcp_ports: Ports that may still be connected to (ABI 4 and later); None leaves TCP alone.
        bind_ports: Ports that may still be served on.

    Returns:
        The ABI that was used; 4 and later also closes TCP, 6 signals and abstract sockets.

    Raises:
        OSError: The kernel has no Landlock, or refuses.
    """
    abi = abi_version()
    if abi < 1:
        raise OSError("this kernel has no Landlock")
    handled = (1 << _FS_BITS.get(abi, 16)) - 1
    net = _NET_BITS if abi >= 4 and tcp_ports is not None else 0
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    attributes = struct.pack("=QQQ", handled, net, _SCOPES if abi >= 6 else 0)[:size]
    ruleset = _call(_CREATE, attributes, len(attributes), 0)
    try:
        for rule in rules:
            _add_path(ruleset, rule, handled)
        if net:
            _add_ports(ruleset, _CONNECT_TCP, tcp_ports or ())
            _add_ports(ruleset, _BIND_TCP, bind_ports)
        if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no_new_privs refused")
        _call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _add_path(ruleset: int, rule: Rule, handled: int) -> None:
    try:
        descriptor = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # nothing there: nothing to allow
        return
    try:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        rights = rule.rights & handled & (~0 if is_folder else _FILE_RIGHTS)
        _call(_ADD_RULE, ruleset, _RULE_PATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _add_ports(ruleset: int, right: int, ports: Iterable[int]) -> None:
    for port in ports:
        _call(_ADD_RULE, ruleset, _RULE_PORT, struct.pack("=QQ", right, port), 0)


def _call(number: int, *arguments: int | bytes) -> int:
    result = int(_libc().syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
