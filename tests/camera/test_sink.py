"""Sinks: safe pictures only, final name only when finished, what was there survives a failure."""

import errno
import io
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from veilcam.camera import sink as sink_module
from veilcam.camera import sink_file
from veilcam.camera.errors import SinkError
from veilcam.camera.sink import MemorySink, NullSink, Sink, open_sink
from veilcam.camera.types import Frame, SafeFrame

SIZE_HW = (48, 64)


def safe(index: int = 0, time_s: float | None = None, size_hw=SIZE_HW) -> SafeFrame:
    time_s = index / 30 if time_s is None else time_s
    return SafeFrame.blank(size_hw, index=index, time_s=time_s, reason="test")


def open_for(spec: str, size_hw=SIZE_HW) -> Sink:
    return open_sink(spec, size_hw=size_hw, fps=30.0)


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        assert not container.streams.audio
        assert container.streams.video[0].codec_context.name == "h264"
        return [float(frame.time) for frame in container.decode(video=0)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_a_clip_keeps_the_original_timing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    sink = open_for(f"file:{path}")
    times = [0.0, 0.033, 0.1, 0.5, 0.533]
    for index, time_s in enumerate(times):
        sink.write(safe(index, time_s))
    assert not path.exists()
    sink.close()
    np.testing.assert_allclose(times_of(path), times, atol=2e-3)
    assert list(tmp_path.iterdir()) == [path]


def test_times_that_stand_still_do_not_break_the_clip(tmp_path: Path) -> None:
    sink = open_for(f"file:{tmp_path / 'out.mp4'}")
    for index in range(5):
        sink.write(safe(index, 1.0))
    sink.close()
    assert len(times_of(tmp_path / "out.mp4")) == 5


@pytest.mark.parametrize("size_hw", [(47, 63), (16, 16), (17, 16)])
def test_odd_sizes_are_padded(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    sink = open_for(f"file:{tmp_path / 'out.mp4'}", size_hw)
    sink.write(safe(size_hw=size_hw))
    sink.close()
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.height, frame.width) == tuple(side + side % 2 for side in size_hw)


def test_abort_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"earlier")
    sink = open_for(f"file:{path}")
    sink.write(safe())
    sink.abort()
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_clip_without_pictures_is_not_written(tmp_path: Path) -> None:
    open_for(f"file:{tmp_path / 'out.mp4'}").close()
    assert not list(tmp_path.iterdir())


class FullDisk(io.FileIO):
    """Takes a few bytes, then has no room."""

    room = 200

    def write(self, data) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.png"])
def test_a_full_disk_is_one_clear_error_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(b"earlier")
    monkeypatch.setattr(sink_file, "_open_new", lambda part: FullDisk(part, "xb"))
    sink = open_for(f"file:{path}", (240, 320))
    noise = np.random.default_rng(0)

    def write_all() -> None:
        for index in range(1 if name.endswith("png") else 60):
            frame = safe(index, size_hw=(240, 320))
            frame.bgr[:] = noise.integers(0, 256, frame.bgr.shape, np.uint8)
            sink.write(frame)
        sink.close()

    with pytest.raises(SinkError, match=r"disk full while writing .*free some space"):
        write_all()
    sink.abort()
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_at_fsync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sink = open_for(f"file:{tmp_path / 'out.mp4'}")
    sink.write(safe())
    monkeypatch.setattr(sink_file.os, "fsync", full)
    with pytest.raises(SinkError, match="disk full"):
        sink.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hologram", "unknown sink 'hologram'; wanted window, virtual, file:PATH"),
        ("", "unknown sink"),
        ("file", "names no path"),
        ("file:", "names no path"),
        ("png:", "names no path"),
        ("file:{0}/out.txt", r"got suffix '.txt', wanted one of .mp4"),
        ("file:{0}/none/out.mp4", "no folder"),
        ("file:{0}/none/out.png", "no folder"),
        ("png:{0}/none/out", "no folder"),
        ("file:{0}/folder.mp4", "it is a folder"),
        ("png:{0}/folder.mp4", "exists already"),
    ],
)
def test_unusable_sinks_say_what_is_wanted(tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "folder.mp4" / "x").touch()
    with pytest.raises(SinkError, match=message):
        open_for(spec.format(tmp_path))


@pytest.mark.parametrize("spec", ["file:{0}/out.mp4", "file:{0}/out.png", "png:{0}/out"])
def test_a_folder_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(sink_file.Path, "open", refuse)  # root may write anywhere, so a fake
    monkeypatch.setattr(sink_file.Path, "mkdir", refuse)
    with pytest.raises(SinkError, match="Permission denied; check that the folder"):
        open_for(spec.format(tmp_path))


def test_no_window_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SinkError, match="no display"):
        open_for("window")


def test_no_window_with_the_headless_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setattr(sink_module, "has_window_support", lambda: False)
    with pytest.raises(SinkError, match="VEILCAM_WINDOW=1"):
        open_for("window")


def test_pictures_in_a_folder_appear_together(tmp_path: Path) -> None:
    sink = open_for(f"png:{tmp_path / 'out'}")
    for index in range(3):
        sink.write(safe(index))
    assert not (tmp_path / "out").exists()
    sink.close()
    names = [f"frame_{index:06d}.png" for index in range(3)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_aborted_folder_leaves_nothing(tmp_path: Path) -> None:
    sink = open_for(f"png:{tmp_path / 'out'}")
    sink.write(safe())
    sink.abort()
    assert not list(tmp_path.iterdir())


def test_one_picture_in_one_picture_out(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    sink = open_for(f"file:{path}")
    sink.write(safe())
    sink.close()
    np.testing.assert_array_equal(cv2.imread(str(path)), safe().bgr)


def test_a_picture_file_takes_no_second_picture(tmp_path: Path) -> None:
    sink = open_for(f"file:{tmp_path / 'out.png'}")
    sink.write(safe())
    with pytest.raises(SinkError, match="takes one picture"):
        sink.write(safe(1))
    sink.abort()


@pytest.mark.parametrize("name", ["null", "file:{0}/a.mp4", "png:{0}/a", "file:{0}/a.png"])
def test_raw_frames_are_refused(tmp_path: Path, name: str) -> None:
    sink = open_for(name.format(tmp_path))
    raw = Frame(np.zeros((*SIZE_HW, 3), np.uint8), 0, 0.0)
    with pytest.raises(Exception, match=r"SafeFrame"):
        sink.write(raw)  # type: ignore[arg-type]
    sink.abort()


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    sink = open_for(f"file:{tmp_path / 'a.mp4'}")
    with pytest.raises(SinkError, match="wanted"):
        sink.write(safe(size_hw=(16, 16)))
    sink.abort()


def test_close_and_abort_may_follow_each_other(tmp_path: Path) -> None:
    for spec in ("file:{0}/a.mp4", "png:{0}/b", "file:{0}/c.png"):
        sink = open_for(spec.format(tmp_path))
        sink.write(safe())
        sink.close()
        sink.close()
        sink.abort()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b", "c.png"]


def test_memory_and_null_sinks_keep_their_word() -> None:
    memory = MemorySink()
    memory.write(safe())
    memory.close()
    assert (len(memory.frames), memory.is_closed, memory.is_aborted) == (1, True, False)
    NullSink().write(safe())
