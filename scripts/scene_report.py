"""What `scene` mode keeps and shows: people found in its output, poses, background, time.

python scripts/scene_report.py CLIP... -o scene.json [--picture before_after.jpg]

Detector and pose model are those of the product, run on input and output alike, so that a figure
tells what the picture lost and not how good they are. Two controls: the input against itself must
give 1 (`control`), the plate without actors must give nobody (`empty`).
"""

import json
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from veilcam.camera.person_boxes import PersonBoxes
from veilcam.camera.pose import PoseModel
from veilcam.camera.report import percentiles
from veilcam.camera.scene_compose import compose_scene
from veilcam.camera.scene_loop import SceneLoop, build_loop
from veilcam.camera.scene_types import SceneCodes
from veilcam.camera.source import open_source
from veilcam.camera.track import box_iou
from veilcam.camera.types import Frame, Patches, SafeFrame

MIN_SCORE = 0.5  # of a person in the input who counts
FOUND_SCORE = 0.3
FOUND_IOU = 0.5
PCK_SHARE = 0.1  # of the box's height
SEEN_SCORE = 0.3


class Watched:
    """A source that keeps the frame it gave last, and a sink that keeps what came of it."""

    def __init__(self, clip: str) -> None:
        self._source = open_source(clip)
        self.fps, self.size_hw, self.is_live = self._source.fps, self._source.size_hw, False
        self.raw: Frame | None = None
        self.safe: SafeFrame | None = None

    def read(self) -> Frame | None:
        """Next frame."""
        self.raw = self._source.read()
        return self.raw

    def write(self, frame: SafeFrame) -> None:
        """Keep the picture."""
        self.safe = frame


class Score:
    """Sums over one clip."""

    def __init__(self) -> None:
        assets = Path(str(files("veilcam.camera") / "assets"))
        self._boxes = PersonBoxes(assets / "yolox.onnx")
        self._pose = PoseModel(assets / "movenet.onnx")
        self.people = self.found = self.extra = self.empty_found = self.frames = 0
        self.points: list[tuple[float, bool]] = []
        self.psnr_db: list[float] = []

    def add(self, raw: np.ndarray, shown: np.ndarray, empty: np.ndarray | None) -> None:
        """One frame: input, output, and the output without its actors."""
        self.frames += 1
        wanted = [box for box, score in self._boxes(raw) if score >= MIN_SCORE]
        got = [box for box, score in self._boxes(shown) if score >= FOUND_SCORE]
        self.people += len(wanted)
        for box in wanted:
            best = max(got, key=lambda other: box_iou(box, other), default=None)
            if best is None or box_iou(box, best) < FOUND_IOU:
                continue
            self.found += 1
            got.remove(best)
            self._compare(raw, shown, box)
        self.extra += len(got)
        if empty is not None:
            self.empty_found += sum(score >= FOUND_SCORE for _, score in self._boxes(empty))
            self._background(raw, empty, wanted)

    def _compare(self, raw: np.ndarray, shown: np.ndarray, box: Any) -> None:
        before, after = self._pose(raw, box), self._pose(shown, box)
        seen = before[:, 2] >= SEEN_SCORE
        distance = np.hypot(*(before[:, :2] - after[:, :2]).T) / box[3]
        self.points += [(float(d), bool(d <= PCK_SHARE)) for d in distance[seen]]

    def _background(self, raw: np.ndarray, empty: np.ndarray, wanted: list[Any]) -> None:
        free = np.ones(raw.shape[:2], bool)
        for x, y, width, height in wanted:
            margin = 0.15 * height
            low = [max(int(v - margin), 0) for v in (x, y)]
            free[low[1] : int(y + height + margin), low[0] : int(x + width + margin)] = False
        error = np.square(raw.astype(np.float32) - empty)[free].mean() if free.any() else 0.0
        self.psnr_db.append(float(10 * np.log10(255**2 / max(error, 1e-3))))

    def to_json(self) -> dict[str, Any]:
        """Shares, with the numbers they are of."""
        distances = np.array([d for d, _ in self.points] or [np.nan])
        return {
            "frames": self.frames,
            "people": self.people,
            "recall": round(self.found / self.people, 4) if self.people else None,
            "extra_per_frame": round(self.extra / max(self.frames, 1), 4),
            "empty_found_per_frame": round(self.empty_found / max(self.frames, 1), 4),
            "key_points": len(self.points),
            f"pck_{PCK_SHARE}": round(float(np.mean([good for _, good in self.points])), 4)
            if self.points
            else None,
            "median_point_error_of_height": round(float(np.median(distances)), 4),
            "background_psnr_db": round(float(np.median(self.psnr_db)), 2)
            if self.psnr_db
            else None,
        }


def shown_frames(
    clip: str, bundle: Path | None, limit: int
) -> Iterator[tuple[Frame, SafeFrame, np.ndarray | None, SceneLoop]]:
    """Input, output, the output without actors (None while learning), and the loop."""
    ends = Watched(clip)
    loop = build_loop(ends, ends, bundle=bundle)
    while loop.report.frames_in < limit and loop.step():
        assert ends.raw is not None
        assert ends.safe is not None
        learner = loop._learner
        empty = None
        if learner.plate.bgr is not None:
            codes = SceneCodes(size_hw=ends.size_hw, actors=(), light=learner.light)
            empty = compose_scene(learner.plate, codes, Patches(bgra=()), index=0, time_s=0.0).bgr
        yield ends.raw, ends.safe, empty, loop


def measure(clip: str, bundle: Path | None, *, limit: int, every: int) -> dict[str, Any]:
    """Every figure of one clip; people are counted only once the background is there."""
    score, control = Score(), Score()
    busy_s = 0.0
    start = time.process_time()
    for index, (raw, safe, empty, loop) in enumerate(shown_frames(clip, bundle, limit)):  # noqa: B007
        busy_s += time.process_time() - start
        if index % every == 0 and not safe.reason:
            score.add(raw.bgr, safe.bgr, empty)
            control.add(raw.bgr, raw.bgr, None)
        start = time.process_time()
    frames = loop.report.frames_in
    return {
        "clip": Path(clip).name,
        "size": f"{raw.bgr.shape[1]}x{raw.bgr.shape[0]}",
        **score.to_json(),
        "control": {k: control.to_json()[k] for k in ("recall", f"pck_{PCK_SHARE}")},
        "cpu_ms_per_frame": round(1000 * busy_s / frames, 2),
        "latency_ms": {k: percentiles(v) for k, v in loop.timings.items() if v},
        "plate": loop.report.to_json()["plate"],
    }


def picture(clip: str, bundle: Path | None, out: Path, *, limit: int) -> None:
    """Four moments of a clip, input above output, as a small JPEG."""
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for index, (raw, safe, empty, loop) in enumerate(shown_frames(clip, bundle, limit)):
        actors = loop.report.heads_replaced
        if empty is not None and actors and index % 60 == 0:
            kept.append((raw.bgr.copy(), safe.bgr.copy()))
    chosen = [kept[round(i)] for i in np.linspace(0, len(kept) - 1, 4)]
    rows = [np.hstack([pair[side] for pair in chosen]) for side in (0, 1)]
    sheet = np.vstack(rows)
    width = 1280
    size = (width, round(width * sheet.shape[0] / sheet.shape[1]))
    small = cv2.resize(sheet, size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 82])[1]
    partial = out.with_name(f".{out.name}.part")
    partial.write_bytes(data.tobytes())
    partial.replace(out)


@click.command()
@click.argument("clips", nargs=-1, required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="JSON; default: stdout.")
@click.option("--bundle", type=click.Path(path_type=Path), help="NAME.veil; default: built in.")
@click.option("--frames", default=100_000, help="Of each clip at most.")
@click.option("--every", default=5, help="Look at every so manieth frame.")
@click.option("--picture", "picture_path", type=click.Path(path_type=Path), help="JPEG.")
def main(
    clips: tuple[str, ...], out: Path | None, bundle: Path | None, frames: int, every: int,
    picture_path: Path | None,
) -> None:  # fmt: skip
    """Measure `scene` mode on CLIPS."""
    report = [measure(clip, bundle, limit=frames, every=every) for clip in clips]
    bad = [
        entry["clip"]
        for entry in report
        if entry["people"] and (entry["control"]["recall"] or 0) < 0.999
    ]
    text = json.dumps({"clips": report, "broken_controls": bad}, indent=1)
    if out is None:
        click.echo(text)
    else:
        partial = out.with_name(f".{out.name}.part")
        partial.write_text(text + "\n")
        partial.replace(out)
    if picture_path is not None:
        picture(clips[0], bundle, picture_path, limit=frames)
    if bad:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
