"""An album of 300 mixed files: made, protected, killed, resumed, and looked through.

Usage: python scripts/album_check.py DATA WORK [-o report.json] [--fraction 0.2]
DATA holds persons/photos, faces/synthetic, scenes/views, scenes/carla and clips (public pictures
only). Needs exiftool. Each original gets notes, a place and a thumbnail by exiftool.

Looked for in the twins: any note (exiftool, and a word that every original holds), and the fine
detail of each head that the judge's finder sees in an original. Controls: exiftool has to find the
notes in the originals, and the matcher the heads in originals that were only saved again.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import click
import cv2
import numpy as np

from veilcam.camera.album_files import load_pillow
from veilcam.camera.audit_faces import Face, FaceFinder

WORD = "SECRETPLACE"
PARTS = {"photos": 29, "signers": 60, "rooms": 40, "streets": 40, "portraits": 100, "clips": 12}
ODD = {
    "zero.jpg", "cut.jpg", "lie.jpg", "anim.webp", "cmyk.jpg", "deep.png", "old.gif", "cut.mp4",
    "loop.png", "huge.png", "pipe.jpg", "A.JPG", "a.jpg", "grey.jpg", "palette.png", "clear.png",
    "图片 ü.jpg", "line\nbreak.png", "tiny.png",
}  # fmt: skip
KINDS = (".jpg", ".png", ".webp", ".heic", ".JPG")
NOTES = ("IFD0", "IFD1", "ExifIFD", "GPS", "XMP", "IPTC", "ICC", "Photoshop", "Keys", "UserData",
         "ItemList", "MakerNotes", "InteropIFD", "Preview", "MPF")  # fmt: skip
MUXER = ("ItemList:Encoder", "UserData:SoftwareVersion")  # libavformat's own name, in every clip
CLIPS = (".mp4", ".mov", ".mkv")
SAME = 0.6  # likeness of fine detail from which a head counts as the original's
MIN_HEAD_PX = 24


def fill(data: Path, folder: Path, fraction: float = 1.0) -> int:
    """Write the originals; how many there are. A fraction takes so many of each part."""
    random = np.random.default_rng(0)  # of the choice of pictures; nothing secret
    where = {"photos": "persons/photos", "rooms": "scenes/views", "streets": "scenes/carla",
             "portraits": "faces/synthetic"}  # fmt: skip
    number = 0
    for part, whole in PARTS.items():
        count = max(round(whole * fraction), 1)
        if part in where:
            paths = sorted((data / where[part]).glob("*.jpg"))
            chosen = [paths[i] for i in random.permutation(len(paths))[:count]]
            pictures = [cv2.imread(str(path)) for path in chosen]
        else:
            pictures = _frames(data, count)
        for bgr in pictures:
            bgr = _wide(bgr) if part == "portraits" else bgr
            place = folder / part / ("more" if number % 3 else ".")
            place.mkdir(parents=True, exist_ok=True)
            if part == "clips":
                _clip(place / f"{number}{CLIPS[number % 3]}", bgr)
            else:
                _save(place / f"{number}{KINDS[number % len(KINDS)]}", bgr)
            number += 1
    _odd(folder, cv2.imread(str(sorted((data / "scenes/views").glob("*.jpg"))[0])))
    _note(folder)
    return sum(not p.is_dir() or p.is_symlink() for p in folder.rglob("*"))


def _frames(data: Path, count: int) -> list[np.ndarray]:
    clips, found = sorted((data / "clips").glob("*.mkv")), []
    for at in range(count):
        capture = cv2.VideoCapture(str(clips[at % len(clips)]))
        capture.set(cv2.CAP_PROP_POS_FRAMES, 5 * (at // len(clips)))
        is_read, bgr = capture.read()
        assert is_read
        found.append(bgr)
    return found


def _wide(bgr: np.ndarray) -> np.ndarray:
    """A tight portrait in some room round it, twice as large."""
    large = cv2.resize(bgr, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.copyMakeBorder(large, 96, 96, 128, 128, cv2.BORDER_REPLICATE))


def _save(path: Path, bgr: np.ndarray) -> None:
    image = load_pillow("HEIC")
    image.fromarray(np.ascontiguousarray(bgr[..., ::-1])).save(path, quality=95)


def _clip(path: Path, bgr: np.ndarray, frames: int = 8) -> None:
    """A still that is moved a little from frame to frame."""
    with av.open(str(path), "w") as file:
        file.metadata.update({"title": WORD, "comment": WORD})
        stream = file.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = *bgr.shape[:2], "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "16"}
        for at in range(frames):
            moved = np.roll(bgr, 2 * at, axis=1)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="bgr24")))
        file.mux(stream.encode(None))


def _odd(folder: Path, bgr: np.ndarray) -> None:
    image = load_pillow()
    small = image.fromarray(np.ascontiguousarray(bgr[:120, :160, ::-1]))
    for name in ("A.JPG", "a.jpg", "图片 ü.jpg", "line\nbreak.png"):
        small.save(folder / name)
    (folder / "zero.jpg").touch()
    small.save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:1500])
    small.save(folder / "lie.jpg", format="PNG")
    small.save(folder / "anim.webp", save_all=True, append_images=[small.rotate(90)])
    small.convert("CMYK").save(folder / "cmyk.jpg")
    cv2.imwrite(str(folder / "deep.png"), bgr[:64, :64].astype(np.uint16) * 257)
    small.save(folder / "old.gif")
    small.convert("L").save(folder / "grey.jpg")
    small.convert("P").save(folder / "palette.png")
    small.convert("RGBA").save(folder / "clear.png")
    small.crop((0, 0, 8, 8)).save(folder / "tiny.png")
    image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    (folder / "cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(64))
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.jpg")


def _note(folder: Path) -> None:
    """Notes of every sort, by exiftool; files that it cannot write stay as they are."""
    thumb = folder.parent / "thumb.jpg"
    cv2.imwrite(str(thumb), np.full((60, 80, 3), 90, np.uint8))
    tags = [f"-IFD0:Make={WORD}", f"-XMP:Creator={WORD}", f"-IPTC:City={WORD}", f"-Comment={WORD}",
            "-GPSLatitude=52.1", "-GPSLatitudeRef=N", f"-ThumbnailImage<={thumb}",
            f"-Keys:Title={WORD}", f"-UserData:Artist={WORD}"]  # fmt: skip
    named = [option for kind in ("jpg", "png", "webp", "heic", "mp4", "mov")
             for option in ("-ext", kind)]  # fmt: skip
    command = ["exiftool", "-q", "-q", "-m", "-overwrite_original", "-r", *named, *tags]
    subprocess.run([*command, *_parts(folder)], check=False, stderr=subprocess.DEVNULL)


def _parts(folder: Path) -> list[str]:
    return [str(folder / part) for part in PARTS]


def run_album(folder: Path, out: Path, jobs: int, kill_at: int | None) -> dict[str, Any]:
    """One run; killed once so many twins are there."""
    command = [sys.executable, "-m", "veilcam.camera.cli", "album", str(folder), str(out),
               "--jobs", str(jobs), "--json"]  # fmt: skip
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while kill_at is not None and process.poll() is None:
        if len(_twins(out)) >= kill_at:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.05)
    text, code = process.communicate()[0], process.returncode
    value = json.loads(text) if text else {}
    spent = round(time.monotonic() - started, 1)
    return {"exit": code, "seconds": spent, "twins": len(_twins(out)), **value}


def _twins(out: Path) -> list[Path]:
    names = (p for p in sorted(out.rglob("*")) if p.is_file() and not p.is_symlink())
    return [p for p in names if p.name != "sheet.html" and ".veilcam" not in p.name]


def notes(folders: list[str]) -> dict[str, Any]:
    """Files with a note, by exiftool, and the groups of tags that are there at all."""
    command = ["exiftool", "-j", "-G1", "-a", "-u", "-ee", "-q", "-r", *folders]
    done = subprocess.run(command, capture_output=True, check=False)
    rows = json.loads(done.stdout)
    groups: dict[str, int] = {}
    num_noted = num_word = 0
    for row in rows:
        found = {tag.partition(":")[0] for tag in row if ":" in tag and tag not in MUXER}
        num_noted += any(group.startswith(NOTES) for group in found)
        values = {k: v for k, v in row.items() if k != "SourceFile" and ":File" not in k}
        num_word += WORD in json.dumps(values)
        for group in found:
            groups[group] = groups.get(group, 0) + 1
    return {"files": len(rows), "with_notes": num_noted, "with_word": num_word, "groups": groups}


def first_picture(path: Path) -> np.ndarray:
    """First picture of a file, upright."""
    if path.suffix in CLIPS:
        with av.open(str(path)) as file:
            return np.asarray(next(file.decode(video=0)).to_ndarray(format="bgr24"))
    with load_pillow("HEIC").open(path) as picture:
        return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1])


def likeness(original: np.ndarray, face: Face, other: np.ndarray) -> float:
    """How well the fine detail of a head is found near its place in another picture."""
    x, y, w, h = (int(v) for v in face.box_xywh)
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + h, original.shape[0]), min(x + w, original.shape[1])
    reach = max(w, h) // 2
    near = slice(max(top - reach, 0), bottom + reach), slice(max(left - reach, 0), right + reach)
    template = _detail(original)[top:bottom, left:right]
    score = cv2.matchTemplate(_detail(other)[near], template, cv2.TM_CCOEFF_NORMED)
    return float(np.nan_to_num(score).max())


def _detail(bgr: np.ndarray) -> np.ndarray:
    smooth = cv2.GaussianBlur(bgr.astype(np.float32), (0, 0), 0.8)
    return np.ascontiguousarray(smooth - cv2.GaussianBlur(smooth, (0, 0), 1.6))


def heads(folder: Path, out: Path) -> dict[str, Any]:
    """Heads of originals that are found again in twins, and in originals saved again."""
    finder, scores, controls, twins_like = FaceFinder(min_score=0.7), [], [], []
    for twin in _twins(out):
        original, safe = first_picture(folder / twin.relative_to(out)), first_picture(twin)
        coded = cv2.imencode(".jpg", original, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
        saved = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        for face in finder(original):
            if min(face.box_xywh[2:]) < MIN_HEAD_PX:
                continue
            scores.append(likeness(original, face, safe))
            controls.append(likeness(original, face, saved))
            if scores[-1] >= SAME:
                twins_like.append([str(twin.relative_to(out)), round(scores[-1], 2)])
    return {
        "heads": len(scores),
        "found_in_twins": int(sum(s >= SAME for s in scores)),
        "found_saved_again": int(sum(s >= SAME for s in controls)),
        "median_twins": round(float(np.median(scores)), 2),
        "median_saved_again": round(float(np.median(controls)), 2),
        "which": twins_like,
    }


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("work", type=click.Path(path_type=Path, file_okay=False))
@click.option("-o", "--report", type=click.Path(path_type=Path), help="Report, .json")
@click.option("--jobs", type=click.IntRange(1), default=1)
@click.option("--fraction", type=click.FloatRange(0.01, 1), default=1.0, help="Of the 300 files.")
def main(data: Path, work: Path, report: Path | None, jobs: int, fraction: float) -> None:
    """Make, protect, kill, resume and check an album of 300 files."""
    cv2.setNumThreads(1)
    folder, out = work / "in", work / "out"
    folder.mkdir(parents=True)
    os.environ["XDG_STATE_HOME"] = str(work / "state")
    value: dict[str, Any] = {"originals": fill(data, folder, fraction)}
    value["killed"] = run_album(folder, out, jobs, kill_at=max(int(100 * fraction), 1))
    kept = {p: p.stat().st_mtime_ns for p in _twins(out)}
    value["heads_after_kill"] = heads(folder, out)
    value["resumed"] = run_album(folder, out, jobs, kill_at=None)
    value["kept_untouched"] = all(p.stat().st_mtime_ns == at for p, at in kept.items())
    value["again"] = run_album(folder, out, jobs, kill_at=None)
    value["notes_in"], value["notes_out"] = notes(_parts(folder)), notes([str(out)])
    value["word_in_bytes"] = sum(WORD.encode() in p.read_bytes() for p in _twins(out))
    value["word_in_originals"] = sum(WORD.encode() in p.read_bytes() for p in _twins(folder)
                                     if p.is_file())  # fmt: skip
    value["heads"] = heads(folder, out)
    text = json.dumps(value, indent=1)
    if report is not None:
        report.write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
