"""One `veilcam run`: opens source and sink, runs the loop, ends cleanly whatever happens."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

from veilcam.camera.errors import ConfigError, SinkError
from veilcam.camera.patience import patience

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


@contextmanager
def interrupt_stops(is_stopped: Callable[[], bool], stop: Callable[[], None]) -> Iterator[None]:
    """First Ctrl-C or SIGTERM ends the run after this frame, a second one at once."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if is_stopped():
            raise KeyboardInterrupt
        stop()

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(number, on_signal) for number in numbers]
    except ValueError:  # not the main thread: the owner of the process decides
        yield
        return
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _check_not_same(source_spec: str, sink_spec: str) -> None:
    if not sink_spec.startswith("file:"):
        return
    from veilcam.camera.source import demo_clip

    target = Path(sink_spec.partition(":")[2])
    origin = demo_clip() if source_spec == "demo" else Path(source_spec)
    if origin.exists() and target.exists() and origin.samefile(target):
        raise SinkError(f"{target} is the source itself; give another output name")


def run_session(
    source_spec: str, sink_spec: str, *, bundle: Path | None, delay_frames: int,
    max_frames: int | None, mode: str = "face", require_barriers: bool = False,
    asked: dict[str, int] | None = None,
) -> tuple[dict[str, Any], bool]:  # fmt: skip
    """Runs from source to sink: in two processes on Linux, elsewhere in this one.

    Returns:
        The run's report (design: `run --json`), and True where it was interrupted.

    Raises:
        VeilcamError: Bad input; then nothing stands under the output's final name that was not
            there before. ConfigError where `require_barriers` and one is not up.
    """
    _check_not_same(source_spec, sink_spec)
    profile = load_profile()
    if not has_two_processes():
        if require_barriers:
            raise ConfigError(f"--require-barriers: {sys.platform} has none; run it on Linux")
        _log.warning("on %s one process does all: no barrier stands between camera and network",
                     sys.platform)  # fmt: skip
        from veilcam.camera.single import run_in_one

        return run_in_one(
            source_spec, sink_spec, bundle, delay_frames, max_frames, profile, asked or {}
        )
    from veilcam.camera.process import python_command
    from veilcam.camera.settings import PROFILE_KEYS, Settings
    from veilcam.camera.sink_served import opened_for
    from veilcam.camera.supervise import Supervisor

    settings = Settings(
        source=source_spec,
        sink=sink_spec,
        mode=mode,
        bundle=str(bundle.absolute()) if bundle is not None else "",
        delay_frames=delay_frames,
        max_frames=max_frames or 0,
        profile={key: value for key, value in (profile or {}).items() if key in PROFILE_KEYS},
        source_limit_s=source_limit_s(source_spec),
        asked=asked or {},
    )
    with _interrupts() as interrupt, opened_for(sink_spec) as handed:
        supervisor = Supervisor(
            settings, require_barriers=require_barriers, handed=handed,
            # who watches a stream wants a clip in real time, and again
            capture_command=python_command("veilcam.camera.serve_capture") if handed else (),
        )  # fmt: skip
        report = supervisor.run(interrupt.is_set)
    return report, interrupt.is_set()


def source_limit_s(source: str) -> float:
    """How long a live source may give nothing before it is opened anew, in seconds.

    A webcam soon: plugged in again it has another device file. A network camera needs longer to
    answer.
    """
    from veilcam.camera.sandbox import camera_device

    return (0.9 if camera_device(source) else 10.0) * patience()


def has_two_processes() -> bool:
    """True where memory can be shared by descriptor and a process be watched by one (Linux)."""
    return hasattr(os, "memfd_create") and hasattr(os, "pidfd_open")


@contextmanager
def _interrupts() -> Iterator[Event]:
    """Set by the first Ctrl-C or SIGTERM, which ends the run cleanly; a second one ends at once."""
    event = Event()
    with interrupt_stops(event.is_set, event.set):
        yield event
