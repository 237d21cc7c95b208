"""Memory that two processes share by descriptor, without a name in any folder. Linux only."""

import fcntl
import os

PAGE = 4096
_SEALS = 0x0001 | 0x0002 | 0x0004  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034


def create_memory() -> tuple[int, int]:
    """Descriptors of an empty ring and of the reader's page; both are still to be shared."""
    ring = os.memfd_create("veilcam-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    hold = os.memfd_create("veilcam-hold", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(hold, PAGE)
    add_seals(hold)
    return ring, hold


def read_only(descriptor: int) -> int:
    """A second descriptor of the same memory through which nothing can be written."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def add_seals(descriptor: int) -> None:
    """Fixes the size: a process that shrinks it would crash the other one."""
    fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEALS)


def is_sealed(descriptor: int) -> bool:
    """True where the size is fixed."""
    return fcntl.fcntl(descriptor, _F_GET_SEALS) & _SEALS == _SEALS
