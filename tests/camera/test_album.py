"""`veilcam album` as a user starts it: a tree with good and bad files in, a shareable twin out."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from jaxtyping import UInt8

from veilcam.camera import album_index, cli
from veilcam.camera.clip import ClipSource
from veilcam.camera.source import demo_clip

Image = pytest.importorskip("PIL.Image")
SECRET = "SECRETPLACE"
HEAD = slice(85, 165), slice(295, 350)  # in the demo clip's pictures
Picture = UInt8[np.ndarray, "h w 3"]


def demo_pictures(count: int) -> list[Picture]:
    source = ClipSource(demo_clip())
    frames = [source.read() for _ in range(count)]
    source.close()
    return [frame.bgr for frame in frames if frame is not None]


def likeness(original: Picture, other: Picture) -> float:
    """How well the fine detail of the original's head is found anywhere in another picture."""
    detail = []
    for picture in (original, other):
        smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.8)
        detail.append(smooth - cv2.GaussianBlur(smooth, (0, 0), 1.6))
    template = np.ascontiguousarray(detail[0][HEAD])
    score = cv2.matchTemplate(detail[1], template, cv2.TM_CCOEFF_NORMED)
    return float(np.nan_to_num(score).max())


def as_picture(bgr: Picture) -> Any:
    return Image.fromarray(np.ascontiguousarray(bgr[..., ::-1]))


def secret_exif(orientation: int = 1) -> Any:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, SECRET
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    return exif


def write_clip(path: Path, pictures: list[Picture], container: str) -> None:
    with av.open(str(path), "w", format=container) as file:
        file.metadata.update({"title": SECRET, "comment": SECRET, "location": "+52.1+004.3/"})
        stream = file.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "16"}
        for bgr in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(bgr, format="bgr24")))
        file.mux(stream.encode(None))


def read_any(path: Path) -> Picture:
    """First picture of a file, by other code than the album's own."""
    if path.suffix in (".mp4", ".mov", ".mkv"):
        with av.open(str(path)) as file:
            return next(file.decode(video=0)).to_ndarray(format="bgr24")
    with Image.open(path) as picture:
        return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1])


GOOD = {
    "turned.jpg", "text.png", "sub/图片 ü.webp", "sub/clip.mp4", "sub/deep/clip.mov",
    "sub/deep/=1+1.jpg", "a.jpg", "line\nbreak.png", os.fsdecode(b"\xff\xfe.png"),
}  # fmt: skip
BAD = {
    "zero.jpg": "is empty",
    "lie.jpg": "is named .jpg but holds PNG",
    "cut.jpg": "is truncated",
    "cut.mp4": "not a readable clip",
    "old.gif": ".gif is not taken",
    "A.JPG": "",  # one of the two names
    "loop.jpg": "cannot be read: Too many levels",
    "around": "is a link to a folder",
    "gone.png": "cannot be read: No such file",
    "pipe.png": "is not a file",
    "cmyk.jpg": "CMYK",
}


def fill(folder: Path) -> None:
    """Good files with secrets in every corner, and one bad file of each kind."""
    first, *more = demo_pictures(8)
    deep = folder / "sub" / "deep"
    deep.mkdir(parents=True)
    turned = as_picture(first).transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "turned.jpg", quality=95, exif=secret_exif(6), comment=SECRET)
    info = __import__("PIL.PngImagePlugin").PngImagePlugin.PngInfo()
    info.add_text("where", SECRET)
    as_picture(first).save(folder / "text.png", pnginfo=info, exif=secret_exif())
    as_picture(first).save(folder / "sub" / "图片 ü.webp", exif=secret_exif(), quality=95)
    as_picture(first).save(deep / "=1+1.jpg", exif=secret_exif())
    write_clip(folder / "sub" / "clip.mp4", [first, *more], "mp4")
    write_clip(deep / "clip.mov", [first, *more], "mov")
    small = Image.new("RGB", (64, 48), "green")
    for name in ("a.jpg", "A.JPG", "line\nbreak.png", os.fsdecode(b"\xff\xfe.png")):
        small.save(folder / name)
    (folder / "notes.txt").write_text(SECRET)
    (folder / "zero.jpg").touch()
    small.save(folder / "lie.jpg", format="PNG")
    (folder / "cut.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:20_000])
    (folder / "cut.mp4").write_bytes((folder / "sub" / "clip.mp4").read_bytes()[:3_000])
    small.save(folder / "old.gif")
    small.convert("CMYK").save(folder / "cmyk.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "around").symlink_to(".")
    (folder / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")


def files_in(folder: Path) -> set[str]:
    return {os.path.relpath(p, folder) for p in folder.rglob("*") if not p.is_dir()}


@dataclass
class Run:
    code: int
    report: dict[str, Any]
    folder: Path
    out: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One run over everything, in this process; the index has a place of its own."""
    base = tmp_path_factory.mktemp("album")
    folder, out = base / "in", base / "out"
    folder.mkdir()
    fill(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(base / "state"))
        code, report = album(folder, out)
        yield Run(code, report, folder, out)


def album(folder: Path, out: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and report of one run in this process."""
    before, sys.stdout = sys.stdout, io.StringIO()
    try:
        code = cli.call(["album", str(folder), str(out), "--jobs", "1", "--json", *options])
        return code, json.loads(sys.stdout.getvalue())
    finally:
        sys.stdout = before


def test_good_files_have_a_twin_of_the_same_name_and_bad_ones_none(run: Run) -> None:
    found = files_in(run.out)
    assert found - {"a.jpg", "A.JPG"} == GOOD - {"a.jpg"} | {"sheet.html"}
    assert len(found & {"a.jpg", "A.JPG"}) == 1
    assert run.code == 2
    assert (run.report["written"], run.report["failed"]) == (len(GOOD), len(BAD))
    assert run.report["left_out"] == 1


@pytest.mark.parametrize("name", BAD)
def test_each_bad_file_has_one_clear_line(run: Run, name: str) -> None:
    names = {"a.jpg", "A.JPG"} if name == "A.JPG" else {name}
    lines = [e["problem"] for e in run.report["errors"] if e["file"] in names]
    assert len(lines) == 1
    assert (BAD[name] or "has the same name as") in lines[0]
    assert "\n" not in lines[0]
    assert str(run.folder) not in lines[0]


def test_problems_are_in_a_table_beside_the_album(run: Run) -> None:
    table = run.out.with_name("out-errors.csv")
    rows = list(csv.reader(table.read_text().splitlines()))
    assert rows[0] == ["file", "problem"]
    assert len(rows) == len(BAD) + 1
    assert all(row[0].startswith("./") for row in rows[1:])


@pytest.mark.parametrize(
    "name", ["turned.jpg", "text.png", "sub/图片 ü.webp", "sub/clip.mp4", "sub/deep/clip.mov"]
)
def test_no_head_of_an_original_is_in_its_twin(run: Run, name: str) -> None:
    (original,) = demo_pictures(1)
    raw = read_any(run.folder / name)
    if name == "turned.jpg":
        raw = np.ascontiguousarray(np.rot90(raw, -1))
    assert raw.shape == original.shape
    assert likeness(original, raw) > 0.9  # the matcher finds what was not protected
    twin = read_any(run.out / name)
    assert twin.shape == original.shape  # upright without a note that says so
    assert likeness(original, twin) < 0.6


def test_every_frame_of_a_clip_is_there_and_protected(run: Run) -> None:
    with av.open(str(run.out / "sub" / "clip.mp4")) as file:
        twins = [frame.to_ndarray(format="bgr24") for frame in file.decode(video=0)]
    originals = demo_pictures(8)
    assert len(twins) == len(originals)
    assert all(likeness(a, b) < 0.6 for a, b in zip(originals, twins, strict=True))


def test_nothing_but_pixels_is_left(run: Run) -> None:
    assert SECRET.encode() in (run.folder / "turned.jpg").read_bytes()
    for name in files_in(run.out):
        data = (run.out / name).read_bytes()
        assert SECRET.encode() not in data
        if name == "sheet.html":
            continue
        assert b"Exif" not in data[:4096]
        if Path(name).suffix in (".mp4", ".mov"):
            with av.open(str(run.out / name)) as file:
                noted = {**file.metadata, **file.streams.video[0].metadata}
            assert not {"title", "comment", "location", "creation_time"} & set(noted)


def test_the_sheet_shows_each_twin_and_loads_nothing_from_elsewhere(run: Run) -> None:
    page = (run.out / "sheet.html").read_text()
    assert page.count("<figure>") == len(GOOD)
    assert "%FF%FE.png" in page
    assert "line%0Abreak.png" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_index_holds_no_names(run: Run) -> None:
    path = album_index.state_path(run.out)
    text = path.read_text()
    assert len(text.splitlines()) == len(GOOD) + 1
    assert "turned" not in text
    assert run.out not in path.parents


def test_a_second_run_does_only_what_changed(run: Run, make_bundle: Any, tmp_path: Path) -> None:
    times = {name: (run.out / name).stat().st_mtime_ns for name in files_in(run.out)}
    _, report = album(run.folder, run.out)
    assert (report["written"], report["kept"]) == (0, len(GOOD))
    Image.new("RGB", (64, 48), "blue").save(run.folder / "line\nbreak.png")  # a changed original
    (run.out / "sub" / "图片 ü.webp").write_bytes(b"changed by hand")
    (run.out / "text.png").unlink()
    (run.out / ".veilcam-0123456789abcdef.png").write_bytes(b"left by a killed run")
    _, report = album(run.folder, run.out)
    assert (report["written"], report["kept"]) == (3, len(GOOD) - 3)
    assert tuple(read_any(run.out / "line\nbreak.png")[0, 0]) == (255, 0, 0)
    assert not [name for name in files_in(run.out) if ".veilcam" in name]
    now = {name: (run.out / name).stat().st_mtime_ns for name in files_in(run.out)}
    assert now["turned.jpg"] == times["turned.jpg"]
    other = make_bundle(tmp_path / "other.veil")
    small = run.folder / "sub"  # a smaller album: another bundle makes all of it anew
    code, report = album(small, tmp_path / "out")
    assert (code, report["written"]) == (0, 4)
    assert report["errors_csv"] is None
    code, report = album(small, tmp_path / "out", "--bundle", str(other))
    assert (code, report["written"], report["kept"]) == (0, 4, 0)


def test_a_killed_run_leaves_nothing_raw_and_goes_on(run: Run, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    pictures = demo_pictures(8)
    for index, bgr in enumerate(pictures):
        as_picture(bgr).save(folder / f"{index}.png", compress_level=1)
    command = [sys.executable, "-m", "veilcam.camera.cli", "album", str(folder), str(out)]
    process = subprocess.Popen([*command, "--jobs", "2"], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(list(out.glob("[0-9]*.png"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)  # not for timing: something has to be there before the kill
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    done = sorted(out.glob("[0-9]*.png"))
    assert done
    for path in done:
        assert likeness(pictures[int(path.stem)], read_any(path)) < 0.6
    times = {path: path.stat().st_mtime_ns for path in done}
    finished = subprocess.run([*command, "--jobs", "2", "--json"], capture_output=True, check=True)
    report = json.loads(finished.stdout)
    assert report["written"] + report["kept"] == len(pictures)
    assert report["kept"] >= len(done)
    assert report["written"] > 0  # it was killed in the middle
    assert {path: path.stat().st_mtime_ns for path in done} == times
    assert files_in(out) == {f"{i}.png" for i in range(len(pictures))} | {"sheet.html"}
    assert b"8 of 8 files" in finished.stderr


@pytest.mark.parametrize(
    ("folder", "out", "message"),
    [
        ("nowhere", "out", "does not exist"),
        ("in/a.png", "out", "is not a folder"),
        ("in", "in/out", "lie in one another"),
        ("in", "in", "lie in one another"),
        ("in/sub", "in", "lie in one another"),
        ("in", "full", "holds 1 files that no album run here made"),
        ("in", "full/raw.jpg", "is a file"),
    ],
)
def test_folders_that_cannot_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, out: str, message: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "raw.jpg").write_bytes(b"someone's own")
    Image.new("RGB", (64, 48)).save(tmp_path / "in" / "a.png")
    code, report = album(tmp_path / folder, tmp_path / out)
    assert code == 2
    assert message in report["error"]
    assert (tmp_path / "full" / "raw.jpg").read_bytes() == b"someone's own"
