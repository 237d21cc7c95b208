"""Faults of an album run: whatever breaks, nothing raw gets a name and the rest goes on."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veilcam.camera import album, album_crew, album_scan, album_work
from veilcam.camera.album_index import Entry, Index, opened, state_path
from veilcam.camera.album_sheet import sheet, write_over, write_problems
from veilcam.camera.album_work import Recipe, Result, Task, Worker
from veilcam.camera.errors import GraphError, SinkError
from veilcam.camera.manifest import load_bundle
from veilcam.camera.strength import Strength
from veilcam.camera.types import SafeFrame

Image = pytest.importorskip("PIL.Image")
RECIPE = Recipe(None, Strength.BALANCED, load_bundle().sha256)
ENTRY = Entry("a" * 64, "b" * 64, RECIPE.note, is_blank=False)


class FakeProtector:
    """Stands for the models: gives what it was told, or raises it."""

    heads_replaced = 1
    bundle = load_bundle()

    def __init__(self, reason: str = "", error: Exception | None = None) -> None:
        self.reason, self.error = reason, error

    def __call__(self, bgr: np.ndarray) -> SafeFrame:
        if self.error is not None:
            raise self.error
        return SafeFrame.blank(bgr.shape[:2], index=0, time_s=0.0, reason=self.reason)


def make_worker(monkeypatch: pytest.MonkeyPatch, protector: FakeProtector) -> Worker:
    monkeypatch.setattr(album_work, "make_protector", lambda *_, **__: protector)
    return Worker(RECIPE)


def make_task(folder: Path, name: str = "a.png", known: Entry | None = None) -> Task:
    origin, target = folder / "in" / name, folder / "out" / name
    origin.parent.mkdir(exist_ok=True)
    Image.new("RGB", (64, 48), "red").save(origin)
    return Task(name, origin, target, album_scan.temporary_path(target, "0" * 16), known)


@pytest.mark.parametrize(
    ("protector", "problem"),
    [
        (FakeProtector("analyse failed: ValueError"), "analyse failed"),
        (FakeProtector(error=ValueError("pixels!")), "failed: ValueError"),
        (FakeProtector(error=MemoryError()), "more memory"),
        (FakeProtector(error=OSError(errno.ENOSPC, "x")), "disk full"),
        (FakeProtector(error=OSError(errno.EACCES, "Permission denied")), "Permission denied"),
    ],
)
def test_a_fault_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protector: FakeProtector, problem: str
) -> None:
    task = make_task(tmp_path)
    result = make_worker(monkeypatch, protector)(task)
    assert result.state == "failed"
    assert problem in result.problem
    assert "pixels" not in result.problem
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p != task.origin]


def test_a_full_disk_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space")

    task = make_task(tmp_path)
    worker = make_worker(monkeypatch, FakeProtector("x"))
    monkeypatch.setattr(album_work.os, "fsync", full)
    assert "disk full" in worker(task).problem
    assert list(task.target.parent.iterdir()) == []


def test_a_picture_in_doubt_is_written_blank_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(tmp_path)
    result = make_worker(monkeypatch, FakeProtector("64 heads or more"))(task)
    assert (result.state, result.problem) == ("written", "is blank: 64 heads or more")
    assert result.entry is not None
    assert result.entry.is_blank
    with Image.open(task.temporary) as picture:
        assert picture.getextrema() == ((32, 32),) * 3
    again = make_task(tmp_path, known=result.entry)
    task.temporary.rename(task.target)
    kept = make_worker(monkeypatch, FakeProtector())(again)
    assert (kept.state, kept.problem[:8]) == ("kept", "is blank")


def test_an_entry_counts_only_for_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker(monkeypatch, FakeProtector("x"))
    task = make_task(tmp_path)
    entry = worker(task).entry
    assert entry is not None
    task.temporary.rename(task.target)
    assert worker(make_task(tmp_path, known=entry)).state == "kept"
    for other in (replace(RECIPE, strength=Strength.STRICT), replace(RECIPE, sha256="0" * 64)):
        worker._recipe = other
        again = make_task(tmp_path, known=entry)
        assert worker(again).state == "written"
        again.temporary.unlink()


def test_a_bundle_that_changed_meanwhile_is_refused() -> None:
    with pytest.raises(GraphError, match="changed while the album ran"):
        Worker(replace(RECIPE, sha256="0" * 64))


class FakePool:
    """A pool whose processes die of files named `bad`."""

    _processes: dict[int, Any] | None = None

    def __init__(self, *_: object, **__: object) -> None:
        self.is_broken = False

    def submit(self, _: Callable[[Task], Result], task: Task) -> "Future[Result]":
        if self.is_broken:
            raise BrokenProcessPool
        future: Future[Result] = Future()
        if "bad" in task.name:
            self.is_broken = True
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result(Result(task.name, "kept"))
        return future

    def shutdown(self, **_: object) -> None:
        """Nothing runs."""


def test_a_file_that_kills_its_process_does_not_take_others_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(album_crew, "ProcessPoolExecutor", FakePool)
    names = ["a.png", "bad.png", "c.png", "d.png", "bad2.png", "e.png"]
    tasks = [make_task(tmp_path, name) for name in names]
    found = {r.name: r for r in album_crew.results(tasks, RECIPE, jobs=2)}
    assert set(found) == set(names)
    assert {n for n, r in found.items() if r.state == "failed"} == {"bad.png", "bad2.png"}
    assert "ends the process" in found["bad.png"].problem


def test_the_index_survives_a_torn_line_and_forgets_other_versions(tmp_path: Path) -> None:
    path = tmp_path / "index.jsonl"
    index = Index(path)
    index.add("a.jpg", ENTRY)
    index.close()
    with path.open("ab") as file:
        file.write(b'{"name": "torn')
    index = Index(path)
    assert index.get("a.jpg") == ENTRY
    assert index.get("b.jpg") is None
    index.add("b.jpg", ENTRY)
    index.close()
    index = Index(path)
    assert index.get("b.jpg") == ENTRY
    index.close()
    path.write_text('{"version": 99, "key": "00"}\n')
    index = Index(path)
    assert index.get("a.jpg") is None
    index.close()


def test_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with (
        opened(tmp_path / "out"),
        pytest.raises(SinkError, match="another album run"),
        opened(tmp_path / "out"),
    ):
        pass
    assert state_path(tmp_path / "out").parent.stat().st_mode & 0o077 == 0


def test_an_index_that_cannot_be_kept_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(SinkError, match="set XDG_STATE_HOME"), opened(tmp_path / "out"):
        pass


def test_unreadable_folders_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    real = os.scandir

    def scandir(path: Any) -> Any:  # root may read everything, so permissions are no test
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    tree = album_scan.scan(tmp_path)
    assert tree.names == ["a.png"]
    assert tree.problems == [("closed", "folder cannot be read: Permission denied")]


def test_names_that_another_computer_takes_for_the_same_are_told(tmp_path: Path) -> None:
    for name in ("\u00fc.png", "u\u0308.png", "B.png", "b.PNG"):
        Image.new("RGB", (64, 48)).save(tmp_path / name, format="PNG")
    tree = album_scan.scan(tmp_path)
    assert len(tree.names) == 2
    assert len(tree.problems) == 2
    assert all("same name as" in problem for _, problem in tree.problems)


def test_a_link_in_the_output_is_a_stranger(tmp_path: Path) -> None:
    (tmp_path / "sub").symlink_to("/")
    (tmp_path / "a.png").symlink_to("b.png")
    assert sorted(album_scan.strangers(tmp_path, lambda _: True)) == ["a.png", "sub"]


def test_names_cannot_break_out_of_the_sheet() -> None:
    page = sheet(['"><script>alert(1)</script>.png', "a&b.mp4", "c.heic"])
    assert "<script>" not in page
    assert "a%26b.mp4" in page
    assert page.count("<img") == 1
    assert page.count("<video") == 1


def test_a_table_without_problems_goes_but_someone_elses_stays(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    assert write_problems(table, [("=a.jpg", "is empty")])
    assert "./=a.jpg,is empty" in table.read_text()
    assert not write_problems(table, [])
    assert not table.exists()
    table.write_text("mine")
    write_problems(table, [])
    assert table.read_text() == "mine"


def test_a_page_that_cannot_be_written_leaves_no_part(tmp_path: Path) -> None:
    (tmp_path / "sheet.html").mkdir()
    with pytest.raises(SinkError, match="cannot write"):
        write_over(tmp_path / "sheet.html", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.html"]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    monkeypatch.setattr(album.sys.stderr, "isatty", lambda: is_terminal, raising=False)
    album.say_on_stderr("album: 1 of 2 files")
    text = capsys.readouterr().err
    assert text == ("\ralbum: 1 of 2 files\x1b[K" if is_terminal else "album: 1 of 2 files\n")


def test_a_target_that_cannot_be_named_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(album_work, "make_protector", lambda *_, **__: FakeProtector("x"))
    Image.new("RGB", (64, 48)).save(make_task(tmp_path).origin)
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    said: list[str] = []
    report = album.run_album(tmp_path / "in", tmp_path / "out", album.AlbumOptions(), said.append)
    assert report["errors"] == [{"file": "a.png", "problem": "cannot be written: Is a directory"}]
    assert "1 failed" in album.to_text(report)
    assert said == ["album: 1 of 1 files, 0:00 left"]
