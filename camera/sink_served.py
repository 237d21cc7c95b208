"""Sinks that serve, `web[:PORT]` and `rtsp[:PORT]`: opened by the supervisor, used by publish.

The supervisor binds, so that publish needs no right to; publish gets descriptors and one JSON.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veilcam.camera.errors import SinkError
from veilcam.camera.sink_web import Stream, WebSink, listen, parse_address
from veilcam.camera.types import SafeFrame

if TYPE_CHECKING:
    from veilcam.camera.sink_rtsp import RtspSink

_log = logging.getLogger(__name__)
PASSWORD_VARIABLE = "VEILCAM_STREAM_PASSWORD"
TLS_VARIABLE = "VEILCAM_STREAM_TLS"  # `self-signed`, or a PEM file with chain and key
SERVED = ("web", "rtsp")
_LOOPBACKS = ("127.0.0.1", "::1", "localhost")


@contextmanager
def opened_for(spec: str) -> Iterator[dict[str, tuple[int, ...]]]:
    """Descriptors by role that a sink needs; none for a sink that does not serve.

    Raises:
        SinkError: Port taken, no password where one is needed, or a library is missing.
    """
    kind = spec.partition(":")[0]
    if kind not in SERVED:
        yield {}
        return
    host, port = parse_address(spec, kind)
    password = os.environ.get(PASSWORD_VARIABLE, "")
    if host not in _LOOPBACKS and not password:
        raise SinkError(
            f"sink {spec!r} is open to the network: set a password in the variable"
            f" {PASSWORD_VARIABLE}, or use {kind}:{port} for this machine alone"
        )
    with ExitStack() as stack:
        if kind == "web":
            yield {"publish": _open_web(stack, host, port, password)}
        else:
            from veilcam.camera.sink_rtsp import open_helper

            yield {"publish": (stack.enter_context(open_helper(host, port, password)),)}


def _open_web(stack: ExitStack, host: str, port: int, password: str) -> tuple[int, ...]:
    try:
        from veilcam.camera import serve_password, tls
        from veilcam.camera.serve_guard import own_names
        from veilcam.camera.serve_thread import handed_over
    except ImportError as error:
        raise SinkError(f"--sink web needs {error.name}: run ./scripts/setup serve") from error
    listener = stack.enter_context(listen(host, port))
    port = listener.getsockname()[1]
    value = {
        "password_hash": serve_password.hashed(password) if password else "",
        "names": sorted(own_names(host)),
        "port": port,
    }
    descriptors: tuple[int, ...] = listener.fileno(), stack.enter_context(handed_over(value))
    said, way = os.environ.get(TLS_VARIABLE, ""), "http"
    if said:
        folder = serve_password.password_path().parent
        own = [*own_names(host) - {"0.0.0.0", "::"}, "127.0.0.1", "::1"]
        is_own = said == tls.SELF_SIGNED
        pem = tls.self_signed(own, folder) if is_own else tls.read_pem(Path(said), None)
        _log.info("certificate: SHA-256 %s", tls.fingerprint(pem))
        descriptors, way = (*descriptors, stack.enter_context(tls.handed_pem(pem))), "https"
    _log.info("stream: %s://%s:%d/stream.mjpg, one picture: /snapshot.jpg", way, host, port)
    return descriptors


def opener_of(kind: str, handed: tuple[int, ...]) -> "Callable[..., WebSink | RtspSink]":
    """What opens the sink in the publish process, in the place of `sink.open_sink`."""
    if kind == "rtsp":
        from veilcam.camera.sink_rtsp import RtspSink

        return lambda _spec, *, size_hw, fps: RtspSink(handed[0], size_hw=size_hw, fps=fps)
    return lambda _spec, *, size_hw, fps: ServedSink(handed)


class ServedSink(WebSink):
    """Stream and snapshot with a server of their own.

    Args:
        handed: Descriptors of the bound socket, of the JSON and, with TLS, of chain and key.
    """

    def __init__(self, handed: tuple[int, ...]) -> None:
        from veilcam.camera.serve_stream import make_stream_app
        from veilcam.camera.serve_thread import ServerThread, read_handed

        super().__init__(Stream())
        value: dict[str, Any] = read_handed(handed[1])
        app = make_stream_app(
            self.stream, password_hash=value["password_hash"], names=frozenset(value["names"]),
            port=value["port"],
        )  # fmt: skip
        self._server = ServerThread(app, handed[0], *handed[2:])

    def write(self, frame: SafeFrame) -> None:
        """Offers the picture to whoever looks."""
        if not self._server.is_alive:
            raise SinkError("the web server ended; start again")
        super().write(frame)

    def close(self) -> None:
        """Ends stream and server."""
        super().close()
        self._server.close()

    abort = close
