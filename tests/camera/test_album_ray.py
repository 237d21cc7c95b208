"""`album --ray`: two workers of a cluster, one of them killed, make what one process makes."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from veilcam.camera import album_ray, cli
from veilcam.camera.album_work import Recipe, Result, Task, Worker
from veilcam.camera.clip import ClipSource
from veilcam.camera.source import demo_clip

COMMAND = [sys.executable, "-m", "veilcam.camera.cli", "album"]
HEAD = slice(0, 320), slice(180, 480)  # in the demo clip, with room around


def actors(root: int) -> list[int]:
    """Process ids of Ray's actors below a process."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")")[1].split()[1])
        except (OSError, IndexError):
            continue

    def is_below(process: int) -> bool:
        while process in parents:
            process = parents[process]
            if process == root:
                return True
        return False

    return [p for p, name in names.items() if b"ray::MapWorker" in name and is_below(p)]


def fill(folder: Path) -> None:
    source = ClipSource(demo_clip())
    for number in range(12):
        frame = source.read()
        assert frame is not None
        cv2.imwrite(str(folder / f"{number}.png"), frame.bgr)
    source.close()
    for number in range(12, 16):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((48, 64, 3), 9 * number, np.uint8))
    (folder / "zero.jpg").touch()
    (folder / os.fsdecode(b"\xff.png")).write_bytes((folder / "15.png").read_bytes())


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_all_is_as_from_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not all(importlib.util.find_spec(name) for name in ("ray", "pyarrow")):
        pytest.skip("extra `ray` is not installed")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder, out, alone = (tmp_path / name for name in ("in", "out", "alone"))
    folder.mkdir()
    fill(folder)
    command = [*COMMAND, str(folder), str(out), "--ray", "local", "--jobs", "2", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    victims: list[int] = []
    while process.poll() is None and not victims:
        if list(out.glob("[0-9]*.png")):
            victims = actors(process.pid)
        time.sleep(0.02)
    os.kill(victims[0], signal.SIGKILL)  # in the middle: some twins are there
    report: dict[str, Any] = json.loads(process.communicate(timeout=300)[0])
    assert cli.call(["album", str(folder), str(alone), "--jobs", "1"]) == 2
    assert (report["written"], report["failed"]) == (17, 1)
    assert [e["file"] for e in report["errors"]] == ["zero.jpg"]
    names = {p.name for p in alone.iterdir()}
    assert {p.name for p in out.iterdir()} == names
    for name in names - {"sheet.html"}:
        one, other = ((f / name).read_bytes() for f in (out, alone))
        pixels = [cv2.imdecode(np.frombuffer(data, np.uint8), 1) for data in (one, other)]
        raw = cv2.imdecode(np.frombuffer((folder / name).read_bytes(), np.uint8), 1)
        if raw.shape[0] == 48:
            assert one == other
            continue
        assert not np.array_equal(pixels[0][HEAD], raw[HEAD])
        for bgr in (*pixels, raw):  # stand-ins are drawn anew; the rest is the same
            bgr[HEAD] = 0
        assert np.array_equal(pixels[0], raw)
        assert np.array_equal(pixels[1], raw)


def test_what_a_cluster_does_not_give_back_is_done_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three files one comes back twice, one once, and one never: its twin is half there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "in").mkdir()
    for name in "abc":
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), np.zeros((48, 64, 3), np.uint8))

    def failing(tasks: list[Task], recipe: Recipe, **_: object) -> Iterator[Result]:
        worker = Worker(recipe)
        first = worker(tasks[0])
        yield first
        yield first
        yield worker(tasks[1])
        tasks[2].temporary.write_bytes(b"half")

    monkeypatch.setattr(album_ray, "ray_results", failing)
    command = ["album", str(tmp_path / "in"), str(tmp_path / "out"), "--ray", "local", "--json"]
    assert cli.call(command) == 0
    assert '"written": 3' in capsys.readouterr().out
    found = {p.name for p in (tmp_path / "out").iterdir()}
    assert found == {"a.png", "b.png", "c.png", "sheet.html"}


def test_what_cannot_be_together_or_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), np.zeros((48, 64, 3), np.uint8))
    command = ["album", str(tmp_path / "in"), str(tmp_path / "out"), "--ray", "local"]
    assert cli.call([*command, "--consistent"]) == 2
    assert "--ray does not go with --consistent" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.call(command) == 2
    assert "run ./scripts/setup ray" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.png"))
