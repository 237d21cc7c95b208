"""Counts on clips how many heads were replaced, how many leaked, and whether a face is left to see.

An independent full-resolution pass of the face detector finds the heads of each original frame. A
head counts as replaced where its pixels changed and a face recognizer finds original and output
less alike than 999 of 1,000 pairs of different people (threshold at FAR 1e-3, measured on --faces).
Positive control: the same judge looks at the unprotected frames; it must call every head leaked.

    python scripts/leak_report.py CLIP... --faces FOLDER [--bundle B] [--json]

Exit 0: judged; 1: the control did not fire, so the figures mean nothing.
"""

import csv
import json
from collections import deque
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import click
import cv2
import numpy as np
import onnxruntime as ort

from veilcam.camera.loop import build_loop
from veilcam.camera.source import Source, open_source
from veilcam.camera.types import Frame, SafeFrame

FAR = 1e-3
TARGETS = {"replaced_share": 0.995, "leaked_per_1000": 1.0, "face_share": 0.97}
MIN_CHANGE = 4.0  # mean absolute difference, levels, that counts as other pixels
# ArcFace's five points in a 112x112 crop
REFERENCE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    np.float32,
)


class Eyes:
    """The judge's own detector and recognizer."""

    def __init__(self, min_score: float) -> None:
        assets = Path(str(files("veilcam.camera") / "assets"))
        self._detector = cv2.FaceDetectorYN.create(
            str(assets / "yunet_320.onnx"), "", (320, 320), min_score, 0.3, 200
        )
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self._recognizer = ort.InferenceSession(
            str(assets / "mobileface.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def find(self, bgr: np.ndarray) -> list[np.ndarray]:
        """Rows of 15: box, five landmarks, score."""
        self._detector.setInputSize((bgr.shape[1], bgr.shape[0]))
        rows = self._detector.detect(bgr)[1]
        return [] if rows is None else list(np.asarray(rows))

    def embed(self, bgr: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Unit vector of the face at five landmarks, (256,)."""
        matrix, _ = cv2.estimateAffinePartial2D(landmarks, REFERENCE, method=cv2.LMEDS)
        if matrix is None:
            return np.zeros(256, np.float32)
        crop = cv2.warpAffine(bgr, matrix, (112, 112), borderMode=cv2.BORDER_REPLICATE)
        tensor = np.ascontiguousarray(crop[..., ::-1].transpose(2, 0, 1), np.float32)
        if self._recognizer.get_inputs()[0].shape[-1] == 3:
            tensor = tensor.transpose(1, 2, 0)
        name = self._recognizer.get_inputs()[0].name
        vector = self._recognizer.run(None, {name: tensor[None]})[0][0]
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9))


@dataclass
class Tally:
    """Counts of one clip or of all."""

    frames: int = 0
    heads: int = 0
    replaced: int = 0
    leaked_frames: int = 0
    faces_in_output: int = 0
    max_similarity: float = -1.0

    def add(self, other: "Tally") -> None:
        """Add another clip's counts."""
        for key, value in asdict(other).items():
            mine = getattr(self, key)
            setattr(self, key, max(mine, value) if key == "max_similarity" else mine + value)

    def figures(self) -> dict[str, float]:
        """Counts and shares, plain numbers; shares of no heads are 1."""
        heads = max(self.heads, 1)
        return {
            **asdict(self),
            "replaced_share": self.replaced / heads if self.heads else 1.0,
            "leaked_per_1000": 1000 * self.leaked_frames / max(self.frames, 1),
            "face_share": self.faces_in_output / heads if self.heads else 1.0,
        }


def judge(eyes: Eyes, original: np.ndarray, output: np.ndarray, threshold: float) -> Tally:
    """Counts of one frame."""
    tally = Tally(frames=1)
    shown = eyes.find(output)
    for row in eyes.find(original):
        marks = row[4:14].reshape(5, 2)
        same_place = [r for r in shown if _is_same_place(row, r)]
        face = eyes.embed(original, marks)
        views = [marks] + [r[4:14].reshape(5, 2) for r in same_place]
        similarity = max(float(face @ eyes.embed(output, view)) for view in views)
        is_replaced = _change(original, output, row) > MIN_CHANGE and similarity < threshold
        tally.heads += 1
        tally.replaced += is_replaced
        tally.faces_in_output += bool(same_place)
        tally.max_similarity = max(tally.max_similarity, similarity)
    tally.leaked_frames = int(tally.replaced < tally.heads)
    return tally


def _is_same_place(a: np.ndarray, b: np.ndarray) -> bool:
    middle_a, middle_b = a[:2] + a[2:4] / 2, b[:2] + b[2:4] / 2
    ratio = float(b[2] * b[3] / max(a[2] * a[3], 1e-6))
    return bool(np.all(np.abs(middle_a - middle_b) < a[2:4] / 2)) and 0.25 < ratio < 4


def _change(original: np.ndarray, output: np.ndarray, row: np.ndarray) -> float:
    x1, y1 = np.maximum(np.floor(row[:2]), 0).astype(int)
    x2, y2 = np.ceil(row[:2] + row[2:4]).astype(int)
    a, b = original[y1:y2, x1:x2].astype(int), output[y1:y2, x1:x2]
    return float(np.abs(a - b).mean()) if a.size else 0.0


def far_threshold(eyes: Eyes, folder: Path) -> tuple[float, int]:
    """Similarity that only FAR of pairs of different people reach, and the number of pairs."""
    vectors, people = [], []
    for path, person in _faces(folder):
        bgr = cv2.imread(str(path))
        rows = [] if bgr is None else eyes.find(bgr)
        if rows:
            best = max(rows, key=lambda r: r[2] * r[3])
            vectors.append(eyes.embed(bgr, best[4:14].reshape(5, 2)))
            people.append(person)
    if len(vectors) < 50:
        raise click.ClickException(f"{folder}: got {len(vectors)} faces, wanted at least 50")
    similarity = np.stack(vectors) @ np.stack(vectors).T
    names = np.array(people)
    pairs = similarity[np.triu(names[:, None] != names[None], k=1)]
    return float(np.quantile(pairs, 1 - FAR)), len(pairs)


def _faces(folder: Path) -> list[tuple[Path, str]]:
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        with manifest.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        if rows and {"file", "person"} <= set(rows[0]):
            return [(folder / r["file"], r["person"]) for r in rows]
    paths = sorted(p for p in folder.rglob("*") if p.suffix in {".jpg", ".png"})
    return [(path, path.stem) for path in paths]


class _Tee:
    """A source that remembers originals until the judge has seen them."""

    def __init__(self, source: Source, max_frames: int | None) -> None:
        self._source, self._left = source, max_frames
        self.size_hw, self.fps, self.is_live = source.size_hw, source.fps, False
        self.originals: deque[Frame] = deque()

    def read(self) -> Frame | None:
        """Next frame of the clip."""
        if self._left is not None:
            self._left -= 1
        frame = None if self._left is not None and self._left < 0 else self._source.read()
        if frame is not None:
            self.originals.append(frame)
        return frame

    def close(self) -> None:
        """Close the clip."""
        self._source.close()


class _JudgeSink:
    """A sink that judges each safe frame against its original, and the original against itself."""

    is_done = False

    def __init__(self, eyes: Eyes, tee: _Tee, threshold: float) -> None:
        self._eyes, self._tee, self._threshold = eyes, tee, threshold
        self.tally, self.control = Tally(), Tally()

    def write(self, frame: SafeFrame) -> None:
        """Judge one frame."""
        original = self._tee.originals.popleft().bgr
        self.tally.add(judge(self._eyes, original, frame.bgr, self._threshold))
        self.control.add(judge(self._eyes, original, original, self._threshold))


def report_clip(
    path: Path, eyes: Eyes, threshold: float, *, bundle: Path | None, delay: int, frames: int | None
) -> tuple[Tally, Tally]:
    """Counts of one clip: protected, and the unprotected control."""
    tee = _Tee(open_source(str(path)), frames)
    try:
        sink = _JudgeSink(eyes, tee, threshold)
        build_loop(tee, sink, bundle=bundle, delay_frames=delay).run()
    finally:
        tee.close()
    return sink.tally, sink.control


@click.command()
@click.argument("clips", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--faces", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--bundle", default=None, type=click.Path(path_type=Path))
@click.option("--delay", default=0, type=click.IntRange(0, 3))
@click.option(
    "--frames", default=None, type=click.IntRange(1), help="Stop each clip after so many."
)
@click.option("--min-score", default=0.7, help="Detector score from which a head counts.")
@click.option("--json/--no-json", "as_json", default=False)
def main(
    clips: tuple[Path, ...], faces: Path, bundle: Path | None, delay: int, frames: int | None,
    min_score: float, as_json: bool,
) -> None:  # fmt: skip
    """Judge CLIPS after protection, with the unprotected clips as positive control."""
    eyes = Eyes(min_score)
    threshold, num_pairs = far_threshold(eyes, faces)
    total, control, per_clip = Tally(), Tally(), {}
    for path in clips:
        tally, unprotected = report_clip(
            path, eyes, threshold, bundle=bundle, delay=delay, frames=frames
        )
        per_clip[path.name] = tally.figures()
        total.add(tally)
        control.add(unprotected)
        click.echo(_line(path.name, tally), err=as_json)
    has_fired = control.heads > 0 and control.replaced == 0
    click.echo(_line("all", total), err=as_json)
    leaked = 100 * (1 - control.replaced / max(control.heads, 1))
    click.echo(f"control (unprotected): {leaked:.1f} % of {control.heads} leaked", err=as_json)
    value = {
        "threshold": threshold, "far": FAR, "pairs": num_pairs, "min_score": min_score,
        "clips": per_clip, "total": total.figures(), "control": control.figures(),
        "verdict": _verdict(total, has_fired),
    }  # fmt: skip
    click.echo(json.dumps(value) if as_json else f"verdict: {value['verdict']}")
    if not has_fired:
        raise click.exceptions.Exit(1)


def _line(name: str, tally: Tally) -> str:
    f = tally.figures()
    return (
        f"{name:45} heads {tally.heads:5d}  replaced {100 * f['replaced_share']:6.2f} %  "
        f"leaked frames {f['leaked_per_1000']:6.2f} / 1000  "
        f"face in output {100 * f['face_share']:6.2f} %  max similarity {tally.max_similarity:.2f}"
    )


def _verdict(total: Tally, has_fired: bool) -> str:
    figures = total.figures()
    if not has_fired:
        return "broken"
    is_good = (
        figures["replaced_share"] >= TARGETS["replaced_share"]
        and figures["leaked_per_1000"] <= TARGETS["leaked_per_1000"]
        and figures["face_share"] >= TARGETS["face_share"]
    )
    return "pass" if is_good else "fail"


if __name__ == "__main__":
    main()
