"""A web server beside a loop, in a thread of its own."""

import asyncio
import logging
import os
import socket
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from veilcam.camera.serve_guard import App
from veilcam.camera.tls import context_of

HEAD_S = 10.0  # for the head of a request; the next look comes as late
_ENDING_S = 3.0
_MAX_CONNECTIONS = 64


class _Patient(H11Protocol):
    """Lets a connection go that asks for nothing: slow heads must not use up all there are."""

    _timer: asyncio.TimerHandle
    _seen: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_S, self._look)

    def _look(self) -> None:
        is_waiting = self.cycle is None or self.cycle.response_complete
        if is_waiting and self._seen is self.cycle:  # no new request since the last look
            self.transport.close()
            return
        self._seen = self.cycle if is_waiting else self._seen
        self._timer = self.loop.call_later(HEAD_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clock."""
        self._timer.cancel()
        super().connection_lost(exc)


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose servers do not wait long for a client that starts no TLS."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        """As in asyncio."""
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = HEAD_S
        return await super().create_server(*args, **options)


class ServerThread:
    """A web server in a thread of its own.

    Args:
        app: What it serves.
        listener: Descriptor of the bound socket.
        tls: Descriptor of chain and key, see `tls.handed_pem`; None serves without TLS.
    """

    def __init__(self, app: App, listener: int, tls: int | None = None) -> None:
        config = uvicorn.Config(
            app, http=_Patient, ws="none", loop="asyncio", lifespan="off", log_config=None,
            access_log=False, server_header=False, date_header=False, proxy_headers=False,
            limit_concurrency=_MAX_CONNECTIONS, timeout_keep_alive=10,
            timeout_graceful_shutdown=1, h11_max_incomplete_event_size=16 * 1024,
        )  # fmt: skip
        # no line for each bad request or reader that was let go; what fails here, the guard tells
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        config.load()
        if tls is not None:
            config.ssl = context_of(tls)
        self._server = uvicorn.Server(config)
        self._socket = socket.socket(fileno=os.dup(listener))
        self._thread = threading.Thread(target=self._work, name="veilcam-http", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(self._server.serve(sockets=[self._socket]))

    @property
    def is_alive(self) -> bool:
        """False once it has ended, whyever."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Ends it."""
        self._server.should_exit = True
        self._thread.join(_ENDING_S)
