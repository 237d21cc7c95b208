"""What an album run has done, by content: kept away from the album, without names in it.

One JSON line for each file: a keyed hash of its name, hashes of its content before and after, and
of the settings. The key is drawn for each index, so lines of two albums cannot be matched.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from veilcam.camera.errors import SinkError

VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished file.

    Attributes:
        before, after: sha256 of the original and of its twin.
        settings: What else the twin depends on: bundle, mode, version.
        is_blank: True where analysis could not vouch for the picture.
    """

    before: str
    after: str
    settings: str
    is_blank: bool


def state_path(out: Path) -> Path:
    """Where the index of an output folder lies: `$XDG_STATE_HOME/veilcam/albums/`."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    name = hashlib.sha256(os.fsencode(out.resolve())).hexdigest()[:32]
    return Path(base) / "veilcam" / "albums" / f"{name}.jsonl"


def file_sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Index:
    """The index of one output folder; use `opened`.

    A line is on the disk before the file it vouches for gets its name, so that a run that is killed
    leaves no file that the next one does not know.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}
        self._key = secrets.token_bytes(32)
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        values = [value for value in map(_value, lines) if value is not None]
        is_ours = bool(values) and values[0].get("version") == VERSION and "key" in values[0]
        if is_ours:
            self._key = bytes.fromhex(str(values[0]["key"]))
        for value in values[1:] if is_ours else []:
            name = str(value.pop("name", ""))
            try:
                self._entries[name] = Entry(**value)
            except TypeError:
                continue  # a torn line, or another version's
        self._file = path.open("ab" if is_ours else "wb")
        if not is_ours:
            self._append({"version": VERSION, "key": self._key.hex()})
        elif lines[-1]:
            self._file.write(b"\n")  # after a torn line

    def get(self, name: str) -> Entry | None:
        """What is known of a file."""
        return self._entries.get(self._hidden(name))

    def add(self, name: str, entry: Entry) -> None:
        """Vouch for a file; on the disk when this returns."""
        self._entries[self._hidden(name)] = entry
        self._append({"name": self._hidden(name), **asdict(entry)})

    def _hidden(self, name: str) -> str:
        return hmac.new(self._key, os.fsencode(name), "sha256").hexdigest()

    def _append(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def lock(self) -> None:
        """Raises SinkError where another run works on the same folder."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SinkError("another album run works on this folder; wait for its end") from error

    def close(self) -> None:
        """Closes the file, which also unlocks it."""
        self._file.close()


@contextmanager
def opened(out: Path) -> Iterator[Index]:
    """The locked index of an output folder."""
    path = state_path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        index = Index(path)
    except OSError as error:
        raise SinkError(
            f"the album's index cannot be kept in {path.parent} ({error.strerror}); "
            "set XDG_STATE_HOME to a folder that can be written"
        ) from error
    try:
        index.lock()
        yield index
    finally:
        index.close()


def _value(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
