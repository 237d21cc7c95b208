"""Whether `album --consistent` gives all pictures of a person one stand-in, and others another.

Usage: python scripts/album_consistency.py DATA [-o report.json]
DATA holds faces/private (figures only) and clips. The people with two pictures are cut in two
halves: on one the likeness from which faces are joined is chosen, on the other it is measured, in
an album that also holds one picture each of as many strangers as asked for.

`joined`: share of pairs of pictures of one person with one stand-in. `mixed`: share of pairs of
pictures of two people with one stand-in. Control: without the option every picture has its own.
"""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from veilcam.camera.album_faces import StillFinder
from veilcam.camera.album_people import SAME_COSINE, AlbumPeople
from veilcam.camera.audit_faces import FaceFinder
from veilcam.camera.audit_people import Picture, read_people
from veilcam.camera.audit_recognizers import load_recognizers
from veilcam.camera.audit_stats import bootstrap
from veilcam.camera.manifest import load_bundle
from veilcam.camera.pictures import StillProtector
from veilcam.camera.track import Detection
from veilcam.camera.types import HeadCode

GRID = tuple(round(0.26 + 0.02 * i, 2) for i in range(18))
SIGNERS = {"A": "again brother help no student yes", "B": "bird milk please sorry thanks",
           "E": "hungry want"}  # fmt: skip
FRAMES = (0, 20, 40)  # of each clip


class Measured(AlbumPeople):
    """An album whose faces were measured before."""

    vector: np.ndarray | None = None

    def _vector(self, bgr: np.ndarray, face: Detection) -> np.ndarray | None:
        return self.vector


def flat(pairs: list[list[Picture]]) -> list[Picture]:
    """Pictures of all."""
    return list(itertools.chain.from_iterable(pairs))


def measure(pictures: list[Picture]) -> list[tuple[str, Detection, np.ndarray]]:
    """Person, face and vector of the largest face of each picture."""
    finder, people, found = StillFinder(), AlbumPeople(), []
    for picture in pictures:
        bgr = picture.read()
        faces = finder(bgr).by_turn.get(0, ())
        if not faces:
            continue
        face = max(faces, key=lambda f: f.box_xywh[2] * f.box_xywh[3])
        vector = people._vector(bgr, face)
        if vector is not None:
            found.append((picture.person, face, vector))
    return found


def replay(faces: list[tuple[str, Detection, np.ndarray]], same_cosine: float) -> list[int]:
    """Number of the stand-in of each picture, in an album of these."""
    people, numbers = Measured(same_cosine=same_cosine), []
    code = HeadCode(track_id=0, levels=(), values=np.zeros(0, np.float32),
                    latent=np.zeros(1, np.float32), center_xy=(0.0, 0.0), size_px=1.0, roll_deg=0.0,
                    skin_bgr=(120.0, 144.0, 184.0), hull_xy=np.zeros((3, 2)))  # fmt: skip
    for _, face, vector in faces:
        people.vector = vector.copy()
        people.begin()
        people.look(np.zeros((1, 1, 3), np.uint8), (face,))
        people.keep(*people.find((0.0, 0.0)), code)
        numbers.append(people.met[0])
    return numbers


def shares(persons: list[str], numbers: list[int]) -> dict[str, float]:
    """`joined` and `mixed`, see the top."""
    same, other = [], []
    for i, j in itertools.combinations(range(len(persons)), 2):
        (same if persons[i] == persons[j] else other).append(numbers[i] == numbers[j])
    return {"joined": float(np.mean(same)), "mixed": float(np.mean(other)),
            "stand_ins": len(set(numbers)), "people": len(set(persons))}  # fmt: skip


def intervals(persons: list[str], numbers: list[int]) -> dict[str, list[float]]:
    """95 % by bootstrap over people."""
    names = sorted(set(persons))
    rows = {name: [n for p, n in zip(persons, numbers, strict=True) if p == name] for name in names}

    def of(what: str) -> Callable[[np.ndarray], float]:
        def value(picks: np.ndarray) -> float:
            who = [f"{at}" for at, i in enumerate(picks) for _ in rows[names[i]]]
            origin = [i for i in picks for _ in rows[names[i]]]
            drawn = [n for i in picks for n in rows[names[i]]]
            hits = [
                drawn[a] == drawn[b] for a, b in itertools.combinations(range(len(who)), 2)
                if (who[a] == who[b]) == (what == "joined")
                and (what == "joined" or origin[a] != origin[b])  # drawn twice is not two people
            ]  # fmt: skip
            return float(np.mean(hits)) if hits else 0.0

        return value

    found = {what: bootstrap(of(what), len(names), resamples=200) for what in ("joined", "mixed")}
    return {what: [value.low, value.high] for what, value in found.items()}


def shown(pictures: list[Picture], *, is_consistent: bool) -> dict[str, float]:
    """Likeness of the stand-ins themselves, as a recognizer sees them in the twins."""
    people = AlbumPeople() if is_consistent else None
    protect = StillProtector(load_bundle(), people=people)
    finder, recognizer = FaceFinder(), load_recognizers([Path("camera/assets")])[0]
    rows = []
    for picture in pictures:
        safe = protect(picture.read())
        if seen := finder(safe.bgr):
            rows.append((picture.person, recognizer(safe.bgr, seen[0])))
    pairs = list(itertools.combinations(rows, 2))
    return {
        "same_person": float(np.mean([a[1] @ b[1] for a, b in pairs if a[0] == b[0]])),
        "two_people": float(np.mean([a[1] @ b[1] for a, b in pairs if a[0] != b[0]])),
        "pictures": len(rows),
    }


def signers(folder: Path) -> list[Picture]:
    """Frames of the clips of three people who sign."""
    pictures = []
    for person, names in SIGNERS.items():
        for name in names.split():
            capture = cv2.VideoCapture(str(folder / f"{name}.mkv"))
            for number in FRAMES:
                capture.set(cv2.CAP_PROP_POS_FRAMES, number)
                is_read, bgr = capture.read()
                if is_read:
                    pictures.append(Picture(person, number, bgr.copy))
    return pictures


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Report, .json")
@click.option("--strangers", type=click.IntRange(0), default=200, help="With one picture each.")
@click.option("--shown", "num_shown", type=click.IntRange(0), default=20, help="People painted.")
def main(data: Path, out: Path | None, strangers: int, num_shown: int) -> None:
    """Measure how well people of an album are kept together and apart."""
    cv2.setNumThreads(1)
    by_person: dict[str, list[Picture]] = {}
    for picture in read_people(data / "faces" / "private"):
        by_person.setdefault(picture.person, []).append(picture)
    random = np.random.default_rng(0)  # of the choice of people; nothing secret is drawn by it
    order = [list(by_person.values())[i] for i in random.permutation(len(by_person))]
    pairs = [p[:2] for p in order if len(p) > 1]
    alone = [p[0] for p in order if len(p) == 1][:strangers]
    half = len(pairs) // 2
    sets = {"chosen_on": flat(pairs[:half]), "measured_on": flat(pairs[half:]) + alone,
            "signers": signers(data / "clips")}  # fmt: skip
    report: dict[str, Any] = {"same_cosine": SAME_COSINE}
    for name, pictures in sets.items():
        faces = measure([pictures[i] for i in random.permutation(len(pictures))])
        persons = [person for person, _, _ in faces]
        at = replay(faces, SAME_COSINE)
        report[name] = {"pictures": len(faces), **shares(persons, at)}
        report[name]["grid"] = {t: shares(persons, replay(faces, t)) for t in GRID}
        if name == "measured_on":
            report[name]["intervals"] = intervals(persons, at)
        sys.stderr.write(f"{name}: {len(faces)} of {len(pictures)} pictures have a face\n")
    some = flat(pairs[half : half + num_shown])
    report["shown"] = {
        k: shown(some, is_consistent=k == "consistent") for k in ("consistent", "not")
    }
    text = json.dumps(report, indent=1)
    if out is not None:
        out.write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
