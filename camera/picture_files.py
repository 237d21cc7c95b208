"""One named picture in, one named file out: what `social`, `verify` and `search` share."""

import secrets
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from veilcam.camera import credentials
from veilcam.camera.album_files import MAX_PICTURE_BYTES, check_kind, read_picture
from veilcam.camera.album_files import SUFFIXES as _ALL_SUFFIXES
from veilcam.camera.album_scan import temporary_path
from veilcam.camera.album_work import write_synced
from veilcam.camera.errors import InputError, SinkError, SourceError

WRITTEN = {k: v for k, v in _ALL_SUFFIXES.items() if v in credentials.MIME}
READ = {**WRITTEN, ".heic": "HEIC", ".heif": "HEIC"}


def kind_of(path: Path, suffixes: dict[str, str]) -> str:
    """What a file is by its name. Raises InputError for a suffix that is not among these."""
    kind = suffixes.get(path.suffix.lower())
    if kind is None:
        wanted = ", ".join(suffixes)
        raise InputError(f"{path}: got suffix {path.suffix!r}, wanted one of {wanted}")
    return kind


def bytes_of(path: Path, suffixes: dict[str, str]) -> tuple[bytes, str]:
    """A picture file, and what it is. Raises InputError where it cannot be taken."""
    kind_of(path, suffixes)
    try:
        if path.stat().st_size > MAX_PICTURE_BYTES:
            raise SourceError(f"{path} has more than {MAX_PICTURE_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return data, check_kind(path, data[:32])
    except SourceError as error:
        raise SourceError(f"{path} {error}") from error


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Raw pixels of a picture file, upright. Raises InputError where it cannot be read."""
    data, kind = bytes_of(path, READ)
    try:
        return read_picture(data, kind)
    except SourceError as error:
        raise SourceError(f"{path} {error}") from error


def write_whole(out: Path, data: bytes) -> None:
    """A file that is there whole or not at all. Raises SinkError where it cannot be written."""
    temporary = temporary_path(out, secrets.token_hex(8))
    try:
        write_synced(temporary, data)
        temporary.replace(out)
    except OSError as error:
        raise SinkError(f"cannot write {out}: {error.strerror}; it is as it was before") from error
    finally:
        temporary.unlink(missing_ok=True)
