"""Asked for against seen: do people from prompts look as the words say, to judges of another kind?

Usage: python scripts/prompt_agreement.py BUNDLE --pack PACK --data DATA [--people 64] [-o FILE]

For each look two opposite prompts are painted. A judge that has seen neither the bundle nor the
labels it was taught by ranks every head; the figure is the share of pairs, one head of each prompt,
that it ranks right (area under the curve): 50 % is chance. Intervals: 95 %, bootstrap over heads.

Judges look at other features (a face recognizer's vector, thumbnails) than those that taught looks,
and learned from other labels: sex from the pictures' own labels, age, beard and glasses by eye on
the half of pictures that taught nothing, skin and hair from simulated heads. Pose and mouth are
measured on landmarks: YuNet's and the mesh's. `own` is a judge's figure on pictures it was not
taught with.
"""

import csv
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import click
import cv2
import numpy as np

from veilcam.camera.compose import patch_skin
from veilcam.camera.generator import Generator
from veilcam.camera.head_model import fit_pose, measure_expression
from veilcam.camera.light import SKIN_CLASSES
from veilcam.camera.manifest import load_bundle
from veilcam.camera.text import TextPart
from veilcam.model.attributes import (
    Measure,
    fit_logistic,
    labels_by_eye,
    log_odds,
    open_net,
    over_grey,
)
from veilcam.model.data import SIMULATED, Pack
from veilcam.model.text_data import half_of

_log = logging.getLogger(__name__)
_REPEATS = 1000
_FOLDS = 5
_LONG = ("long", "bob")


@dataclass(frozen=True)
class Question:
    """Two prompts and who judges them; the judge's value should be higher for the first."""

    look: str
    first: str
    second: str
    judge: str


QUESTIONS = (
    Question("sex", "a man", "a woman", "sex"),
    Question("age", "an old person", "a young person", "old"),
    Question("age", "a child", "a middle aged person", "child"),
    Question("skin", "a person with light skin", "a person with dark skin", "skin"),
    Question("hair tone", "a person with blond hair", "a person with black hair", "hair"),
    Question("hair length", "a person with long hair", "a person with short hair", "length"),
    Question("beard", "a man with a beard", "a clean shaven man", "beard"),
    Question("glasses", "a person with glasses", "a person without glasses", "glasses"),
    Question("smile", "a smiling person", "a serious person", "smile"),
    Question("mouth", "a person with open mouth", "a person with closed mouth", "mouth_open"),
    Question("pose", "a person looking right", "a person looking left", "yaw"),
    Question("eyes", "a person with eyes open", "a person with closed eyes", "lids"),
)


class Views:
    """What judges look at: never the features that taught beard, glasses, sex or age."""

    def __init__(self, data: Path) -> None:
        assets = Path(str(files("veilcam.camera") / "assets"))
        self.measure = Measure(data / "models")
        self._face = open_net(assets / "mobileface.onnx")
        self._yunet = cv2.FaceDetectorYN.create(str(assets / "yunet_320.onnx"), "", (256, 256), 0.3)

    def vector(self, bgra: np.ndarray) -> np.ndarray:
        """The recognizer's vector and a thumbnail of the eyes' and the chin's region."""
        bgr = over_grey(bgra)
        crop = cv2.resize(bgr[22:118, 16:112], (112, 112), interpolation=cv2.INTER_CUBIC)
        rgb = np.ascontiguousarray(crop[None, ..., ::-1], np.float32)
        face = self._face.run(None, {"data:0": rgb})[0][0]
        return np.concatenate([face / max(np.linalg.norm(face), 1e-6) * 16, detail(bgr)])

    def thumbnail(self, bgra: np.ndarray) -> np.ndarray:
        """12x12 of colour under alpha, and alpha: for skin and hair."""
        small = cv2.resize(bgra, (12, 12), interpolation=cv2.INTER_AREA).astype(float) / 255
        small[..., :3] *= small[..., 3:]
        return small.reshape(-1)

    def landmarks(self, bgra: np.ndarray) -> dict[str, float]:
        """Mouth and lids of the mesh, yaw of YuNet's nose."""
        bgr = over_grey(bgra)
        mesh, _ = self.measure.mesh(bgr)
        values = measure_expression(fit_pose(mesh).canonical)
        large = cv2.resize(bgr, (256, 256), interpolation=cv2.INTER_CUBIC)
        _, found = self._yunet.detect(large)
        yaw = np.nan
        if found is not None:
            points = found[np.argmax(found[:, -1])][4:14].reshape(5, 2)
            across = points[1] - points[0]
            yaw = float((points[2] - points[:2].mean(0)) @ across / max(across @ across, 1e-6))
        return {
            "smile": values["smile"],
            "mouth_open": values["mouth_open"],
            "lids": min(values["eyelid_left"], values["eyelid_right"]),
            "yaw": yaw,
        }


def with_skin(bgra: np.ndarray, skin_class: int) -> np.ndarray:
    """The head in the skin colour that compose gives it."""
    skin = patch_skin(bgra)
    if skin is None:
        return bgra
    gains = np.clip(np.array(SKIN_CLASSES[skin_class]) / np.maximum(skin, 1), 0.5, 2.0)
    out = bgra.copy()
    out[..., :3] = np.minimum(bgra[..., :3] * gains + 0.5, 255)
    return out


def detail(bgr: np.ndarray) -> np.ndarray:
    """Gradient histograms of the face: 8 directions in cells of 8 pixels."""
    grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)[40:112, 28:100].astype(np.float32) / 255
    gx, gy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    size, angle = np.hypot(gx, gy), np.mod(np.arctan2(gy, gx), np.pi)
    bins = np.minimum((angle / np.pi * 8).astype(int), 7)
    out = [
        np.where(bins == b, size, 0).reshape(9, 8, 9, 8).sum((1, 3)).reshape(-1) for b in range(8)
    ]
    cells = np.stack(out, 1)
    return (cells / (np.linalg.norm(cells, axis=1, keepdims=True) + 0.3)).reshape(-1)


def auc(high: np.ndarray, low: np.ndarray) -> float:
    """Share of pairs in which the first is higher; ties count half."""
    high, low = high[np.isfinite(high)], low[np.isfinite(low)]
    if not len(high) or not len(low):
        return float("nan")
    return float((np.sign(high[:, None] - low[None]) / 2 + 0.5).mean())


def interval(high: np.ndarray, low: np.ndarray) -> tuple[float, float]:
    """95 % by bootstrap over heads."""
    random = np.random.default_rng(0)
    draws = [auc(random.choice(high, len(high)), random.choice(low, len(low))) for _ in
             range(_REPEATS)]  # fmt: skip
    return float(np.nanquantile(draws, 0.025)), float(np.nanquantile(draws, 0.975))


def teach(x: np.ndarray, y: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """A judge, and its own figure by cross-validation."""
    random = np.random.default_rng(0)
    fold = random.integers(_FOLDS, size=len(y))
    told = np.zeros(len(y))
    for k in range(_FOLDS):
        told[fold == k] = log_odds(fit_logistic(x[fold != k], y[fold != k]), x[fold == k])
    weights = fit_logistic(x, y)
    return (lambda rows: log_odds(weights, rows)), auc(told[y > 0.5], told[y < 0.5])


def make_judges(
    pack: Pack, data: Path, views: Views
) -> dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], float]]:
    """Judge -> which view it takes, its scores, its own figure."""
    names = [pack.people[person] for person in pack.person]
    judging = ~half_of(names)
    domain = np.asarray(pack.domain)
    judges = {}
    with (data / "faces/generated/manifest.csv").open(newline="") as stream:
        sex = {f"generated/{r['file']}": r["sex_label"] for r in csv.DictReader(stream)}
    random = np.random.default_rng(1)
    rows = random.permutation(np.flatnonzero(judging & (domain == 0)))[:900]
    x = np.stack([views.vector(pack.bgra[row]) for row in rows])
    judges["sex"] = ("vector", *teach(x, np.array([sex[names[r]] == "male" for r in rows], float)))
    rows = np.flatnonzero(judging & (domain == 1))
    x = np.stack([views.vector(pack.bgra[row]) for row in rows])
    for look in ("old", "child", "beard", "glasses"):
        y = labels_by_eye([names[row] for row in rows], look)
        known = np.isfinite(y)
        judges[look] = ("vector", *teach(x[known], y[known]))
    labels = np.load(data / "persons/heads/labels.npz", allow_pickle=False)
    rows = np.flatnonzero((domain == SIMULATED) & (np.abs(pack.values[:, 0]) < 15))[:1800]
    who = np.array([int(names[row].partition("/")[2]) for row in rows])
    x = np.stack([views.thumbnail(pack.bgra[row]) for row in rows])
    skin, hair = (labels[k].astype(float).mean(1)[who] for k in ("id_skin_rgb", "id_hair_rgb"))
    style = labels["id_hair_style"][who]
    has_hair = ~np.isin(style, ["bald", "buzz"])
    judges["skin"] = ("thumbnail", *teach(x, (skin > np.median(skin)).astype(float)))
    bright = (hair > np.median(hair)).astype(float)
    judges["hair"] = ("thumbnail", *teach(x[has_hair], bright[has_hair]))
    is_long = np.array([name.startswith(_LONG) for name in style], float)
    judges["length"] = ("thumbnail", *teach(x, is_long))
    return judges


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--pack", "pack_path", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--people", default=64, show_default=True, help="Heads of each prompt.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Table, JSON.")
def main(bundle: Path, pack_path: Path, data: Path, people: int, out: Path | None) -> None:
    """Print the agreement table of BUNDLE's text part."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    loaded = load_bundle(bundle)
    part, generator = TextPart(loaded), Generator(loaded, threads=1)
    views = Views(data)
    judges = make_judges(Pack.load(pack_path), data, views)
    random = np.random.default_rng(7)

    def judged(prompt: str, name: str) -> np.ndarray:
        ids, _ = part.read(prompt)
        drawn = [part.draw(ids, random) for _ in range(people)]
        heads = [
            with_skin(generator.paint(person.tokens.values, person.latent), person.skin_class)
            for person in drawn
        ]
        if name not in judges:
            return np.array([views.landmarks(head)[name] for head in heads])
        view, score, _ = judges[name]
        return np.asarray(score(np.stack([getattr(views, view)(head) for head in heads])))

    table = []
    _log.info(
        "| look | asked | against | agreement | 95 %% | judge's own |\n|---|---|---|---|---|---|"
    )
    for q in QUESTIONS:
        high, low = judged(q.first, q.judge), judged(q.second, q.judge)
        own = judges[q.judge][2] if q.judge in judges else None
        row = {
            "look": q.look, "first": q.first, "second": q.second, "agreement": auc(high, low),
            "interval": interval(high, low), "own": own, "people": people,
        }  # fmt: skip
        table.append(row)
        told = f"{own:.0%}" if own is not None else "landmarks"
        _log.info(
            "| %s | %s | %s | %.0f %% | %.0f-%.0f | %s |", q.look, q.first, q.second,
            100 * row["agreement"], *(100 * v for v in row["interval"]), told,
        )  # fmt: skip
    if out is not None:
        out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
