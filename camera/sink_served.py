"""Sinks that serve, `web[:PORT]` and `rtsp[:PORT]`: opened by the supervisor, used by publish.

The supervisor binds, so that publish needs no right to; publish gets descriptors and one JSON.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veilcam.camera import rtsp_login
from veilcam.camera.errors import SinkError
from veilcam.camera.handed import handed_over, read_handed
from veilcam.camera.rtsp_login import PASSWORD_VARIABLE
from veilcam.camera.sink_web import Stream, WebSink, listen, parse_address
from veilcam.camera.types import SafeFrame

if TYPE_CHECKING:
    from veilcam.camera.sink_rtsp import RtspSink

_log = logging.getLogger(__name__)
TLS_VARIABLE = "VEILCAM_STREAM_TLS"  # `self-signed`, or a PEM file with chain and key
DEFAULT_PORTS = {"web": 8080, "rtsp": rtsp_login.PORT}
SERVED = tuple(DEFAULT_PORTS)
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
    host, port = parse_address(spec, kind, default=DEFAULT_PORTS[kind])
    password = stream_password(host)
    with ExitStack() as stack:
        if kind == "web":
            yield {"publish": _open_web(stack, host, port, password)}
        else:
            tls = _open_tls(stack, host)
            opened = open_rtsp(stack, host, port, password, has_tls=bool(tls))
            yield {"publish": (*opened, *tls)}


def stream_password(host: str) -> str:
    """The variable's. Raises SinkError where an open address has none."""
    password = os.environ.get(PASSWORD_VARIABLE, "")
    if host not in _LOOPBACKS and not password:
        raise SinkError(
            f"{host} is open to the network: set a password in the variable {PASSWORD_VARIABLE},"
            " or use 127.0.0.1, for this machine alone"
        )
    return password


def _open_web(stack: ExitStack, host: str, port: int, password: str) -> tuple[int, ...]:
    try:
        from veilcam.camera import serve_password
        from veilcam.camera.serve_guard import own_names
        from veilcam.camera.serve_thread import ServerThread  # noqa: F401  is it there?
    except ImportError as error:
        raise SinkError(f"--sink web needs {error.name}: run ./scripts/setup serve") from error
    listener = stack.enter_context(listen(host, port))
    port = listener.getsockname()[1]
    value = {
        "password_hash": serve_password.hashed(password) if password else "",
        "names": sorted(own_names(host)),
        "port": port,
    }
    tls = _open_tls(stack, host)
    way = "https" if tls else "http"
    _log.info("stream: %s://%s:%d/stream.mjpg, one picture: /snapshot.jpg", way, host, port)
    return listener.fileno(), stack.enter_context(handed_over(value)), *tls


def open_rtsp(
    stack: ExitStack, host: str, port: int, password: str, *, has_tls: bool
) -> tuple[int, int]:
    """Descriptors of the RTSP sink: bound socket and JSON.

    Raises:
        SinkError: The port is taken.
    """
    listener = stack.enter_context(listen(host, port))
    value = {"known": rtsp_login.kept(password)}
    _log.info(
        "stream: %s://%s:%d%s%s", "rtsps" if has_tls else "rtsp", host, listener.getsockname()[1],
        rtsp_login.PATH, f", user {rtsp_login.USER}" if password else "",
    )  # fmt: skip
    return listener.fileno(), stack.enter_context(handed_over(value))


def _open_tls(stack: ExitStack, host: str) -> tuple[int, ...]:
    """Descriptor of chain and key, where the variable asks for TLS."""
    said = os.environ.get(TLS_VARIABLE, "")
    if not said:
        return ()
    from veilcam.camera import serve_password, tls
    from veilcam.camera.serve_guard import own_names

    own = [*own_names(host) - {"0.0.0.0", "::"}, "127.0.0.1", "::1"]
    folder = serve_password.password_path().parent
    is_own = said == tls.SELF_SIGNED
    pem = tls.self_signed(own, folder) if is_own else tls.read_pem(Path(said), None)
    _log.info("certificate: SHA-256 %s", tls.fingerprint(pem))
    return (stack.enter_context(tls.handed_pem(pem)),)


def opener_of(kind: str, handed: tuple[int, ...]) -> "Callable[..., WebSink | RtspSink]":
    """What opens the sink in the publish process, in the place of `sink.open_sink`."""
    if kind == "rtsp":
        from veilcam.camera.sink_rtsp import RtspSink

        return lambda _spec, *, size_hw, fps: RtspSink(handed, size_hw=size_hw, fps=fps)
    return lambda _spec, *, size_hw, fps: ServedSink(handed)


class ServedSink(WebSink):
    """Stream and snapshot with a server of their own.

    Args:
        handed: Descriptors of the bound socket, of the JSON and, with TLS, of chain and key.
    """

    def __init__(self, handed: tuple[int, ...]) -> None:
        from veilcam.camera.serve_stream import make_stream_app
        from veilcam.camera.serve_thread import ServerThread

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
