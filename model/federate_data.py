"""Features of faces for a federation, and the dealing of people to virtual cameras.

A face is aligned to ArcFace's five points and described by mobileface (256 numbers, 0.3 ms); the
first principal axes of *public* faces, whitened and bounded, are what nodes learn from. Pictures
are never stored and never leave; the file of features is private too and is written 0600.
"""

import csv
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from veilcam.camera.audit_faces import FaceFinder
from veilcam.camera.audit_recognizers import load_recognizers, model_folders
from veilcam.camera.errors import InputError
from veilcam.model.private_data import PrivateSet

_BOUND = 4.0  # of a whitened feature: an outlier can't lead a camera's gradient
Describe = Callable[[UInt8[np.ndarray, "h w 3"]], Float[np.ndarray, " v"] | None]


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """Whitened principal axes of public faces.

    Attributes:
        mean: (v,) of public vectors.
        axes: (v, d), each divided by the public standard deviation along it.
    """

    mean: np.ndarray
    axes: np.ndarray

    def __call__(self, vectors: Float[np.ndarray, "n v"]) -> Float[np.ndarray, "n d"]:
        """Features, bounded."""
        rows = (vectors - self.mean) @ self.axes
        return np.asarray(np.clip(rows, -_BOUND, _BOUND), np.float32)

    @classmethod
    def fit(cls, vectors: Float[np.ndarray, "n v"], size: int) -> "Basis":
        """Of public vectors.

        Raises:
            InputError: Fewer vectors than axes.
        """
        if len(vectors) <= size:
            raise InputError(
                f"{len(vectors)} public faces; wanted more than {size} for {size} axes"
            )
        mean = vectors.mean(0)
        _, scale, axes = np.linalg.svd(vectors - mean, full_matrices=False)
        return cls(mean, axes[:size].T / np.maximum(scale[:size] / len(vectors) ** 0.5, 1e-6))

    @classmethod
    def load(cls, path: Path) -> "Basis":
        """From a file of public features."""
        try:
            with np.load(path) as file:
                return cls(file["mean"], file["axes"])
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: holds no basis; make it with --public: {error}") from error


def describer(models: Path | None = None) -> Describe:
    """The largest face of a picture -> its unit vector; None without a face."""
    finder, recognizer = FaceFinder(), load_recognizers(model_folders(models))[0]

    def describe(bgr: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, " v"] | None:
        faces = finder(bgr)
        return recognizer(bgr, faces[0]) if faces else None

    return describe


def pictures_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """File and person of each row of `manifest.csv` (`person` defaults to the file)."""
    path = folder / "manifest.csv"
    try:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not rows or "file" not in rows[0]:
        raise InputError(f"{path}: wanted rows with the columns 'file' and 'person'")
    images = folder / "images" if (folder / "images").is_dir() else folder
    for row in rows:
        if row.get("colour", "1") != "0":  # a picture without colour tells of its age, not of looks
            yield images / row["file"], row.get("person") or row["file"]


def describe_folder(
    folder: Path, describe: Describe, tick: Callable[[int], None] = lambda count: None
) -> tuple[Float[np.ndarray, "n v"], list[str]]:
    """Vectors and people of all pictures in which a face is found.

    Raises:
        InputError: No manifest, or no face at all. The message names no picture.
    """
    vectors, people = [], []
    for count, (path, person) in enumerate(pictures_of(folder), 1):
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
        vector = None if bgr is None else describe(bgr)
        if vector is not None:
            vectors.append(vector)
            people.append(person)
        tick(count)
    if not vectors:
        raise InputError(f"{folder}: no face was found in any picture that its manifest names")
    return np.stack(vectors), people


def write_public(path: Path, vectors: Float[np.ndarray, "n v"], size: int) -> str:
    """Fits the basis, writes it with the public features; returns the file's sha256."""
    return write_features(path, vectors, Basis.fit(vectors[~_is_held(len(vectors))], size))


def write_features(
    path: Path, vectors: Float[np.ndarray, "n v"], basis: Basis, **more: np.ndarray
) -> str:
    """Public features along a basis, and other public arrays; returns the file's sha256.

    Every fifth face is kept for evaluation, as the array `held`.
    """
    is_held = _is_held(len(vectors))
    x, held = basis(vectors[~is_held]), basis(vectors[is_held])
    _write(path, 0o644, x=x, held=held, mean=basis.mean, axes=basis.axes, **more)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_held(count: int) -> np.ndarray:
    return np.arange(count) % 5 == 4


def write_people(
    path: Path, basis: Basis, vectors: Float[np.ndarray, "n v"], people: list[str]
) -> None:
    """Features of private people, readable by their owner only."""
    write_rows(path, basis(vectors), np.array(people))


def write_rows(path: Path, rows: Float[np.ndarray, "n d"], people: np.ndarray) -> None:
    """The same, described before."""
    _write(path, 0o600, x=rows, person=people)


def load_public_mean(path: Path) -> tuple[Float[np.ndarray, " d"], float]:
    """Mean and radius of an encoder's public latents: see `private_latents.Encoder`.

    Raises:
        InputError: The file holds none.
    """
    try:
        with np.load(path) as file:
            center, radius = file["mean"].astype(np.float64), float(file["radius"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: wanted an encoder with mean and radius: {error}") from error
    if center.ndim != 1 or not np.isfinite(center).all() or not 0 < radius < float("inf"):
        raise InputError(f"{path}: mean and radius of the encoder make no sense")
    return center, radius


def load_features(path: Path, size: int) -> tuple[Float[np.ndarray, "n d"], np.ndarray]:
    """Features and people that `write_people` wrote.

    Raises:
        InputError: The file is no such file or of another size.
    """
    try:
        with np.load(path) as file:
            rows, people = file["x"].astype(np.float32), file["person"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: wanted the arrays x and person: {error}") from error
    if rows.ndim != 2 or rows.shape[1] != size or len(rows) != len(people):
        raise InputError(f"{path}: x has shape {rows.shape}; wanted ({len(people)}, {size})")
    if not np.isfinite(rows).all():
        raise InputError(f"{path}: holds numbers that are not finite; make it again")
    return rows, people


def load_people(path: Path, size: int) -> PrivateSet:
    """The same, sealed."""
    rows, people = load_features(path, size)
    return PrivateSet({"x": rows}, people)


def camera_of(person: str, num_cameras: int) -> int:
    """Which virtual camera a person is dealt to: by the name alone."""
    digest = hashlib.sha256(f"camera/{person}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % num_cameras


def deal(
    rows: Float[np.ndarray, "n d"], people: np.ndarray, num_cameras: int
) -> list[PrivateSet | None]:
    """People dealt to cameras; None for one that saw nobody."""
    camera = np.array([camera_of(str(person), num_cameras) for person in people])
    return [
        PrivateSet({"x": rows[camera == index]}, people[camera == index])
        if (camera == index).any()
        else None
        for index in range(num_cameras)
    ]


def _write(path: Path, mode: int, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with os.fdopen(os.open(partial, flags, mode), "wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
