"""Whether substitutes find what the originals find, and whether people are found by them.

Usage: python scripts/search_agreement.py DATA [-o report.json] [--queries 40] [--people 100]
DATA holds scenes/views, scenes/carla, persons/photos, faces/synthetic, clips, faces/private and
models. The index is built here from the public ones: features of MobileNet, exact search by FAISS.
faces/private gives figures only, and only for the search by face.

A query's own picture is left out of both its lists. Intervals: 95 %, bootstrap over units (clip,
panorama, picture or person). Controls: an untouched copy must give 100 %, and another query of the
same group shows what any picture of that kind would give.
"""

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from veilcam.camera.album_files import read_picture
from veilcam.camera.audit_faces import Face, FaceFinder
from veilcam.camera.audit_people import Picture, read_people
from veilcam.camera.audit_recognizers import (
    Recognizer,
    load_features,
    load_recognizers,
    model_folders,
    unit,
)
from veilcam.camera.audit_stats import bootstrap, share_of_hits
from veilcam.camera.errors import ConfigError, SourceError
from veilcam.camera.search import QueryMaker, SearchOptions
from veilcam.camera.search_hashes import NAMES, Reference

_log = logging.getLogger(__name__)
TOP = 10
FRAMES_APART = 10  # of a clip
SAME_BITS = {"phash": 10, "dhash": 10, "whash": 10, "pdq": 31}  # up to this: the same picture
SAME_POINTS = 15  # SIFT points that agree on one homography
VIEWS = ("copy", "saved again", "substitute", "defeat")


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of the index: its group, its unit, and how to read it."""

    group: str
    unit: str
    read: Callable[[], np.ndarray]


def read_items(data: Path) -> list[Item]:
    """Every public picture, and frames of the clips."""

    def stills(group: str, folder: str, unit_of: Callable[[Path], str]) -> list[Item]:
        paths = sorted((data / folder).glob("*.jpg"))
        return [Item(group, unit_of(p), lambda p=p: cv2.imread(str(p))) for p in paths]

    items = stills("photos", "persons/photos", lambda p: p.stem)
    items += stills("rooms", "scenes/views", lambda p: p.stem.rsplit("_", 1)[0])
    items += stills("streets", "scenes/carla", lambda p: p.stem)
    items += stills("portraits", "faces/synthetic", lambda p: p.stem)
    for path in sorted([*(data / "clips").glob("*.mkv"), *(data / "clips").glob("*.mp4")]):
        group = "signers" if path.suffix == ".mkv" else "cameras"
        apart = FRAMES_APART if path.suffix == ".mkv" else 10 * FRAMES_APART
        items += [Item(group, path.stem, lambda f=f: f) for f in _frames(path, apart)]
    if {item.group for item in items} < {"photos", "rooms", "streets", "signers"}:
        raise ConfigError(f"{data} lacks pictures, wanted those named in --help")
    return items


def _frames(path: Path, apart: int) -> list[np.ndarray]:
    capture, frames, number = cv2.VideoCapture(str(path)), [], 0
    while True:
        is_read, frame = capture.read()
        if not is_read:
            return frames
        if number % apart == 0:
            frames.append(frame)
        number += 1


class Views:
    """The ways in which a picture is given to the search engine."""

    def __init__(self) -> None:
        self._plain = QueryMaker(SearchOptions())
        self._defeat = QueryMaker(SearchOptions(defeats_matching=True))

    def __call__(self, bgr: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
        """Pixels by view, and the heads replaced. A view that was refused is left out."""
        saved = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
        views = {"copy": bgr.copy(), "saved again": cv2.imdecode(saved, cv2.IMREAD_COLOR)}
        heads = 0
        for name, maker in (("substitute", self._plain), ("defeat", self._defeat)):
            try:
                ((data, told),) = maker(bgr, "JPEG")
            except SourceError:
                continue
            views[name] = read_picture(data, "JPEG")
            heads = told["heads_replaced"]
        return views, heads


def sift_points(first: np.ndarray, second: np.ndarray) -> int:
    """Key points by which a matcher of local features would know a picture again."""
    sift = cv2.SIFT_create(1000)
    grey = [cv2.cvtColor(b, cv2.COLOR_BGR2GRAY) for b in (first, second)]
    (points1, rows1), (points2, rows2) = (sift.detectAndCompute(g, None) for g in grey)
    if rows1 is None or rows2 is None or len(rows1) < 4 or len(rows2) < 4:
        return 0
    pairs = [m for m in cv2.BFMatcher().knnMatch(rows1, rows2, k=2) if len(m) == 2]
    good = [m for m, other in pairs if m.distance < 0.75 * other.distance]
    if len(good) < 4:
        return 0
    here = np.array([points1[m.queryIdx].pt for m in good], np.float32)
    there = np.array([points2[m.trainIdx].pt for m in good], np.float32)
    _, inliers = cv2.findHomography(here, there, cv2.RANSAC, 5.0)
    return 0 if inliers is None else int(inliers.sum())


class Engine:
    """An image search engine: a feature net and an exact index."""

    def __init__(self, items: list[Item], features: Callable[[np.ndarray], np.ndarray]) -> None:
        import faiss

        self._features = features
        rows = np.stack([features(item.read()) for item in items])
        self._index = faiss.IndexFlatIP(rows.shape[1])
        self._index.add(unit(rows).astype(np.float32))
        self.size = len(items)

    def find(self, bgr: np.ndarray, own: int) -> tuple[set[int], bool]:
        """The ten nearest without the query's own picture, and whether that was the first."""
        row = unit(self._features(bgr)[None]).astype(np.float32)
        found = [int(i) for i in self._index.search(row, TOP + 1)[1][0]]
        return set([i for i in found if i != own][:TOP]), found[0] == own


def pick(items: list[Item], group: str, num: int) -> list[int]:
    """Queries of a group, in turn from each unit; the choice is fixed, the substitutes are not."""
    order = np.random.default_rng(0).permutation(len(items))
    mine = [int(i) for i in order if items[i].group == group]
    seen: dict[str, int] = {}
    ranked = []
    for i in mine:
        seen[items[i].unit] = seen.get(items[i].unit, 0) + 1
        ranked.append((seen[items[i].unit], i))
    return [i for _, i in sorted(ranked, key=lambda pair: pair[0])][:num]


def measure_group(
    items: list[Item], group: str, num: int, engine: Engine, views: Views
) -> dict[str, Any]:
    """Agreement, own picture found, and what knows the original again, of one group."""
    queries = pick(items, group, num)
    units = np.array([items[i].unit for i in queries])
    tops = [engine.find(items[i].read(), i)[0] for i in queries]
    rows: dict[str, dict[str, list[tuple[int, float]]]] = {}
    heads = 0

    def note(view: str, what: str, at: int, value: float) -> None:
        rows.setdefault(view, {}).setdefault(what, []).append((at, float(value)))

    for at, query in enumerate(queries):
        raw = items[query].read()
        reference = Reference(raw)
        made, num_heads = views(raw)
        heads += num_heads
        # the negative control: an original of the same group but of another unit
        other = next(j for j in np.roll(range(len(queries)), -at - 1) if units[j] != units[at])
        for view, bgr in {**made, "another": items[queries[other]].read()}.items():
            found, is_own_first = engine.find(bgr, query)
            note(view, "agreement", at, len(found & tops[at]) / TOP)
            note(view, "own_first", at, is_own_first)
            bits = reference.distances(bgr)
            for name in NAMES:
                note(view, f"same_{name}", at, bits[name] <= SAME_BITS[name])
            note(view, "same_any_hash", at, any(bits[n] <= SAME_BITS[n] for n in NAMES))
            note(view, "same_sift", at, sift_points(raw, bgr) >= SAME_POINTS)
        _log.info("%s %d of %d", group, at + 1, len(queries))
    return {
        "queries": len(queries),
        "units": len(set(units)),
        "heads_replaced": heads,
        "chance": TOP / (engine.size - 1),
        "views": {
            view: {what: _estimate(pairs, units) for what, pairs in values.items()}
            for view, values in rows.items()
        },
    }


def _estimate(pairs: list[tuple[int, float]], units: np.ndarray) -> dict[str, float]:
    """Mean over queries, resampled over units."""
    at, values = np.array([a for a, _ in pairs]), np.array([v for _, v in pairs])
    names = np.unique(units[at])
    by_unit = [values[units[at] == name] for name in names]
    found = bootstrap(
        lambda picks: float(np.concatenate([by_unit[i] for i in picks]).mean()), len(names),
        resamples=1000,
    )  # fmt: skip
    return {"value": found.value, "low": found.low, "high": found.high, "queries": len(pairs)}


def measure_people(folder: Path, models: Path, num: int, views: Views) -> dict[str, Any]:
    """Rank-1 of the right person in a gallery of faces, by each view.

    `other`: query is another picture of the person than the gallery's. `same`: the very picture.
    """
    finder, recognizers = FaceFinder(), load_recognizers([models])
    pictures = read_people(folder)
    first = {p.person: p for p in pictures if p.number == 0}
    second = [p for p in pictures if p.number == 1][:num]
    people, gallery = _gallery(list(first.values()), finder, recognizers)
    report: dict[str, Any] = {"gallery": len(people), "chance": 1 / len(people), "rows": []}
    probes = [("other", p) for p in second] + [("same", first[p.person]) for p in second]
    hits: dict[tuple[str, str, str], list[tuple[str, bool]]] = {}
    for at, (kind, picture) in enumerate(probes):
        raw = picture.read()
        faces = finder(raw)
        if not faces or picture.person not in people:
            continue
        for view, bgr in views(raw)[0].items():
            shown = finder(bgr)
            face = shown[0] if shown else faces[0]
            for recognizer in recognizers:
                scores = gallery[recognizer.name] @ recognizer(bgr, face)
                is_hit = people[int(scores.argmax())] == picture.person
                hits.setdefault((kind, view, recognizer.name), []).append((picture.person, is_hit))
        _log.info("people %d of %d", at + 1, len(probes))
    for (kind, view, name), pairs in hits.items():
        found = share_of_hits(np.array([h for _, h in pairs]), np.array([p for p, _ in pairs]))
        report["rows"].append(
            {"picture": kind, "view": view, "recognizer": name, "rank1": found.value,
             "low": found.low, "high": found.high, "people": found.num_persons}
        )  # fmt: skip
    return report


def _gallery(
    pictures: list[Picture], finder: Callable[[np.ndarray], list[Face]],
    recognizers: tuple[Recognizer, ...],
) -> tuple[list[str], dict[str, np.ndarray]]:  # fmt: skip
    people, rows = [], {recognizer.name: [] for recognizer in recognizers}
    for picture in pictures:
        bgr = picture.read()
        if faces := finder(bgr):
            people.append(picture.person)
            for recognizer in recognizers:
                rows[recognizer.name].append(recognizer(bgr, faces[0]))
    return people, {name: np.stack(vectors) for name, vectors in rows.items()}


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Report, .json")
@click.option("--queries", type=click.IntRange(4), default=40, help="Of each group.")
@click.option("--people", type=click.IntRange(4), default=100, help="Searched by their faces.")
def main(data: Path, out: Path | None, queries: int, people: int) -> None:
    """Measure agreement of search results on an index of DATA."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    cv2.setNumThreads(1)
    models = data / "models"
    features = load_features([models])
    if features is None:
        raise click.UsageError(f"no feature net in {models}")
    items, views = read_items(data), Views()
    engine = Engine(items, features)
    sizes = {g: sum(i.group == g for i in items) for g in dict.fromkeys(i.group for i in items)}
    # with VEILCAM_MODELS set, edits are chosen by the very net that the engine here uses
    is_chosen = load_features(model_folders()) is not None
    report: dict[str, Any] = {"index": sizes, "edits_chosen_by_net": is_chosen, "groups": {}}
    for group in ("photos", "signers", "rooms", "streets"):
        report["groups"][group] = measure_group(items, group, queries, engine, views)
    for group, found in report["groups"].items():
        if found["views"]["copy"]["agreement"]["value"] != 1.0:
            raise click.ClickException(f"broken: a copy of {group} does not agree with itself")
    report["people"] = measure_people(data / "faces" / "private", models, people, views)
    text = json.dumps(report, indent=1)
    if out is not None:
        out.write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
