"""What `frame` mode keeps of clips and photos, what it hides, and what it costs.

python scripts/frame_report.py CLIP... --photos DIR --models DIR -o frame.json [--picture sheet.jpg]

At each strength, output against input:
- recall: share of the input's persons whom the product's detector finds in the output, at that
  place, and key points within a tenth of the box's height;
- objects: share of the input's other objects (YOLOX, 80 classes) that are found at their place;
- layout: correlation of lightness on a 16x9 grid, persons left out; `layout_of_another` is the same
  with the output of the next photo (the negative control);
- own first: how often a general feature net, given the output, finds its input among all inputs
  (one of each clip and photo); `copy` is the input itself (the positive control), chance 1/n.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import onnxruntime as ort
from scene_report import Score, Watched

from veilcam.camera import strength
from veilcam.camera.audit_recognizers import load_features, unit
from veilcam.camera.frame_loop import FrameLoop, build_loop
from veilcam.camera.report import percentiles
from veilcam.camera.strength import CHOICES, Strength
from veilcam.camera.track import box_iou

GRID_WH = (16, 9)
MIN_OBJECT, FOUND_OBJECT, OBJECT_IOU = 0.5, 0.25, 0.4
CONTROL = "input"


class Objects:
    """All classes of YOLOX-nano but persons."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        steps = []
        for stride in (8, 16, 32):
            side = 416 // stride
            y, x = np.mgrid[:side, :side]
            steps.append(np.stack([x, y, np.full_like(x, stride)], -1).reshape(-1, 3))
        self._cells = np.concatenate(steps).astype(np.float32)

    def __call__(self, bgr: np.ndarray, min_score: float) -> list[tuple[int, tuple[float, ...]]]:
        """Class and box (x, y, width, height) of each object, one of those that overlap."""
        scale = 416 / max(bgr.shape[:2])
        small = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        padded = np.full((416, 416, 3), 114, np.uint8)
        padded[: small.shape[0], : small.shape[1]] = small[:416, :416]
        feed = {self._session.get_inputs()[0].name: padded.transpose(2, 0, 1)[None].astype("f4")}
        rows = self._session.run(None, feed)[0][0]
        middle = (rows[:, :2] + self._cells[:, :2]) * self._cells[:, 2:]
        size = np.exp(rows[:, 2:4]) * self._cells[:, 2:]
        scores = rows[:, 4:5] * rows[:, 5:]
        kinds, best = scores.argmax(1), scores.max(1)
        keep = np.flatnonzero((best >= min_score) & (kinds > 0))
        boxes = np.concatenate([middle - size / 2, size], 1)[keep] / scale
        chosen = cv2.dnn.NMSBoxes(boxes.tolist(), best[keep].tolist(), min_score, 0.5)
        return [(int(kinds[keep[i]]), tuple(boxes[i])) for i in np.array(chosen).reshape(-1)]


def frames_of(source: str, limit: int) -> Iterator[tuple[np.ndarray, np.ndarray, FrameLoop]]:
    """Input, output and the loop, for each frame."""
    ends = Watched(source)
    loop = build_loop(ends, ends)
    while loop.report.frames_in < limit and loop.step():
        assert ends.raw is not None
        assert ends.safe is not None
        yield ends.raw.bgr, ends.safe.bgr, loop


class Tally:
    """Sums over clips or photos at one strength."""

    def __init__(self, objects: Objects) -> None:
        self.score = Score()
        self._objects = objects
        self.objects = self.objects_found = 0
        self.grids: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.busy_s, self.frames = 0.0, 0

    def add(self, raw: np.ndarray, shown: np.ndarray) -> None:
        """One frame."""
        self.score.add(raw, shown, None)
        got = self._objects(shown, FOUND_OBJECT)
        for kind, box in self._objects(raw, MIN_OBJECT):
            self.objects += 1
            hits = [g for g in got if g[0] == kind and box_iou(g[1], box) >= OBJECT_IOU]
            self.objects_found += bool(hits)
        self.grids.append((*(self._grid(x) for x in (raw, shown)), self._free(raw)))

    @staticmethod
    def _grid(bgr: np.ndarray) -> np.ndarray:
        grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
        return cv2.resize(grey, GRID_WH, interpolation=cv2.INTER_AREA).astype(np.float32)

    def _free(self, raw: np.ndarray) -> np.ndarray:
        free = np.ones(raw.shape[:2], np.uint8)
        for (x, y, width, height), _ in self.score._boxes(raw):
            low = max(int(x), 0), max(int(y), 0)
            free[low[1] : int(y + height), low[0] : int(x + width)] = 0
        return cv2.resize(free * 255, GRID_WH, interpolation=cv2.INTER_AREA) > 127

    def layout(self, shift: int) -> float | None:
        """Median correlation of inputs with outputs `shift` places further on."""
        found = []
        for i, (raw, _, free) in enumerate(self.grids):
            shown = self.grids[(i + shift) % len(self.grids)][1]
            if free.sum() > 20 and raw[free].std() > 4:
                flat = shown[free].std() < 1e-3
                found.append(0.0 if flat else float(np.corrcoef(raw[free], shown[free])[0, 1]))
        return round(float(np.median(found)), 3) if found else None

    def to_json(self) -> dict[str, Any]:
        """Shares, with the numbers they are of."""
        said = self.score.to_json()
        kept = ("frames", "people", "recall", "extra_per_frame", "key_points", "pck_0.1")
        return {key: said[key] for key in kept} | {
            "objects": self.objects,
            "objects_found": round(self.objects_found / self.objects, 4) if self.objects else None,
            "layout": self.layout(0),
            "cpu_ms_per_frame": round(1000 * self.busy_s / max(self.frames, 1), 2),
        }


def own_first(features: Any, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> float:
    """Share of outputs whose own input is the nearest of all."""
    gallery, probes = (unit(np.stack([features(x) for x in xs])) for xs in (inputs, outputs))
    nearest = (probes @ gallery.T).argmax(1)
    return round(float((nearest == np.arange(len(inputs))).mean()), 4)


def measure(
    clips: tuple[str, ...],
    photos: list[Path],
    models: Path,
    at: Strength,
    *,
    limit: int,
    every: int,
) -> tuple[dict[str, Any], list[tuple[np.ndarray, np.ndarray]]]:
    """Figures of all clips and all photos at one strength, and one pair of each."""
    strength.choose(at)
    objects = Objects(models / "yolox_nano_416_coco.onnx")
    report: dict[str, Any] = {"strength": at.value, "clips": []}
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for clip in clips:
        tally, last = Tally(objects), None
        start = time.process_time()
        for index, (raw, shown, loop) in enumerate(frames_of(clip, limit)):  # noqa: B007
            tally.busy_s += time.process_time() - start if index else 0.0  # the first one warms up
            tally.frames += bool(index)
            if index % every == 0:
                tally.add(raw, shown)
            last = raw, shown
            start = time.process_time()
        assert last is not None
        pairs.append((last[0].copy(), last[1].copy()))
        size = f"{last[0].shape[1]}x{last[0].shape[0]}"
        timings = {k: percentiles(v) for k, v in loop.timings.items() if v}
        report["clips"].append(
            {"clip": Path(clip).name, "size": size, **tally.to_json(), "latency_ms": timings}
        )
    if photos:
        tally = Tally(objects)
        for photo in photos:
            for raw, shown, _ in frames_of(str(photo), 1):
                tally.add(raw, shown)
                pairs.append((raw.copy(), shown.copy()))
        report["photos"] = tally.to_json() | {"layout_of_another": tally.layout(1)}
        del report["photos"]["cpu_ms_per_frame"]
    features = load_features([models])
    inputs = [raw for raw, _ in pairs]
    report["own_first"] = {
        "output": own_first(features, inputs, [shown for _, shown in pairs]),
        "copy": own_first(features, inputs, inputs),
        "chance": round(1 / len(pairs), 4),
        "pictures": len(pairs),
    }
    return report, pairs


def sheet(pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]], out: Path) -> None:
    """Six inputs, and below them what each strength shows."""
    count = len(next(iter(pairs.values())))
    chosen = np.linspace(0, count - 1, min(count, 6)).round().astype(int)
    rows = [np.hstack([_tile(next(iter(pairs.values()))[i][0]) for i in chosen])]
    rows += [np.hstack([_tile(side[i][1]) for i in chosen]) for side in pairs.values()]
    data = cv2.imencode(".jpg", np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    partial = out.with_name(f".{out.name}.part")
    partial.write_bytes(data.tobytes())
    partial.replace(out)


def _tile(bgr: np.ndarray) -> np.ndarray:
    scale = max(272 / bgr.shape[1], 153 / bgr.shape[0])
    large = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = (large.shape[0] - 153) // 2, (large.shape[1] - 272) // 2
    tile = large[top : top + 153, left : left + 272]
    return cv2.copyMakeBorder(tile, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255,) * 3)


@click.command()
@click.argument("clips", nargs=-1, required=True)
@click.option("--photos", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--num-photos", default=50, show_default=True)
@click.option("--models", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="JSON; default: stdout.")
@click.option("--frames", default=100_000, help="Of each clip at most.")
@click.option("--every", default=5, show_default=True, help="Look at every so manieth frame.")
@click.option("--picture", type=click.Path(path_type=Path), help="JPEG of inputs and outputs.")
def main(
    clips: tuple[str, ...], photos: Path | None, num_photos: int, models: Path, out: Path | None,
    frames: int, every: int, picture: Path | None,
) -> None:  # fmt: skip
    """Measure `frame` mode on CLIPS and photos."""
    cv2.setNumThreads(1)
    paths = sorted(photos.glob("*.jpg"))[:num_photos] if photos else []
    reports, pairs = [], {}
    for at in CHOICES[::-1]:
        report, pairs[at.value] = measure(clips, paths, models, at, limit=frames, every=every)
        reports.append(report)
    text = json.dumps({"strengths": reports}, indent=1)
    if out is None:
        click.echo(text)
    else:
        partial = out.with_name(f".{out.name}.part")
        partial.write_text(text + "\n")
        partial.replace(out)
    if picture is not None:
        sheet(pairs, picture)
    if any(report["own_first"]["copy"] < 1 for report in reports):
        raise click.ClickException("broken: a copy was not found as itself")


if __name__ == "__main__":
    main()
