"""Counts on clips how many heads were replaced, how many leaked, and whether a face is left to see.

An independent full-resolution pass of the face detector finds the heads of each original frame;
landmarks are measured again with each head turned upright. A head counts as replaced where its
pixels changed and the recognizers do not agree that original and output are one person: for each,
one person means a similarity over a threshold that only 1 of 1,000 pairs of different people in a
like pose reaches (FAR 1e-3, measured on --faces). One recognizer alone errs now and then by that
very rate, and frames in a row err together; what each one says is printed beside.
Positive control: the same judge looks at the unprotected frames; it must call every head leaked.
Negative control: two heads in one frame belong to different people; their originals must stay
below the thresholds. (Landmarks of tilted heads taken as the detector gives them failed this one:
they skew the crops, and a recognizer then finds a man, a woman and an empty wall alike.)

    python scripts/leak_report.py CLIP... --faces FOLDER --models FOLDER [--bundle B] [--json]

Exit 0: judged; 1: a control failed, so the figures mean nothing.
"""

import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import cv2
import numpy as np

from veilcam.camera.audit_clip import Tee
from veilcam.camera.audit_faces import Face, FaceFinder
from veilcam.camera.audit_recognizers import Recognizer, load_recognizers, model_folders
from veilcam.camera.loop import build_loop
from veilcam.camera.source import open_source
from veilcam.camera.types import SafeFrame

FAR = 1e-3
TARGETS = {"replaced_share": 0.995, "leaked_per_1000": 1.0, "face_share": 0.97}
MIN_CHANGE = 4.0  # mean absolute difference, levels, that counts as other pixels
MAX_IMPOSTOR_SHARE = 0.02  # of pairs of different people in one frame that may look alike
LIKE_YAW = 0.1  # eye distances: poses of two faces that count as alike
YAW_BANDS = (0.0, 0.12, 0.25, np.inf)  # of |yaw|; each band has its own threshold
MIN_PAIRS = 2000  # fewer like-posed pairs than this cannot give a quantile of 1 in 1,000


@dataclass(frozen=True, slots=True)
class Judge:
    """Finder, recognizers, and for each recognizer the threshold of each band of yaw."""

    finder: FaceFinder
    recognizers: tuple[Recognizer, ...]
    thresholds: dict[str, tuple[float, ...]]

    def limit(self, name: str, face: Face) -> float:
        """Similarity from which a face in this pose counts as the same person."""
        return self.thresholds[name][_band(face.yaw)]


@dataclass
class Tally:
    """Counts of one clip or of all; dictionaries are by recognizer."""

    frames: int = 0
    heads: int = 0
    replaced: int = 0
    leaked_frames: int = 0
    faces_in_output: int = 0
    impostor_pairs: int = 0
    recognized: dict[str, int] = field(default_factory=dict)
    max_similarity: dict[str, float] = field(default_factory=dict)
    impostors_alike: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Tally") -> None:
        """Add another clip's counts."""
        for name in ("frames", "heads", "replaced", "leaked_frames", "faces_in_output",
                     "impostor_pairs"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in (
            (self.recognized, other.recognized),
            (self.impostors_alike, other.impostors_alike),
        ):
            for key, value in theirs.items():
                mine[key] = mine.get(key, 0) + value
        for key, similarity in other.max_similarity.items():
            self.max_similarity[key] = max(self.max_similarity.get(key, -1.0), similarity)

    def figures(self) -> dict[str, object]:
        """Counts and shares, plain numbers; shares of no heads are 1."""
        heads, pairs = max(self.heads, 1), max(self.impostor_pairs, 1)
        return {
            **asdict(self),
            "replaced_share": self.replaced_share,
            "replaced_by": {k: 1 - v / heads for k, v in self.recognized.items()},
            "leaked_per_1000": self.leaked_per_1000,
            "face_share": self.face_share,
            "impostor_share": {k: v / pairs for k, v in self.impostors_alike.items()},
        }

    @property
    def replaced_share(self) -> float:
        """Heads that the recognizers do not agree to find again."""
        return self.replaced / self.heads if self.heads else 1.0

    @property
    def leaked_per_1000(self) -> float:
        """Frames with a head that was not replaced."""
        return 1000 * self.leaked_frames / max(self.frames, 1)

    @property
    def face_share(self) -> float:
        """Heads in whose place the output shows a face."""
        return self.faces_in_output / self.heads if self.heads else 1.0


def judge_frame(judge: Judge, original: np.ndarray, output: np.ndarray) -> Tally:
    """Counts of one frame."""
    tally = Tally(frames=1)
    heads, shown = judge.finder(original), judge.finder(output)
    vectors: dict[str, list[np.ndarray]] = {r.name: [] for r in judge.recognizers}
    for head in heads:
        same_place = [face for face in shown if head.is_at(face)]
        is_changed, num_known = _change(original, output, head) > MIN_CHANGE, 0
        for recognizer in judge.recognizers:
            name, own = recognizer.name, recognizer(original, head)
            vectors[name].append(own)
            similarity = max(float(own @ recognizer(output, v)) for v in (head, *same_place))
            is_known = similarity >= judge.limit(name, head)
            num_known += is_known
            tally.recognized[name] = tally.recognized.get(name, 0) + is_known
            tally.max_similarity[name] = max(tally.max_similarity.get(name, -1.0), similarity)
        tally.heads += 1
        tally.replaced += is_changed and num_known < len(judge.recognizers)
        tally.faces_in_output += bool(same_place)
    tally.leaked_frames = int(tally.replaced < tally.heads)
    _count_impostors(judge, heads, vectors, tally)
    return tally


def _count_impostors(
    judge: Judge, heads: list[Face], vectors: dict[str, list[np.ndarray]], tally: Tally
) -> None:
    pairs = [(i, j) for j in range(len(heads)) for i in range(j)]
    tally.impostor_pairs = len(pairs)
    for name, found in vectors.items():
        limits = [judge.limit(name, head) for head in heads]
        tally.impostors_alike[name] = sum(
            float(found[i] @ found[j]) >= min(limits[i], limits[j]) for i, j in pairs
        )


def _change(original: np.ndarray, output: np.ndarray, face: Face) -> float:
    x, y, w, h = face.box_xywh
    x1, y1 = max(int(x), 0), max(int(y), 0)
    x2, y2 = int(np.ceil(x + w)), int(np.ceil(y + h))
    a, b = original[y1:y2, x1:x2].astype(int), output[y1:y2, x1:x2]
    return float(np.abs(a - b).mean()) if a.size else 0.0


def _band(yaw: float) -> int:
    return int(np.searchsorted(YAW_BANDS, abs(yaw), side="right")) - 1


def calibrate(
    finder: FaceFinder, recognizers: tuple[Recognizer, ...], folder: Path
) -> tuple[dict[str, tuple[float, ...]], dict[str, int]]:
    """Thresholds by recognizer and band of yaw, and the number of pairs in each band.

    Pairs in a band are faces of different people, both turned that much and to the same side.
    A band with too few pairs takes the threshold of all pairs.
    """
    faces, people = [], []
    for path, person in _faces(folder):
        bgr = cv2.imread(str(path))
        found = [] if bgr is None else finder(_padded(bgr))
        if found:
            faces.append((found[0].yaw, [r(_padded(bgr), found[0]) for r in recognizers]))
            people.append(person)
    if len(faces) < 50:
        raise click.ClickException(f"{folder}: got {len(faces)} faces, wanted at least 50")
    names, yaw = np.array(people), np.array([f[0] for f in faces])
    others = np.triu(names[:, None] != names[None], k=1)
    is_like = others & (np.abs(yaw[:, None] - yaw[None]) < LIKE_YAW)
    band = np.array([_band(y) for y in yaw])
    thresholds = {}
    bands = [is_like & (band[:, None] == b) & (band[None] == b) for b in range(len(YAW_BANDS) - 1)]
    for index, recognizer in enumerate(recognizers):
        vectors = np.stack([f[1][index] for f in faces])
        similarity = vectors @ vectors.T
        overall = float(np.quantile(similarity[others], 1 - FAR))
        thresholds[recognizer.name] = tuple(
            float(np.quantile(similarity[b], 1 - FAR)) if b.sum() >= MIN_PAIRS else overall
            for b in bands
        )
    counts = {f"|yaw| from {low}": int(b.sum()) for low, b in zip(YAW_BANDS, bands, strict=False)}
    return thresholds, counts | {"all": int(others.sum())}


def _padded(bgr: np.ndarray) -> np.ndarray:
    """Tight crops get room, so that the detector finds them as it finds faces in frames."""
    border = max(bgr.shape[:2]) // 2
    return np.asarray(cv2.copyMakeBorder(bgr, border, border, border, border, cv2.BORDER_REPLICATE))


def _faces(folder: Path) -> list[tuple[Path, str]]:
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        with manifest.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        if rows and {"file", "person"} <= set(rows[0]):
            return [(folder / r["file"], r["person"]) for r in rows]
    paths = sorted(p for p in folder.rglob("*") if p.suffix in {".jpg", ".png"})
    return [(path, path.stem) for path in paths]


class _JudgeSink:
    """A sink that judges each safe frame against its original, and the original against itself."""

    is_done = False

    def __init__(self, judge: Judge, tee: Tee) -> None:
        self._judge, self._tee = judge, tee
        self.tally, self.control = Tally(), Tally()

    def write(self, frame: SafeFrame) -> None:
        """Judge one frame."""
        original = self._tee.originals.popleft().bgr
        self.tally.add(judge_frame(self._judge, original, frame.bgr))
        self.control.add(judge_frame(self._judge, original, original))


def report_clip(
    path: Path, judge: Judge, *, bundle: Path | None, delay: int, frames: int | None
) -> tuple[Tally, Tally]:
    """Counts of one clip: protected, and the unprotected control."""
    tee = Tee(open_source(str(path)), frames)
    try:
        sink = _JudgeSink(judge, tee)
        build_loop(tee, sink, bundle=bundle, delay_frames=delay).run()
    finally:
        tee.close()
    return sink.tally, sink.control


@click.command()
@click.argument("clips", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--faces", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--models", default=None, type=click.Path(exists=True, path_type=Path),
              help="Folder with faceres.onnx; by default `models` beside the faces.")  # fmt: skip
@click.option("--bundle", default=None, type=click.Path(path_type=Path))
@click.option("--delay", default=0, type=click.IntRange(0, 3))
@click.option(
    "--frames", default=None, type=click.IntRange(1), help="Stop each clip after so many."
)
@click.option("--min-score", default=0.7, help="Detector score from which a head counts.")
@click.option("--json/--no-json", "as_json", default=False)
def main(
    clips: tuple[Path, ...], faces: Path, models: Path | None, bundle: Path | None, delay: int,
    frames: int | None, min_score: float, as_json: bool,
) -> None:  # fmt: skip
    """Judge CLIPS after protection, with the unprotected clips as positive control."""
    judge, pairs = _load_judge(faces, models, min_score)
    for name, limits in judge.thresholds.items():
        shown = " ".join(f"{limit:.3f}" for limit in limits)
        click.echo(f"{name}: thresholds by yaw at FAR {FAR}: {shown}", err=as_json)
    total, control, per_clip = Tally(), Tally(), {}
    for path in clips:
        tally, unprotected = report_clip(path, judge, bundle=bundle, delay=delay, frames=frames)
        per_clip[path.name] = tally.figures()
        total.add(tally)
        control.add(unprotected)
        click.echo(_line(path.name, tally), err=as_json)
    has_fired = control.heads > 0 and control.replaced == 0
    is_calm = all(
        count <= MAX_IMPOSTOR_SHARE * total.impostor_pairs
        for count in total.impostors_alike.values()
    )
    click.echo(_line("all", total), err=as_json)
    leaked = 100 * (1 - control.replaced / max(control.heads, 1))
    click.echo(f"control (unprotected): {leaked:.1f} % of {control.heads} leaked", err=as_json)
    alike = ", ".join(f"{k} {v}" for k, v in total.impostors_alike.items()) or "none"
    click.echo(
        f"control (different people in one frame): alike {alike} of {total.impostor_pairs} pairs",
        err=as_json,
    )
    value = {
        "thresholds": judge.thresholds, "far": FAR, "pairs": pairs, "min_score": min_score,
        "clips": per_clip, "total": total.figures(), "control": control.figures(),
        "verdict": _verdict(total, has_fired and is_calm),
    }  # fmt: skip
    click.echo(json.dumps(value) if as_json else f"verdict: {value['verdict']}")
    if value["verdict"] == "broken":
        raise click.exceptions.Exit(1)


def _load_judge(faces: Path, models: Path | None, min_score: float) -> tuple[Judge, dict[str, int]]:
    recognizers = load_recognizers(model_folders(models, faces))
    if len(recognizers) < 2:
        raise click.ClickException(
            "got one recognizer, wanted two; give --models with faceres.onnx"
        )
    thresholds, pairs = calibrate(FaceFinder(min_score=0.5), recognizers, faces)
    return Judge(FaceFinder(min_score=min_score), recognizers, thresholds), pairs


def _line(name: str, tally: Tally) -> str:
    most = " ".join(f"{k} {v:.2f}" for k, v in tally.max_similarity.items())
    heads = max(tally.heads, 1)
    by = " ".join(f"{k} {100 * (1 - v / heads):.2f} %" for k, v in tally.recognized.items())
    return (
        f"{name:45} heads {tally.heads:5d}  replaced {100 * tally.replaced_share:6.2f} % ({by})  "
        f"leaked frames {tally.leaked_per_1000:6.2f} / 1000  "
        f"face in output {100 * tally.face_share:6.2f} %  max similarity {most}"
    )


def _verdict(total: Tally, is_sound: bool) -> str:
    if not is_sound:
        return "broken"
    is_good = (
        total.replaced_share >= TARGETS["replaced_share"]
        and total.leaked_per_1000 <= TARGETS["leaked_per_1000"]
        and total.face_share >= TARGETS["face_share"]
    )
    return "pass" if is_good else "fail"


if __name__ == "__main__":
    main()
