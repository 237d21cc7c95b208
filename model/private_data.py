"""Private people as types that nothing but the mechanism can open.

`PrivateSet` holds all pictures of all private people, `PrivateBatch` those of one step. Neither
can be indexed, iterated, turned into an array, traced by JAX, pickled or printed. `reveal` opens a
batch for `privacy.Release`; a test checks that no other module names it.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
from jaxtyping import Bool, Int

from veilcam.camera.errors import InputError, VeilcamError


class PrivacyError(VeilcamError):
    """Private data, a mechanism or a ledger was used in a way that would break the promise."""


class _Sealed:
    """Refuses every way out of an object that ordinary Python or JAX code would take."""

    __slots__ = ()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise PrivacyError(
            f"{type(self).__name__} can't be read, copied or stored; private data go through "
            "privacy.Release, which clips, sums and adds noise"
        )

    __array__ = __iter__ = __getitem__ = __reduce__ = __reduce_ex__ = _refuse
    __copy__ = __deepcopy__ = __getstate__ = _refuse


class PrivateBatch(_Sealed):
    """People drawn for one step.

    Args:
        arrays: Each (b, k, ...): `k` pictures of each of `b` people; `b` may be 0.
        is_padding: True for rows that stand for nobody.
    """

    __slots__ = ("__arrays", "__is_padding")

    def __init__(self, arrays: dict[str, np.ndarray], is_padding: Bool[np.ndarray, " b"]) -> None:
        self.__arrays = arrays
        self.__is_padding = is_padding

    def __repr__(self) -> str:
        return "PrivateBatch(<sealed>)"  # how many people a Poisson draw took is private too


class PrivateSet(_Sealed):
    """All pictures of all private people.

    Args:
        arrays: Named arrays (n, ...), one row for each picture.
        person: Name or number of the person in each picture; the unit of privacy.

    Raises:
        InputError: No picture, or arrays of unequal length.
    """

    __slots__ = ("__arrays", "__person", "num_persons", "num_pictures")

    def __init__(
        self, arrays: Mapping[str, np.ndarray], person: Sequence[str] | np.ndarray
    ) -> None:
        lengths = {name: len(array) for name, array in arrays.items()} | {"person": len(person)}
        if len(set(lengths.values())) != 1:
            raise InputError(f"private arrays have unequal lengths {lengths}; wanted one row each")
        if not len(person):
            raise InputError("there are no private pictures; wanted at least one person")
        self.__arrays = {name: np.asarray(array) for name, array in arrays.items()}
        unique, self.__person = np.unique(np.asarray(person), return_inverse=True)
        self.num_persons = len(unique)
        self.num_pictures = len(person)

    def __repr__(self) -> str:
        return f"PrivateSet({self.num_persons} people, {self.num_pictures} pictures)"

    @property
    def person_index(self) -> Int[np.ndarray, " n"]:
        """Index of the person in each picture, for the sampler."""
        return self.__person.copy()

    def select(self, rows: Int[np.ndarray, "b k"]) -> PrivateBatch:
        """The pictures at these rows; a row of -1 is nobody."""
        is_padding = np.asarray((rows < 0).any(axis=1))
        kept = np.where(is_padding[:, None], 0, rows)
        arrays = {name: array[kept] for name, array in self.__arrays.items()}
        for array in arrays.values():
            array[is_padding] = 0
        return PrivateBatch(arrays, is_padding)

    def map_pictures(self, function: Any, *, chunk: int = 64) -> "PrivateSet":
        """A new set of what `function` (arrays of a chunk -> arrays) makes of each picture.

        The result for a picture must not depend on the others, so that people stay independent
        units; this is checked for one picture of the first chunk.
        """
        parts = []
        for start in range(0, self.num_pictures, chunk):
            rows = {name: array[start : start + chunk] for name, array in self.__arrays.items()}
            made = {name: np.asarray(array) for name, array in function(rows).items()}
            if start == 0:
                alone = function({name: array[-1:] for name, array in rows.items()})
                for name, array in made.items():
                    if not np.allclose(array[-1:], alone[name], rtol=1e-3, atol=1e-4):
                        raise PrivacyError(f"map_pictures: {name!r} of a picture depends on others")
            parts.append(made)
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return PrivateSet(arrays, self.__person)


def reveal(batch: PrivateBatch) -> tuple[dict[str, np.ndarray], Bool[np.ndarray, " b"]]:
    """Arrays and padding flags of a batch. For `privacy.Release` only."""
    return batch._PrivateBatch__arrays, batch._PrivateBatch__is_padding  # type: ignore[attr-defined]


def load_private(folder: Path, *, size_px: int, max_bad: int = 0) -> PrivateSet:
    """Reads the pictures that `manifest.csv` (columns `file`, `person`) names.

    Args:
        folder: Holds the manifest and the files.
        size_px: Width and height that pictures are brought to.
        max_bad: Pictures that may be missing or unreadable and are then left out.

    Returns:
        Array `bgr`, uint8 (n, size_px, size_px, 3), by person.

    Raises:
        InputError: No manifest, missing columns, or more than `max_bad` bad files. The message
            counts them and names none: file names may name people.
    """
    path = folder / "manifest.csv"
    try:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not rows or not {"file", "person"} <= set(rows[0]):
        raise InputError(f"{path}: wanted rows with the columns 'file' and 'person'")
    pictures, people, num_missing, num_unreadable = [], [], 0, 0
    for row in rows:
        file = folder / row["file"]
        if not file.is_file() or not row["person"]:
            num_missing += 1
            continue
        data = np.frombuffer(file.read_bytes(), np.uint8)
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if bgr is None:
            num_unreadable += 1
            continue
        pictures.append(cv2.resize(bgr, (size_px, size_px), interpolation=cv2.INTER_AREA))
        people.append(row["person"])
    if num_missing + num_unreadable > max_bad:
        raise InputError(
            f"{path}: {num_missing} of {len(rows)} files (or their person) are missing and "
            f"{num_unreadable} unreadable; at most {max_bad} may be; mend the manifest"
        )
    if not pictures:
        raise InputError(f"{path}: no picture could be read")
    return PrivateSet({"bgr": np.stack(pictures)}, people)
