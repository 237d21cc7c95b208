"""People of an audit: pictures by person, read one at a time, padded so that a detector works."""

import csv
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.errors import InputError
from veilcam.camera.generator import Generator
from veilcam.camera.manifest import Bundle

_TIGHT_PX = 200  # a picture up to this size is a face crop, and gets a border
_TRUNCATION = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture of one person; pixels are read when they are asked for, and kept by nobody.

    Attributes:
        person: Name of the person; the unit of bootstrap and split.
        number: Running number among the person's pictures, from 0.
        read: Gives the pixels, padded.
    """

    person: str
    number: int
    read: Callable[[], UInt8[np.ndarray, "h w 3"]]

    def __repr__(self) -> str:
        return "Picture(person and pixels withheld)"


@dataclass(frozen=True, slots=True)
class Split:
    """Who is attacked, and on whom attackers may learn: never the same person."""

    attacked: tuple[Picture, ...]
    others: tuple[Picture, ...]


def read_people(folder: Path) -> tuple[Picture, ...]:
    """Every colour picture of a folder with manifest.csv (file, person), or one person a file.

    Raises:
        InputError: No folder, or no pictures in it.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}, wanted pictures of people")
    rows = _rows(folder)
    if not rows:
        raise InputError(f"{folder} holds no pictures, wanted .jpg or .png files")
    seen: dict[str, int] = {}
    pictures = []
    for path, person in rows:
        number = seen.get(person, 0)
        seen[person] = number + 1
        pictures.append(Picture(person, number, partial(_read, path)))
    return tuple(pictures)


def split_people(
    pictures: tuple[Picture, ...], *, num_attacked: int, num_others: int,
    learn_on: tuple[Picture, ...] | None = None,
) -> Split:  # fmt: skip
    """People with two pictures first among the attacked; the rest for the attackers to learn on.

    Args:
        pictures: Of the people under attack.
        num_attacked: How many people at most.
        num_others: How many to learn on, at most.
        learn_on: Of other people, on whom the attackers learn in place of the rest of `pictures`.

    Raises:
        InputError: Somebody is in both.
    """
    people = _by_person(pictures)
    people.sort(key=lambda p: -min(len(p), 2))
    if learn_on is not None:
        if {p.person for p in pictures} & {p.person for p in learn_on}:
            raise InputError("somebody is among those attacked and those to learn on; part them")
        attacked = [p for person in people[:num_attacked] for p in person[:2]]
        others = [person[0] for person in _by_person(learn_on)[:num_others]]
        return Split(tuple(attacked), tuple(others))
    # never fewer learners than attacked: a starved attacker proves nothing
    num_attacked = min(num_attacked, max(len(people) // 2, 1))
    attacked = [p for person in people[:num_attacked] for p in person[:2]]
    others = [person[0] for person in people[num_attacked : num_attacked + num_others]]
    return Split(tuple(attacked), tuple(others))


def _by_person(pictures: tuple[Picture, ...]) -> list[list[Picture]]:
    """Each person's pictures, people in an order of chance, the same each time."""
    found: dict[str, list[Picture]] = {}
    for picture in pictures:
        found.setdefault(picture.person, []).append(picture)
    order = np.random.default_rng(0).permutation(len(found))
    return [list(found.values())[i] for i in order]


def draw_people(
    bundle: Bundle, generator: Generator, *, num_people: int, num_pictures: int = 2
) -> tuple[Picture, ...]:
    """People who do not exist, drawn by the bundle itself, each in some poses, on a plain ground.

    They make an audit possible where no pictures are given; it then says so.
    """
    random = np.random.default_rng(secrets.randbits(128))
    middle = np.array([(f.low + f.high) / 2 for f in HEAD_FIELDS], np.float32)
    reach = np.array([(f.high - f.low) / 2 for f in HEAD_FIELDS], np.float32)
    pictures = []
    for index in range(num_people):
        noise = random.standard_normal(len(bundle.mean)).astype(np.float32)
        latent = bundle.mean + _TRUNCATION * bundle.chol @ noise
        for number in range(num_pictures):
            values = middle + 0.25 * reach * random.uniform(-1, 1, len(middle)).astype(np.float32)
            bgra = generator.paint(values, latent.astype(np.float32))
            bgr = _on_ground(bgra, random.integers(60, 190, 3))
            pictures.append(Picture(f"nobody_{index}", number, bgr.copy))
    return tuple(pictures)


def pad(bgr: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A tight crop with a softened border, so that the detector finds it as in a frame."""
    if max(bgr.shape[:2]) > _TIGHT_PX:
        return bgr
    border = max(bgr.shape[:2]) // 2
    wide = cv2.copyMakeBorder(bgr, border, border, border, border, cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(wide, (0, 0), border / 6)
    soft[border : border + bgr.shape[0], border : border + bgr.shape[1]] = bgr
    return np.asarray(soft)


def _read(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise InputError(f"a picture in {path.parent} cannot be read; remove it")
    return pad(np.asarray(bgr))


def _rows(folder: Path) -> list[tuple[Path, str]]:
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        with manifest.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        if rows and {"file", "person"} <= set(rows[0]):
            return [(folder / r["file"], r["person"]) for r in rows if r.get("colour", "1") != "0"]
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    return [(path, path.stem) for path in paths]


def _on_ground(bgra: np.ndarray, colour: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    alpha = bgra[..., 3:].astype(np.float32) / 255
    bgr = bgra[..., :3] * alpha + colour.astype(np.float32) * (1 - alpha)
    return pad(bgr.astype(np.uint8))
