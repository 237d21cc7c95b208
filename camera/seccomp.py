"""A seccomp filter: system calls that fail with EPERM from now on, by a small BPF program.

Everything not named stays allowed: the decoders, OpenCV and ONNX Runtime make many harmless calls,
and what they must not do is a short list. Standard library only, for the reason of `landlock`.
Source: Linux Documentation/userspace-api/seccomp_filter.rst.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from dataclasses import dataclass
from typing import Final

from veilcam.camera import syscalls

_LOAD, _JEQ, _JGE, _JSET, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_AT, _ARCH_AT, _ARGUMENT_AT = 0, 4, 16
_X32_BIT = 0x40000000
_PR_SET_NO_NEW_PRIVS, _PR_GET_SECCOMP, _PR_SET_SECCOMP, _FILTER_MODE = 38, 21, 22, 2
_CLONE_THREAD = 0x10000
_CAMERA_IOCTLS = (8, 9, 15, 16, 17, 18, 92)  # REQBUFS QUERYBUF QBUF EXPBUF DQBUF STREAMON CREATE
_V4L2 = ord("V") << 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a process gives up.

    Attributes:
        may_connect: Address families it may still make sockets of; empty closes all socket calls.
        may_answer: Without `may_connect`, it may still answer on a socket that it was handed.
        may_write: False forbids every open for writing and every change of a folder.
        may_open_devices: With `may_write` False, plain read-write opens stay (a camera needs them).
        may_stream_camera: False forbids the ioctls that fetch pictures from a V4L2 device.
    """

    may_connect: tuple[int, ...]
    may_write: bool
    may_open_devices: bool
    may_stream_camera: bool
    may_answer: bool = False


Code = list[tuple[int, int, int, int]]


def is_available() -> bool:
    """True where the kernel can filter and we know the system call numbers of the machine."""
    if not sys.platform.startswith("linux") or platform.machine() not in syscalls.ARCHITECTURES:
        return False
    mode = int(ctypes.CDLL(None, use_errno=True).prctl(_PR_GET_SECCOMP, 0, 0, 0, 0))
    return mode >= 0


def build_program(policy: Policy, machine: str, process_id: int) -> bytes:
    """The BPF program of a policy, as `struct sock_filter` array."""
    arch, numbers = syscalls.ARCHITECTURES[machine]
    code: Code = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JEQ, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),  # another instruction set would have other numbers
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32_BIT), _refuse(errno.ENOSYS)]
    for name in ("clone3", "openat2"):  # their flags are in memory; libc falls back to clone, open
        code += _when(numbers, name, [_refuse(errno.ENOSYS)])
    names = set(syscalls.NEVER)
    names |= set() if policy.may_write else syscalls.FOLDER_CHANGES | syscalls.NEW_OBJECTS
    if not policy.may_connect:
        names |= syscalls.SOCKETS - (syscalls.ANSWERING if policy.may_answer else set())
    for name in sorted(names):
        code += _when(numbers, name, [_refuse(errno.EPERM)])
    code += _when(numbers, "clone", [*_needs(0, _CLONE_THREAD)])
    code += _when(numbers, "tgkill", [*_equals(0, process_id)])
    if policy.may_connect:
        code += _when(numbers, "socket", _one_of(0, policy.may_connect))
    if not policy.may_write:
        code += _open_rules(numbers, policy)
    if not policy.may_stream_camera:
        code += _when(numbers, "ioctl", _none_of(1, tuple(_V4L2 | n for n in _CAMERA_IOCTLS)))
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in code)


def _open_rules(numbers: dict[str, int], policy: Policy) -> Code:
    bits = os.O_CREAT | os.O_TRUNC | os.O_APPEND
    bits |= 0 if policy.may_open_devices else os.O_WRONLY | os.O_RDWR
    code = _when(numbers, "open", _lacks(1, bits))
    return code + _when(numbers, "openat", _lacks(2, bits))


def install(policy: Policy) -> None:
    """Puts the filter on this thread and all it starts, for good.

    Raises:
        OSError: The kernel has no filters, or refuses.
    """
    if not is_available():
        raise OSError(f"no seccomp filter for {platform.machine()} on this kernel")
    program = build_program(policy, platform.machine(), os.getpid())
    lines = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(lines))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs refused")
    if libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, header, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp: {os.strerror(code)}")


_PERMIT: Final = (_RETURN, 0, 0, _ALLOW)


def _refuse(code: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ERRNO | code)


def _when(numbers: dict[str, int], name: str, body: Code) -> Code:
    """`body` for one system call, after which the number is not needed any more."""
    if name not in numbers:
        return []
    return [(_JEQ, 0, len(body), numbers[name]), *body]


def _argument(index: int) -> tuple[int, int, int, int]:
    return (_LOAD, 0, 0, _ARGUMENT_AT + 8 * index)  # the low half: all our values fit


def _needs(index: int, bits: int) -> Code:
    return [_argument(index), (_JSET, 1, 0, bits), _refuse(errno.EPERM), _PERMIT]


def _lacks(index: int, bits: int) -> Code:
    return [_argument(index), (_JSET, 0, 1, bits), _refuse(errno.EPERM), _PERMIT]


def _equals(index: int, value: int) -> Code:
    return [_argument(index), (_JEQ, 1, 0, value), _refuse(errno.EPERM), _PERMIT]


def _one_of(index: int, values: tuple[int, ...]) -> Code:
    tests = [(_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_argument(index), *tests, _refuse(errno.EPERM), _PERMIT]


def _none_of(index: int, values: tuple[int, ...]) -> Code:
    """Compares the low 16 bits: type and number of an ioctl, whatever its size."""
    tests = [(_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_argument(index), (_AND, 0, 0, 0xFFFF), *tests, _PERMIT, _refuse(errno.EPERM)]
