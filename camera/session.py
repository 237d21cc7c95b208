"""One `veilcam run`: opens source and sink, runs the loop, ends cleanly whatever happens."""

import json
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from veilcam.camera.errors import ConfigError, SinkError
from veilcam.camera.sink import Sink, open_sink
from veilcam.camera.source import Source, demo_clip, open_source
from veilcam.camera.types import Frame

_log = logging.getLogger(__name__)


def profile_path() -> Path:
    """Where `veilcam bench --tune` keeps what suits this machine."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(os.environ.get("VEILCAM_PROFILE") or Path(base) / "veilcam" / "profile.json")


def load_profile() -> dict[str, Any] | None:
    """The device profile, or None where none was made. Raises ConfigError for a broken one."""
    path = profile_path()
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is broken; run `veilcam bench demo --tune`") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: wanted a JSON object; run `veilcam bench demo --tune`")
    return value


class StoppableSource:
    """A source that ends when it is told to, or when the sink's viewer has seen enough.

    Ctrl-C then ends the loop between two frames, never inside an encoder.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.fps = source.fps
        self.size_hw = source.size_hw
        self.is_live = source.is_live
        self.is_stopped = False
        self.sink: Sink | None = None

    @property
    def frames_dropped(self) -> int:
        """Frames a live source dropped because a newer one was there."""
        return int(getattr(self._source, "frames_dropped", 0))

    def read(self) -> Frame | None:
        """Next frame, or None at the end or once stopped."""
        if self.is_stopped or (self.sink is not None and self.sink.is_done):
            return None
        return self._source.read()

    def close(self) -> None:
        """Closes the source."""
        self._source.close()


@contextmanager
def _interrupt_stops(source: StoppableSource) -> Iterator[None]:
    """First Ctrl-C or SIGTERM ends the run after this frame, a second one at once."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        if source.is_stopped:
            raise KeyboardInterrupt
        source.is_stopped = True

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(number, stop) for number in numbers]
    except ValueError:  # not the main thread: the owner of the process decides
        yield
        return
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _check_not_same(source_spec: str, sink_spec: str) -> None:
    target = Path(sink_spec.partition(":")[2])
    origin = demo_clip() if source_spec == "demo" else Path(source_spec)
    is_both_there = sink_spec.startswith("file:") and origin.exists() and target.exists()
    if is_both_there and origin.samefile(target):
        raise SinkError(f"{target} is the source itself; give another output name")


def run_session(
    source_spec: str, sink_spec: str, *, bundle: Path | None, delay_frames: int,
    max_frames: int | None,
) -> tuple[dict[str, Any], bool]:  # fmt: skip
    """Runs the loop from source to sink.

    Returns:
        The run's report (design: `run --json`), and True where it was interrupted.

    Raises:
        VeilcamError: Bad input; then nothing stands under the output's final name that was not
            there before.
    """
    from veilcam.camera.loop import build_loop

    _check_not_same(source_spec, sink_spec)
    source = StoppableSource(open_source(source_spec))
    try:
        with _interrupt_stops(source):
            sink = open_sink(sink_spec, size_hw=source.size_hw, fps=source.fps)
            source.sink = sink
            try:
                loop = build_loop(
                    source, sink, bundle=bundle, delay_frames=delay_frames, profile=load_profile()
                )
                report = loop.run(max_frames)
                sink.close()
            except BaseException:
                sink.abort()
                raise
    finally:
        source.close()
    value: dict[str, Any] = report.to_json()
    return value, source.is_stopped
