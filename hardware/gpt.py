"""Reads the partition table (GPT) of an image, with its checksums.

Source: UEFI specification 2.10, section 5.3.
"""

import binascii
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veilcam.camera.errors import InputError

SECTOR = 512
ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
ROOT_X86_64 = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
ROOT_ARM64 = uuid.UUID("b921b045-1df0-41c3-af44-4c6f280d3fae")
_HEADER = struct.Struct("<8s4sIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition: kind, name, and where it lies, in bytes."""

    kind: uuid.UUID
    name: str
    start: int
    size: int


def read_partitions(path: Path) -> list[Partition]:
    """All partitions of a disk image, in the table's order.

    Raises:
        InputError: There is no table, it is damaged, or a partition lies beyond the image's end.
    """
    try:
        with path.open("rb") as file:
            file.seek(SECTOR)
            header = file.read(SECTOR)
            fields = _check_header(header, path)
            num_entries, entry_size, entries_crc = fields[11:14]
            file.seek(fields[10] * SECTOR)
            entries = file.read(num_entries * entry_size)
            file.seek(0, 2)
            end = file.tell()
    except OSError as error:
        raise InputError(
            f"image {path} cannot be read ({error.strerror}); check the path"
        ) from error
    if binascii.crc32(entries) != entries_crc:
        raise InputError(f"the partition table of {path} is damaged; get or build the image anew")
    found = []
    for index in range(num_entries):
        kind, _, first, last, _, name = _ENTRY.unpack_from(entries, index * entry_size)
        if kind == bytes(16):
            continue
        size = (last + 1 - first) * SECTOR
        if size <= 0 or first * SECTOR + size > end:
            raise InputError(f"{path} is shorter than its partition table says; get it anew")
        text = name.decode("utf-16-le", "replace").rstrip("\0")
        found.append(
            Partition(kind=uuid.UUID(bytes_le=kind), name=text, start=first * SECTOR, size=size)
        )
    return found


def find_partition(path: Path, kind: uuid.UUID) -> Partition:
    """The first partition of that kind. Raises InputError where there is none."""
    for partition in read_partitions(path):
        if partition.kind == kind:
            return partition
    raise InputError(f"{path} has no partition of kind {kind}; is it a Veilcam image?")


def _check_header(header: bytes, path: Path) -> tuple[Any, ...]:
    if len(header) < SECTOR or header[:8] != b"EFI PART":
        raise InputError(f"{path} has no GPT partition table; is it a Veilcam image?")
    fields = _HEADER.unpack_from(header)
    size, crc = fields[2], fields[3]
    is_plausible = (
        _HEADER.size <= size <= SECTOR and fields[11] <= 4096 and fields[12] == _ENTRY.size
    )
    if not is_plausible or binascii.crc32(header[:16] + bytes(4) + header[20:size]) != crc:
        raise InputError(f"the partition table of {path} is damaged; get or build the image anew")
    return fields
