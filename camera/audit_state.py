"""What an interrupted audit goes on from: the numbers of each picture measured so far.

They hold face vectors of the people under attack and what attackers who learn see of them (the face
as 16x16 and 12x12 grey levels), which are personal data: the folder is made for its owner alone,
only where the user names one, and is removed once the audit is through.
"""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from veilcam.camera.audit_shots import Shot
from veilcam.camera.errors import ConfigError, SinkError

_HEADER = "audit.json"
_PLAIN = ("look", "traits", "num_faces")
_SEPARATOR = "|"


class AuditState:
    """A folder with one file for each picture.

    Args:
        folder: Made where it is not there.
        what: What the numbers belong to: bundle, strength, people; another audit is refused.

    Raises:
        ConfigError: The folder belongs to another audit, or is no such folder.
        SinkError: It cannot be written.
    """

    def __init__(self, folder: Path, what: dict[str, Any]) -> None:
        self._folder = folder
        header = json.dumps(what, sort_keys=True)
        try:
            if folder.exists():
                if not (folder / _HEADER).is_file():
                    raise ConfigError(f"{folder} is no state of an audit; name another folder")
                if (folder / _HEADER).read_text() != header:
                    raise ConfigError(
                        f"{folder} belongs to an audit of another bundle, strength or people;"
                        " name another folder"
                    )
            else:
                folder.mkdir(mode=0o700, parents=True)
                self._write(_HEADER, header.encode())
        except OSError as error:
            raise SinkError(f"{folder} cannot be written ({error.strerror})") from error

    def get(self, person: str, number: int, *, is_learning: bool) -> tuple[bool, Shot | None]:
        """Whether this picture was measured, and its numbers; None where no face was found."""
        path = self._folder / _name(person, number, is_learning)
        if not path.is_file():
            return False, None
        try:
            with np.load(path, allow_pickle=False) as found:
                values = {name: found[name] for name in found.files}
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is broken; remove it and start again") from error
        return True, _shot_of(person, number, values) if values else None

    def put(self, person: str, number: int, shot: Shot | None, *, is_learning: bool) -> None:
        """Keeps the numbers of a picture. Raises SinkError where they cannot be written."""
        temporary = self._folder / ".new.npz"
        try:
            with temporary.open("wb") as file:
                np.savez(file, **({} if shot is None else _values_of(shot)))
            temporary.replace(self._folder / _name(person, number, is_learning))
        except OSError as error:
            raise SinkError(f"{self._folder} cannot be written ({error.strerror})") from error

    def remove(self) -> None:
        """The audit is through."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, name: str, data: bytes) -> None:
        temporary = self._folder / f".{name}.new"
        temporary.write_bytes(data)
        temporary.replace(self._folder / name)


def _name(person: str, number: int, is_learning: bool) -> str:
    """Says nothing of who it is."""
    text = f"{person}/{number}/{is_learning}"
    return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"


def _values_of(shot: Shot) -> dict[str, Any]:
    plain = {name: asdict(shot)[name] for name in _PLAIN}
    values: dict[str, Any] = {"plain": np.array(json.dumps(plain))}
    for (view, recognizer), vector in shot.vectors.items():
        values[_SEPARATOR.join(("vector", view, recognizer))] = vector
    for view, row in shot.features.items():
        values[_SEPARATOR.join(("feature", view))] = row
    for name in ("code", "planted"):
        if (row := getattr(shot, name)) is not None:
            values[name] = row
    return values


def _shot_of(person: str, number: int, values: dict[str, Any]) -> Shot:
    shot = Shot(person, number, **json.loads(str(values.pop("plain"))))
    for name, row in values.items():
        kind, *rest = name.split(_SEPARATOR)
        if kind == "vector":
            shot.vectors[rest[0], rest[1]] = row
        elif kind == "feature":
            shot.features[rest[0]] = row
        else:
            setattr(shot, kind, row)
    return shot
