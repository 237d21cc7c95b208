"""The publish process of `veilcam serve`: the page's server beside the loop that takes frames.

Started by `serve_supervise`, never by a user. It answers on a socket that was bound for it and can
make none of its own; it sees safe frames, and the bytes of pictures that the user's own browser
sends, which it hands on unread.
"""

import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from veilcam.camera import control
from veilcam.camera.publish import Publisher
from veilcam.camera.sandbox import publish_plan
from veilcam.camera.worker import Worker, failure, start_worker, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from veilcam.camera.serve_thread import ServerThread
    from veilcam.camera.sink import Sink
    from veilcam.camera.sink_web import Stream

_CHANGE_S = 8.0  # a blank within that time after a wish is no outage


class PagePublisher(Publisher):
    """Tells the page what the supervisor tells, and says why a wished-for change shows blanks."""

    def __init__(self, worker: Worker, open_sink: "Callable[..., Sink]") -> None:
        super().__init__(worker, open_sink)
        self.status: dict[str, Any] = {}
        self.wished_s = -_CHANGE_S

    def wish(self, mode: str, strength: str, prompt: str) -> None:
        """Passes a wish on; from the server's thread."""
        self.wished_s = time.monotonic()
        self._worker.supervisor.send(control.Wish(mode, strength, prompt))

    def _obey(self, message: control.Message | None) -> None:
        if isinstance(message, control.Report):
            self.status = message.values  # replaced whole: another thread reads it
        super()._obey(message)

    def _outage(self, reason: str) -> None:
        if time.monotonic() - self.wished_s < _CHANGE_S:
            self._blank("settings are being changed")
        else:
            super()._outage(reason)


def open_page(worker: Worker) -> "tuple[PagePublisher, ServerThread, Stream]":
    """Page, server and loop of this process, connected."""
    from veilcam.camera.errors import SinkError
    from veilcam.camera.handed import read_handed
    from veilcam.camera.serve_app import Page, make_app
    from veilcam.camera.serve_pictures import PictureDesk
    from veilcam.camera.serve_thread import ServerThread
    from veilcam.camera.serve_wire import MAX_RESULT_BYTES, Wire
    from veilcam.camera.sink_rtsp import RtspSink
    from veilcam.camera.sink_web import Stream, WebSink

    listener, handed, pictures, *more = worker.handed
    value = read_handed(handed)
    rtsp, tls = (more[:2], more[2:]) if value["has_rtsp"] else ([], more)
    stream = Stream()
    server: list[ServerThread] = []

    class PageSink(WebSink):
        def __init__(self, size_hw: tuple[int, int], fps: float) -> None:
            super().__init__(stream)
            handed = (*rtsp, *tls)
            self._rtsp = RtspSink(handed, size_hw=size_hw, fps=fps) if rtsp else None

        @property
        def counters(self) -> dict[str, Any]:
            return super().counters | (self._rtsp.counters if self._rtsp else {})

        def write(self, frame: Any) -> None:
            if not server[0].is_alive:
                raise SinkError("the web server ended; start again")
            super().write(frame)
            if self._rtsp is not None:
                self._rtsp.write(frame)

        def close(self) -> None:
            super().close()
            if self._rtsp is not None:
                self._rtsp.close()

        abort = close

    publisher = PagePublisher(worker, lambda _spec, *, size_hw, fps: PageSink(size_hw, fps))
    wire = Wire(pictures, is_asking=True, max_bytes=MAX_RESULT_BYTES)
    purposes, words, modes = (tuple(value[name]) for name in ("purposes", "words", "picture_modes"))
    desk = PictureDesk(wire, purposes, words, modes=modes)
    page = Page(
        password_hash=value["password_hash"], names=frozenset(value["names"]), port=value["port"],
        claims=value["claims"], modes=tuple(value["modes"]), words=words,
        report=value["report"].encode(), stream=stream,
        desk=desk, wish=publisher.wish, status=lambda: publisher.status,
    )  # fmt: skip
    server.append(ServerThread(make_app(page), listener, *tls))
    return publisher, server[0], stream


def _leave(_number: int, _frame: "FrameType | None") -> None:
    raise SystemExit(1)


def main(argv: list[str]) -> int:
    """Runs the process; exit code 0 where it ended as planned."""
    worker = start_worker(argv, publish_plan, 0)
    signal.signal(signal.SIGTERM, _leave)
    try:
        from veilcam.camera import ring, serve_app, sink_web  # noqa: F401  before the first frame

        if wait_for(worker.supervisor, control.Begin) is None:  # until then this is a spare
            return 0
        publisher, server, stream = open_page(worker)
        try:
            publisher.run()
        finally:
            stream.close()
            server.close()
    except EOFError:
        return 1
    except BaseException as error:  # told by type and place: a message could hold anything
        worker.supervisor.send(failure(error, 0))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
