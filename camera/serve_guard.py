"""What every request passes before it reaches the page: host, origin, size, headers.

Pure ASGI, so that it also stands before streams. A request that fails is answered here.
"""

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

_log = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; manifest-src 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), display-capture=()",
    "cache-control": "no-store",
}
BODY_S = 20.0  # for the next piece of a body
_MAX_HEADER_BYTES = 16 * 1024
_SAFE = ("GET", "HEAD")
_METHODS = (*_SAFE, "POST", "DELETE")


def own_names(host: str, more: Iterable[str] = ()) -> frozenset[str]:
    """Names by which a browser may call this server, lower case.

    Any address in numbers is allowed besides (`Guard`): a page that rebinds its name to us has a
    name, and that one is not among these.
    """
    name = socket.gethostname().lower()
    own = {"localhost", name, f"{name.partition('.')[0]}.local"}
    return frozenset({*own, host.lower(), *(entry.lower().rstrip(".") for entry in more)} - {""})


class Guard:
    """Lets requests through to `app` that a page of ours could have made.

    Args:
        app: What is behind.
        names: See `own_names`.
        port: The one we serve on.
        max_body_bytes: Largest body; more is cut off, whatever the header says.
    """

    def __init__(self, app: App, *, names: frozenset[str], port: int, max_body_bytes: int) -> None:
        self._app, self._names, self._port = app, names, port
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or passes on."""
        if scope["type"] != "http":
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        problem = self._problem(scope, headers)
        if problem is not None:
            await _answer(send, *problem)
            return
        try:
            await self._app(scope, _Limited(receive, self._max_body_bytes), _with_headers(send))
        except Exception as error:  # answered with 500; its text could hold anything
            _log.error("the page failed: %s", type(error).__name__)

    def _problem(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _MAX_HEADER_BYTES:
            return 431, "headers"
        num_hosts = sum(name == b"host" for name, _ in scope["headers"])
        if num_hosts != 1 or not self._is_ours(headers.get("host", "")):
            return 421, "this server does not have that name; see --allow-host"
        if scope["method"] not in _METHODS:
            return 405, "method"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 12 or int(length) > self._max_body_bytes:
            return 413, f"at most {self._max_body_bytes >> 20} MiB"
        is_from_elsewhere = headers.get("sec-fetch-site", "none") in ("cross-site", "same-site")
        if is_from_elsewhere and (scope["path"] != "/" or scope["method"] not in _SAFE):
            return 403, "asked from another site"
        if scope["method"] not in _SAFE and not self._is_same_origin(headers):
            return 403, "asked from another origin"
        return None

    def _is_ours(self, host: str) -> bool:
        name, port = _split(host)
        if port not in (None, self._port):
            return False
        if name.lower().rstrip(".") in self._names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _is_same_origin(self, headers: dict[str, str]) -> bool:
        origin = headers.get("origin", "").lower()
        return origin in (f"{way}://{headers['host'].lower()}" for way in ("http", "https"))


def _split(host: str) -> tuple[str, int | None]:
    """Name and port of a Host header.

    >>> _split("cam.local:8080"), _split("[::1]:81"), _split("localhost")
    (('cam.local', 8080), ('[::1]', 81), ('localhost', None))
    """
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        return host, None
    return name, int(port) if port.isdecimal() and len(port) < 6 else -1


class TooSlowError(Exception):
    """The body comes in drops; `app` answers 408."""


class TooLargeError(Exception):
    """The body is longer than is taken, whatever its header said; `app` answers 413."""


class _Limited:
    """Counts what a body really holds, and waits for its pieces, but not for ever."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive, self._left, self._is_whole = receive, max_bytes, False

    async def __call__(self) -> Message:
        if self._is_whole:  # from here on only the end of the connection can come
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), BODY_S)
        except TimeoutError as error:
            raise TooSlowError from error
        self._is_whole = not message.get("more_body", False)
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise TooLargeError
        return message


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message.get("headers", ())}
            more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in there]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sender


async def _answer(send: Send, status: int, problem: str) -> None:
    body = json.dumps({"error": problem}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    sender = _with_headers(send)
    await sender({"type": "http.response.start", "status": status, "headers": headers})
    await sender({"type": "http.response.body", "body": body})
