"""Sources: what can be read is read whole, what cannot gives one clear error."""

import re
import threading
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from veilcam.camera import live
from veilcam.camera.asked import Asked
from veilcam.camera.errors import SourceError
from veilcam.camera.live import LiveSource, open_webcam_grabber, without_login
from veilcam.camera.source import ArraySource, open_source


def write_clip(path: Path, *, num_frames: int = 30, size_hw: tuple[int, int] = (48, 64)) -> Path:
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "10", "bf": "0"})
        stream.height, stream.width = size_hw
        stream.pix_fmt = "yuv420p"
        for _ in range(num_frames):
            bgr = noise.integers(0, 256, (*size_hw, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(bgr, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def read_all(spec: str) -> list[float]:
    source = open_source(spec)
    times = []
    try:
        while (frame := source.read()) is not None:
            assert frame.index == len(times)
            assert frame.bgr.shape[:2] == source.size_hw
            times.append(frame.time_s)
    finally:
        source.close()
    return times


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_clip_is_read_whole_with_its_own_times(tmp_path: Path, suffix: str) -> None:
    times = read_all(str(write_clip(tmp_path / f"a.{suffix}")))
    assert len(times) == 30
    np.testing.assert_allclose(times, np.arange(30) / 30, atol=2e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7])
def test_a_truncated_clip_is_an_error(tmp_path: Path, suffix: str, kept: float) -> None:
    path = write_clip(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(SourceError, match=r"truncated|not a readable clip|no picture"):
        read_all(str(path))


def test_a_truncated_clip_with_its_index_in_front_is_an_error(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mp4")
    front = tmp_path / "front.mp4"
    with (
        av.open(str(whole)) as origin,
        av.open(str(front), "w", options={"movflags": "faststart"}) as copy,
    ):
        stream = copy.add_stream_from_template(origin.streams.video[0])
        for packet in origin.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    assert len(read_all(str(front))) == 30
    front.write_bytes(front.read_bytes()[: int(front.stat().st_size * 0.6)])
    with pytest.raises(SourceError, match="truncated"):
        read_all(str(front))


def test_text_named_mp4_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("not a clip at all\n" * 50)
    with pytest.raises(SourceError, match=r"notes.mp4 is not a readable clip.*wanted MP4"):
        open_source(str(path))


def test_plain_text_is_not_played_as_ansi_art(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello\n" * 50)
    with pytest.raises(SourceError, match="not a readable clip"):
        open_source(str(path))


def test_a_playlist_cannot_open_other_files(tmp_path: Path) -> None:
    write_clip(tmp_path / "secret.mp4")
    path = tmp_path / "list.ffconcat"
    path.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(SourceError, match="not a readable clip"):
        open_source(str(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such source"),
        (lambda p: p.mkdir(), "is not a file"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_text("no picture"), "is not a picture"),
    ],
)
def test_unusable_paths_say_what_is_wrong(tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(SourceError, match=message):
        open_source(str(path))


def test_a_one_pixel_picture_is_refused_with_sizes(tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    cv2.imwrite(str(path), np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(SourceError, match=r"got 1x1 px, wanted sides of 16 to 8192 px"):
        open_source(str(path))


def test_an_8k_picture_is_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    flat = np.zeros((4320, 7680, 3), np.uint8)
    cv2.imwrite(str(path), flat, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    source = open_source(str(path))
    assert source.size_hw == (4320, 7680)
    assert source.read() is not None
    assert source.read() is None


def test_a_picture_larger_than_8k_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    cv2.imwrite(str(path), np.zeros((16, 9000, 3), np.uint8))
    with pytest.raises(SourceError, match="got 9000x16 px"):
        open_source(str(path))


def test_a_missing_camera_names_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no camera 7: .*video7 does not exist.*none"):
        open_webcam_grabber(7, device_folder=tmp_path)()


class FakeCapture:
    def __init__(self, *, is_opened: bool = True, has_picture: bool = True) -> None:
        self.asked: list[int] = []
        self.values: dict[int, float] = {}
        self.is_released = False
        self._is_opened, self._has_picture = is_opened, has_picture

    def isOpened(self) -> bool:
        return self._is_opened

    def set(self, key: int, value: float) -> bool:
        self.asked.append(key)
        self.values[key] = value
        return True

    def get(self, key: int) -> float:
        return 30.0

    def read(self):
        return (True, np.zeros((720, 1280, 3), np.uint8)) if self._has_picture else (False, None)

    def release(self) -> None:
        self.is_released = True


def _use(monkeypatch: pytest.MonkeyPatch, folder: Path, capture: FakeCapture) -> None:
    (folder / "video0").touch()
    monkeypatch.setattr(live.cv2, "VideoCapture", lambda number, api: capture)


def test_the_webcam_is_asked_for_mjpg_before_size_and_a_buffer_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = FakeCapture()
    _use(monkeypatch, tmp_path, capture)
    source = LiveSource(open_webcam_grabber(0, device_folder=tmp_path))
    source.close()
    assert source.size_hw == (720, 1280)
    assert capture.values[cv2.CAP_PROP_FRAME_HEIGHT] == 720
    order = [cv2.CAP_PROP_FOURCC, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_BUFFERSIZE]
    assert [key for key in capture.asked if key in order] == order
    assert capture.is_released


def test_the_webcam_is_asked_for_the_size_the_user_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = FakeCapture()
    _use(monkeypatch, tmp_path, capture)
    open_webcam_grabber(0, asked=Asked(640, 360, 15), device_folder=tmp_path)().close()
    names = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS)
    assert [capture.values[name] for name in names] == [640, 360, 15]


@pytest.mark.parametrize(
    ("capture", "message"),
    [
        (FakeCapture(is_opened=False), "another program may be using it"),
        (FakeCapture(has_picture=False), "is another program using it"),
    ],
)
def test_a_camera_in_use_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capture: FakeCapture, message: str
) -> None:
    _use(monkeypatch, tmp_path, capture)
    with pytest.raises(SourceError, match=message):
        LiveSource(open_webcam_grabber(0, device_folder=tmp_path))
    assert capture.is_released


class FakeGrabber:
    """Gives numbered pictures, then what `end` says."""

    fps = 30.0
    name = "camera fake"

    def __init__(self, num_pictures: int, end: Exception | None = None) -> None:
        self._left, self._end = num_pictures, end
        self._value = 0

    def grab(self):
        if self._value == self._left:
            if self._end is not None:
                raise self._end
            return None
        self._value += 1
        return np.full((16, 16, 3), self._value, np.uint8)

    def close(self) -> None:
        pass


def test_the_newest_frame_wins_and_dropped_ones_are_counted() -> None:
    source = LiveSource(lambda: FakeGrabber(5, RuntimeError("x")))
    source._thread.join(5)  # the fake gave all it has
    frame = source.read()
    assert frame is not None
    assert frame.bgr[0, 0, 0] == 5
    assert source.frames_dropped == 4
    with pytest.raises(SourceError, match="camera fake failed: RuntimeError"):
        source.read()
    source.close()


def test_a_lost_camera_is_reopened() -> None:
    made = iter([FakeGrabber(1), FakeGrabber(3, RuntimeError("x"))])
    source = LiveSource(lambda: next(made))
    source._thread.join(5)
    frame = source.read()
    source.close()
    assert frame is not None
    assert frame.bgr[0, 0, 0] == 3


def test_a_camera_that_stays_away_is_an_error() -> None:
    calls = []

    def open_() -> FakeGrabber:
        calls.append(1)
        if len(calls) > 1:
            raise SourceError("camera 0 is gone")
        return FakeGrabber(1)

    source = LiveSource(open_, reopen_s=0.0)
    source.read()
    with pytest.raises(SourceError, match="is gone"):
        source.read()
    source.close()


def test_a_silent_camera_is_an_error_and_reading_goes_on_afterwards() -> None:
    gate = threading.Event()

    class Slow(FakeGrabber):
        def grab(self):
            if self._value == 1:
                gate.wait(5)
            return super().grab()

    source = LiveSource(lambda: Slow(2, RuntimeError("x")))
    assert source.read() is not None
    with pytest.raises(SourceError, match=r"gave no picture for 0\.5 s"):
        source.read()
    gate.set()
    source._thread.join(5)
    assert source.read() is not None
    source.close()


def test_messages_about_streams_hide_the_login() -> None:
    assert without_login("rtsp://me:pw@cam/live?key=1") == "rtsp://cam/live"
    with pytest.raises(SourceError) as caught:
        open_source("rtsp://me:pw@127.0.0.1:1/live")
    assert re.search("pw|me:", str(caught.value)) is None
    assert caught.value.__cause__ is None


def test_an_array_source_ends() -> None:
    source = ArraySource([np.zeros((16, 16, 3), np.uint8)] * 2, fps=10.0)
    assert [source.read().time_s for _ in range(2)] == [0.0, 0.1]
    assert source.read() is None
