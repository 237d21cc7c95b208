"""Are bodies recognized through the code of `scene` mode? Simulated people, several pictures each.

    python scripts/body_reid.py PEOPLE --models MODELS [--strength strict|balanced|faithful]

PEOPLE holds cut-out pictures PERSON_NUMBER.webp (RGBA). Each is put before a plain background at a
random place and size. There is no recognizer for bodies here: general MobileNet features of the
person's crop, with a map taught on other people, stand for one. It counts only because it finds
unprotected people again and notices a thumbnail planted in the code. All that leaves in scene mode
is made of the code and of noise, so the picture holds no more of a person than the code.
"""

import argparse
import json
import sys
from collections import defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from veilcam.camera.actor_cast import load_cast
from veilcam.camera.actor_code import ActorEncoder
from veilcam.camera.audit_learn import cosine, fit_ridge
from veilcam.camera.audit_recognizers import load_features, unit
from veilcam.camera.audit_stats import auc, impostor_scores, share_of_hits, true_ranks
from veilcam.camera.manifest import load_bundle
from veilcam.camera.people import PeopleAnalyser
from veilcam.camera.person_boxes import PersonBoxes
from veilcam.camera.pose import PoseModel
from veilcam.camera.strength import Strength
from veilcam.camera.types import Frame

SIZE_HW = (320, 320)
THUMB_WH = (4, 8)  # of the leak that is planted in a code
MIN_CONTROL = 0.5  # share of unprotected people that the taught attacker must find again


def put(rgba: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, tuple[int, ...]]:
    """The cut-out on a plain background, and its box."""
    scale = random.uniform(0.8, 1.1)
    part = cv2.resize(rgba, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = part.shape[:2]
    canvas = np.full((*SIZE_HW, 3), random.uniform(90, 170), np.float32)
    canvas += random.normal(0, 4, canvas.shape)
    x = int(random.integers(0, SIZE_HW[1] - width))
    y = int(random.integers(0, SIZE_HW[0] - height))
    alpha = part[..., 3:].astype(np.float32) / 255
    place = canvas[y : y + height, x : x + width]
    place[:] = alpha * part[..., :3] + (1 - alpha) * place
    ys, xs = np.nonzero(part[..., 3] > 127)
    box = (x + xs.min(), y + ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
    return np.clip(canvas, 0, 255).astype(np.uint8), tuple(int(v) for v in box)


def measure(folder: Path, models: Path, num: int, strength: Strength) -> dict[str, np.ndarray]:
    """Code, features of the original's crop, person and number of every picture."""
    cast, facing = load_cast(load_bundle(None, mode="scene"))
    assets = Path(str(files("veilcam.camera") / "assets"))
    detect, pose = PersonBoxes(assets / "yolox.onnx"), PoseModel(assets / "movenet.onnx")
    features = load_features([models])
    if features is None:
        raise SystemExit(f"{models} has no general features; give another --models")
    random = np.random.default_rng(0)
    out: dict[str, list] = defaultdict(list)
    for path in sorted(folder.glob("*_*.webp")):
        person, number = (int(v) for v in path.stem.split("_"))
        if number >= num:
            continue
        bgr, (x, y, w, h) = put(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), random)
        analyse = PeopleAnalyser(facing, proof=None, detect=detect, pose=pose)
        people = analyse(Frame(bgr, 0, 0.0))
        actors = ActorEncoder(cast, strength=strength).encode(people, (0, 0, 0)).actors
        if not actors:
            out["missed"].append(person)
            continue
        actor = actors[0]
        # levels, and the colours that are sent; other looks are drawn near to those
        out["code"].append(np.concatenate([actor.values, [actor.height / SIZE_HW[0]]]))
        crop = bgr[y : y + h, x : x + w]
        out["raw"].append(features(crop))
        thumb = cv2.resize(crop, THUMB_WH, interpolation=cv2.INTER_AREA)
        out["thumb"].append(thumb.reshape(-1) / 255)
        out["person"].append(person)
        out["number"].append(number)
    return {name: np.array(values) for name, values in out.items()}


def attack(found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rank-1 of codes and of originals against other pictures of the people attacked."""
    person, is_probe = found["person"], found["number"] % 2 == 0
    raw = unit(found["raw"] - found["raw"].mean(0))
    learned = person < (person.max() + 1) // 2
    means = {p: raw[(person == p)].mean(0) for p in np.unique(person[learned])}
    goal = np.stack([means[p] for p in person[learned]])
    gallery_of = {p: raw[(person == p) & ~is_probe].mean(0) for p in np.unique(person[~learned])
                  if ((person == p) & ~is_probe).any()}  # fmt: skip
    names = np.array(list(gallery_of))
    probes = np.flatnonzero(~learned & is_probe & np.isin(person, names))
    truth = np.searchsorted(names, person[probes])
    by_raw = fit_ridge(raw[learned], goal)
    by_code = fit_ridge(found["code"][learned], goal)
    leaky = np.concatenate([found["code"], found["thumb"]], axis=1)
    by_leaky = fit_ridge(leaky[learned], goal)
    gallery = np.stack(list(gallery_of.values()))
    shuffled = np.random.default_rng(1).permutation(len(names))[truth]
    views = {
        "unprotected": cosine(raw[probes], gallery),
        "unprotected_taught": cosine(by_raw(raw[probes]), by_raw(gallery)),
        "thumbnail_in_code_taught": cosine(by_leaky(leaky[probes]), gallery),
        "code_taught": cosine(by_code(found["code"][probes]), gallery),
    }
    rows = []
    for name, scores in views.items():
        for label, own in (("", truth), ("_of_others", shuffled)):
            rank = true_ranks(scores, own)
            genuine = scores[np.arange(len(own)), own]
            ten = share_of_hits(rank <= 10, person[probes])
            one = share_of_hits(rank <= 1, person[probes])
            rows.append({
                "attack": name + label, "rank1": one.value, "rank1_low": one.low,
                "rank1_high": one.high, "rank10": ten.value, "rank10_low": ten.low,
                "rank10_high": ten.high, "auc": auc(genuine, impostor_scores(scores, own)),
                "chance_rank1": 1 / len(names), "chance_rank10": 10 / len(names),
                "probes": len(probes), "people": len(names),
            })  # fmt: skip
    return rows


def main() -> int:
    """Measure and print; exit 1 where a control failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("people", type=Path)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--strength", choices=["strict", "balanced", "faithful"],
                        default="balanced")  # fmt: skip
    parser.add_argument("--pictures", type=int, default=4, help="of each person")
    options = parser.parse_args()
    found = measure(options.people, options.models, options.pictures, Strength(options.strength))
    if not len(found.get("person", ())):
        sys.stderr.write(f"{options.people}: no person found in PERSON_NUMBER.webp\n")
        return 2
    rows = attack(found)
    of = {r["attack"]: r for r in rows}
    planted = of["thumbnail_in_code_taught"]
    is_broken = (
        of["unprotected_taught"]["rank1"] < MIN_CONTROL
        or planted["rank10_low"] <= planted["chance_rank10"]
    )
    missed = len(found.get("missed", ()))
    value = {"strength": options.strength, "pictures": len(found["person"]), "missed": missed,
             "control": "failed" if is_broken else "held", "rows": rows}  # fmt: skip
    sys.stdout.write(json.dumps(value, indent=1) + "\n")
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main())
