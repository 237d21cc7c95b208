"""The command line: exit codes, one clear line for bad input, JSON alone on stdout."""

import json
import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import cv2
import numpy as np
import pytest

from veilcam.camera import cli, doctor, session
from veilcam.camera.errors import GraphError, SinkError
from veilcam.camera.types import SafeFrame

SECRET = "pixels [[1 2 3]]"


class FakeReport:
    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames

    def to_json(self) -> dict[str, Any]:
        return {"frames_in": self.num_frames, "mode": "face"}


class FakeLoop:
    """Writes a blank for every frame; `on_frame` is told each index."""

    on_frame = staticmethod(lambda index: None)

    def __init__(self, source, sink) -> None:
        self.source, self.sink = source, sink

    def run(self, max_frames: int | None = None) -> FakeReport:
        count = 0
        while count != max_frames and (frame := self.source.read()) is not None:
            height, width = self.source.size_hw
            self.sink.write(
                SafeFrame.blank((height, width), index=count, time_s=frame.time_s, reason="test")
            )
            type(self).on_frame(count)
            count += 1
        return FakeReport(count)


@pytest.fixture
def fake_loop(monkeypatch: pytest.MonkeyPatch) -> type[FakeLoop]:
    def build_loop(source, sink, *, bundle, delay_frames, profile) -> FakeLoop:
        if bundle is not None:
            raise GraphError(f"{bundle} is no bundle: manifest.json is missing; export it again")
        return FakeLoop(source, sink)

    module = ModuleType("veilcam.camera.loop")
    module.build_loop = build_loop  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "veilcam.camera.loop", module)
    monkeypatch.setattr(session, "has_two_processes", lambda: False)  # see test_session for two
    monkeypatch.setattr(FakeLoop, "on_frame", staticmethod(lambda index: None))
    monkeypatch.setenv("VEILCAM_PROFILE", "/nonexistent/profile.json")
    return FakeLoop


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height = stream.width = 64
        stream.pix_fmt = "yuv420p"
        for value in range(20):
            bgr = np.full((64, 64, 3), value * 5, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(bgr, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize(
    "command",
    ["", "run", "bench", "doctor", "export", "train", "bundle", "bundle show", "bundle verify"],
)
def test_help_shows_two_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call([*command.split(), "--help"]) == 0
    lines = capsys.readouterr().out.split("Examples:")[1].splitlines()
    assert sum(line.strip().startswith("veilcam ") for line in lines) == 2


def test_run_writes_the_clip_and_one_json_object(
    fake_loop, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    assert cli.call(["run", str(clip), "--sink", f"file:{out}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames_in"] == 20
    assert count_frames(out) == 20


def test_run_stops_after_the_asked_number_of_frames(fake_loop, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    assert cli.call(["run", str(clip), "--sink", f"file:{out}", "--frames", "7"]) == 0
    assert count_frames(out) == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_with_a_playable_clip_and_130(
    fake_loop, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def interrupt(index: int) -> None:
        if index == 4:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(fake_loop, "on_frame", staticmethod(interrupt))
    out = tmp_path / "out.mp4"
    assert cli.call(["run", str(clip), "--sink", f"file:{out}"]) == 130
    assert count_frames(out) == 5


def _text_clip(tmp: Path) -> list[str]:
    (tmp / "a.mp4").write_text("no clip\n" * 99)
    return [str(tmp / "a.mp4")]


def _cut_clip(tmp: Path) -> list[str]:
    data = (tmp / "clip.mp4").read_bytes()
    (tmp / "cut.mp4").write_bytes(data[: len(data) // 2])
    return [str(tmp / "cut.mp4")]


def _dot(tmp: Path) -> list[str]:
    cv2.imwrite(str(tmp / "dot.png"), np.zeros((1, 1, 3), np.uint8))
    return [str(tmp / "dot.png")]


BAD_INPUTS = {
    "no camera": (lambda tmp: ["97"], "no camera 97"),
    "no file": (lambda tmp: [str(tmp / "none.mp4")], "no such source"),
    "text as mp4": (_text_clip, "not a readable clip"),
    "truncated": (_cut_clip, "clip"),
    "one pixel": (_dot, "got 1x1 px"),
    "wrong bundle": (lambda tmp: [str(tmp / "clip.mp4"), "--bundle", str(tmp)], "is no bundle"),
    "unknown sink": (lambda tmp: [str(tmp / "clip.mp4"), "--sink", "x"], "unknown sink 'x'"),
    "no folder": (
        lambda tmp: [str(tmp / "clip.mp4"), "--sink", f"file:{tmp}/none/a.mp4"],
        "no folder",
    ),
    "onto itself": (
        lambda tmp: [str(tmp / "clip.mp4"), "--sink", f"file:{tmp}/clip.mp4"],
        "is the source itself",
    ),
    "unknown mode": (lambda tmp: [str(tmp / "clip.mp4"), "--mode", "body"], "'body' is not one of"),
    "bad delay": (lambda tmp: [str(tmp / "clip.mp4"), "--delay", "9"], "0<=x<=3"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_line_exit_2_and_no_new_output(
    fake_loop, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    make, message = BAD_INPUTS[case]
    out = tmp_path / "out.mp4"
    out.write_bytes(b"earlier")
    before_clip = clip.read_bytes()
    arguments = make(tmp_path)
    sink = [] if "--sink" in arguments else ["--sink", f"file:{out}"]
    before = sorted(tmp_path.iterdir())
    assert cli.call(["run", *arguments, *sink, "--json"]) == 2
    captured = capfd.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert json.loads(captured.out)["exit_code"] == 2
    assert sorted(tmp_path.iterdir()) == before
    assert out.read_bytes() == b"earlier"
    assert clip.read_bytes() == before_clip


@pytest.mark.parametrize(
    ("error", "code"), [(SinkError("disk full"), 2), (RuntimeError(SECRET), 1)]
)
def test_a_fault_while_running_keeps_what_was_there(
    fake_loop, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], error: Exception, code: int,
) -> None:  # fmt: skip
    def fail(index: int) -> None:
        if index == 3:
            raise error

    monkeypatch.setattr(fake_loop, "on_frame", staticmethod(fail))
    out = tmp_path / "out.mp4"
    out.write_bytes(b"earlier")
    assert cli.call(["run", str(clip), "--sink", f"file:{out}"]) == code
    captured = capfd.readouterr()
    assert SECRET not in captured.err + captured.out
    assert out.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


def test_a_usage_error_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["fly"]) == 2
    assert "fly" in capsys.readouterr().err


def test_a_broken_device_profile_is_a_clear_error(
    fake_loop, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    profile = tmp_path / "profile.json"
    profile.write_text("{")
    monkeypatch.setenv("VEILCAM_PROFILE", str(profile))
    assert cli.call(["run", str(clip), "--sink", "null"]) == 2
    assert "--tune" in capsys.readouterr().err


def test_missing_training_inputs_are_exit_2(tmp_path: Path) -> None:
    assert cli.call(["train", str(tmp_path / "none.toml")]) == 2
    assert cli.call(["export", str(tmp_path / "none"), "-o", str(tmp_path / "b.veil")]) == 2


def test_doctor_says_what_to_do_about_each_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = doctor.Check("bundle", "fail", "face.veil is missing", "check it out again")
    monkeypatch.setattr(doctor, "check_bundle", lambda path=None: missing)
    assert cli.call(["doctor", "--json"]) == 2
    value = json.loads(capsys.readouterr().out)
    names = [check["name"] for check in value["checks"]]
    assert names == [
        "cameras",
        "display",
        "providers",
        "cpu",
        "virtual camera",
        "barriers",
        "bundle",
    ]
    assert all(check["cure"] for check in value["checks"] if check["status"] != "ok")
    assert not value["ok"]


def test_doctor_reads_devices_and_cpu_features(tmp_path: Path) -> None:
    assert doctor.check_cameras(tmp_path, tmp_path).status == "warn"
    (tmp_path / "video0").mkdir()
    (tmp_path / "video0" / "name").write_text("Fake Cam\n")
    assert doctor.check_cameras(tmp_path, tmp_path).got.endswith("video0 (Fake Cam)")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu avx2\n")
    assert doctor.check_cpu(cpuinfo).status == "warn"
    cpuinfo.write_text("flags\t\t: fpu avx2 avx512_vnni\n")
    assert doctor.check_cpu(cpuinfo).status == "ok"
    assert "modprobe" in doctor.check_virtual_camera(tmp_path).cure
