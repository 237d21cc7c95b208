"""Writes an image to a card, a disk or a file, and proves by reading back that it arrived.

Always from the start: a card half written by an earlier try is not trusted. The first piece, with
the partition table, is written last, so that an interrupted card boots nothing and shows nothing.
Page cache is bypassed (O_DIRECT) in both directions: what is compared came from the device.
"""

import errno
import fcntl
import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from veilcam.camera.errors import InputError, SinkError
from veilcam.hardware.disks import human_size

CHUNK = 4 << 20
_ALIGNMENT = 4096  # no device here has larger logical sectors
_END_WIPE = 1 << 20  # an old backup of a partition table lies in the last sectors
_BLKRRPART, _BLKFLSBUF = 0x125F, 0x1261
_DIRECT = getattr(os, "O_DIRECT", 0)

Progress = Callable[[str, int, int], None]  # what is done, bytes done, bytes in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """Hashes of an image.

    Attributes:
        size: Bytes.
        sha256: Of all of it, in hexadecimal.
        pieces: sha256 of each `CHUNK` bytes, so that a difference has a place.
    """

    size: int
    sha256: str
    pieces: tuple[bytes, ...]


def check_image(path: Path) -> int:
    """Size in bytes of an image that looks like one.

    Raises:
        InputError: It is missing, empty, packed, or has no partition table.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1024)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise InputError(
            f"image {path} cannot be read ({error.strerror}); check the path"
        ) from error
    packers = {b"\x28\xb5\x2f\xfd": "unzstd", b"\xfd7zXZ": "unxz", b"\x1f\x8b": "gunzip"}
    for magic, tool in packers.items():
        if head.startswith(magic):
            raise InputError(f"image {path} is packed; unpack it first: {tool} {path.name}")
    if head[512:520] != b"EFI PART" and head[510:512] != b"\x55\xaa":
        raise InputError(f"{path} has no partition table, wanted a disk image (veilcam.img)")
    return size


def write_image(image: Path, target: Path, progress: Progress) -> Digest:
    """Writes all of `image` to `target` and reads it back.

    Args:
        image: A raw disk image of any size.
        target: Block device, or a file (made anew).
        progress: Told after each piece.

    Returns:
        What stands on `target` now, by its hashes.

    Raises:
        SinkError: It cannot be written, or what is read back differs.
    """
    if target.exists() and image.samefile(target):
        raise InputError(f"{target} is the image itself; name a disk")
    if target.is_block_device():
        digest = _write_and_compare(image, target, progress)
        _show_partitions(target)
        return digest
    temporary = target.with_name(f".{target.name}.part")
    try:
        digest = _write_and_compare(image, temporary, progress)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def _write_and_compare(image: Path, target: Path, progress: Progress) -> Digest:
    size = image.stat().st_size
    with _open_for_writing(target) as descriptor, image.open("rb") as source:
        try:
            digest = _copy(source.fileno(), descriptor, size, progress)
            if not _is_block(descriptor):
                os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        except OSError as error:
            raise SinkError(
                f"writing {target} failed ({error.strerror}); nothing on it can be used: try "
                "again, then another card"
            ) from error
    compare(target, digest, progress)
    return digest


def compare(target: Path, wanted: Digest, progress: Progress) -> None:
    """Reads `target` from the device itself and compares it with `wanted`.

    Raises:
        SinkError: Some piece differs; the message says where.
    """
    found = hash_of(target, progress, size=wanted.size)
    for index, (got, want) in enumerate(zip(found.pieces, wanted.pieces, strict=False)):
        if got != want:
            raise SinkError(
                f"{target} differs from the image in the {human_size(CHUNK)} from byte "
                f"{index * CHUNK}; write it again, and throw the card away if that happens twice"
            )
    if found.sha256 != wanted.sha256:
        raise SinkError(f"{target} ends at byte {found.size}, wanted {wanted.size}; write it again")


def hash_of(path: Path, progress: Progress, *, size: int | None = None) -> Digest:
    """Hashes of the first `size` bytes of a device or file (all of it by default).

    Raises:
        InputError: It cannot be read.
    """
    try:
        with _open_for_reading(path) as descriptor:
            end = os.lseek(descriptor, 0, os.SEEK_END)
            size = end if size is None else min(size, end)
            return _read_all(descriptor, size, progress)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); are you root?") from error


def _copy(source: int, target: int, size: int, progress: Progress) -> Digest:
    """Piece by piece, the first one last; hashed in the image's order as it is read."""
    whole, pieces = hashlib.sha256(), []
    with _buffer() as first, _buffer() as buffer:
        with memoryview(first) as view, view[:_ALIGNMENT] as zeros:
            _pwrite(target, zeros, 0)  # no partition table until all else is there
        _wipe_end(target, size)
        for start in range(0, size, CHUNK):
            length = min(CHUNK, size - start)
            with memoryview(buffer if start else first) as all_of_it, all_of_it[:length] as view:
                _fill(source, view, start)
                whole.update(view)
                pieces.append(hashlib.sha256(view).digest())
                if start:
                    _pwrite(target, view, start)
            progress("writing", min(start + CHUNK, size), size)
        os.fsync(target)
        with memoryview(first) as view, view[: min(CHUNK, size)] as head:
            _pwrite(target, head, 0)
    return Digest(size=size, sha256=whole.hexdigest(), pieces=tuple(pieces))


def _read_all(descriptor: int, size: int, progress: Progress) -> Digest:
    whole, pieces = hashlib.sha256(), []
    with _buffer() as buffer:
        for start in range(0, size, CHUNK):
            length = min(CHUNK, size - start)
            _pread(descriptor, buffer, length, start)
            with memoryview(buffer) as all_of_it, all_of_it[:length] as view:
                whole.update(view)
                pieces.append(hashlib.sha256(view).digest())
            progress("checking", min(start + CHUNK, size), size)
    return Digest(size=size, sha256=whole.hexdigest(), pieces=tuple(pieces))


def _wipe_end(target: int, size: int) -> None:
    """Zeros the end of a device beyond the image, where an old table's backup may lie."""
    if not _is_block(target):
        return
    end = os.lseek(target, 0, os.SEEK_END)
    start = max(size, end - _END_WIPE)
    with _buffer() as zeros, memoryview(zeros) as view, view[: end - start] as part:
        _pwrite(target, part, start)


@contextmanager
def _buffer() -> Iterator[mmap.mmap]:
    """Memory that begins at a page, as O_DIRECT wants it."""
    memory = mmap.mmap(-1, CHUNK)
    try:
        yield memory
    finally:
        memory.close()


def _fill(source: int, view: memoryview, start: int) -> None:
    done = 0
    while done < len(view):
        with view[done:] as rest:
            count = os.preadv(source, [rest], start + done)
        if count == 0:
            raise InputError("the image became shorter while it was read; copy it again")
        done += count


def _pwrite(target: int, view: memoryview, start: int) -> None:
    """All of it; what does not fit whole sectors goes through the page cache."""
    done, length = 0, len(view)
    while done < length:
        left = length - done
        is_aligned = (start + done) % _ALIGNMENT == 0 and left >= _ALIGNMENT
        end = done + (left - left % _ALIGNMENT if is_aligned else left)
        with view[done:end] as part, _direct(target, is_aligned):
            done += os.pwrite(target, part, start + done)


def _pread(descriptor: int, buffer: mmap.mmap, length: int, start: int) -> None:
    """`length` bytes into the buffer; a read past the last whole sector is asked for whole."""
    done = 0
    rounded = -(-length // _ALIGNMENT) * _ALIGNMENT
    with memoryview(buffer) as view:
        while done < length:
            with view[done:rounded] as rest, _direct(descriptor, done % _ALIGNMENT == 0):
                count = os.preadv(descriptor, [rest], start + done)
            if count == 0:
                raise OSError(errno.EIO, "it ends too early")
            done += count


@contextmanager
def _direct(descriptor: int, is_wanted: bool) -> Iterator[None]:
    """O_DIRECT on or off for one call; left as it is where the file system has none."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if not flags & _DIRECT or is_wanted:
        yield
        return
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
    try:
        yield
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


@contextmanager
def _open_for_writing(path: Path) -> Iterator[int]:
    # O_EXCL on a block device: the kernel refuses while anything else mounts or holds it.
    kind = os.O_EXCL if path.is_block_device() else os.O_CREAT | os.O_TRUNC
    flags = os.O_RDWR | os.O_CLOEXEC | kind
    try:
        descriptor = _open(path, flags)
    except OSError as error:
        cure = "close what uses it" if error.errno == errno.EBUSY else "are you root?"
        raise SinkError(f"{path} cannot be written ({error.strerror}); {cure}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _open_for_reading(path: Path) -> Iterator[int]:
    descriptor = _open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.ioctl(descriptor, _BLKFLSBUF)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | _DIRECT, 0o644)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without O_DIRECT (tmpfs)
            raise
    return os.open(path, flags, 0o644)


def _is_block(descriptor: int) -> bool:
    return stat.S_ISBLK(os.fstat(descriptor).st_mode)


def _show_partitions(path: Path) -> None:
    """Lets the kernel look at the new table; it will at the next plugging in, else."""
    with _open_for_reading(path) as descriptor, suppress(OSError):
        if _is_block(descriptor):
            fcntl.ioctl(descriptor, _BLKRRPART)
