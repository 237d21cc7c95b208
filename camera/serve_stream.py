"""Stream and snapshot by HTTP, and the password before them: for page, players and recorders."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from veilcam.camera import serve_password
from veilcam.camera.serve_guard import App, Guard, Receive, Scope, Send
from veilcam.camera.serve_session import Tries
from veilcam.camera.sink_web import BOUNDARY, Stream

MAX_READERS = 16
_PART = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n".encode()
_STUCK_S = 15.0  # a reader that takes no byte for so long is let go
Answer = Callable[[Request], Awaitable[Response]]


class Gate:
    """Knows the password, and slows down who guesses it.

    Args:
        password_hash: Of the one password; empty lets everybody in.
    """

    def __init__(self, password_hash: str) -> None:
        self._password_hash, self._tries = password_hash, Tries()
        self._hashing = asyncio.Semaphore(1)  # 64 MiB each
        self._key, self._known = secrets.token_bytes(32), b""

    async def check(self, request: Request, password: str) -> Response | None:
        """None for the right password, else the answer."""
        address = request.client.host if request.client else ""
        if wait_s := self._tries.wait_s(address):
            headers = {"retry-after": str(int(wait_s) + 1)}
            return error_answer(429, "too many tries; wait a little", headers)
        async with self._hashing:
            is_right = await asyncio.to_thread(
                serve_password.is_right, password, self._password_hash
            )
        if not is_right:
            return error_answer(401, "wrong password")
        self._tries.forgive(address)
        return None

    async def basic(self, request: Request) -> Response | None:
        """None where the Authorization header holds the password, with any user name."""
        if not self._password_hash:
            return None
        scheme, _, coded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            # a part of our page must not make the browser ask for a password in a window
            is_part = request.headers.get("sec-fetch-dest", "document") != "document"
            headers = None if is_part else {"www-authenticate": 'Basic realm="Veilcam"'}
            return error_answer(401, "log in first", headers)
        try:
            sent = base64.b64decode(coded, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return error_answer(400, "authorization")
        mark = hmac.digest(self._key, sent.encode(), hashlib.sha256)
        if self._known and hmac.compare_digest(mark, self._known):  # spares the slow hash
            return None
        refused = await self.check(request, sent)
        if refused is None:
            self._known = mark
        return refused


class StreamRoutes:
    """`/stream.mjpg` and `/snapshot.jpg`.

    Args:
        stream: Live pictures.
        gate: Asks for the password.
        is_known: True for a request that needs none.
    """

    def __init__(self, stream: Stream, gate: Gate, is_known: Callable[[Request], bool]) -> None:
        self._stream, self._gate, self._is_known = stream, gate, is_known

    def routes(self) -> list[Route]:
        """Both."""
        return [
            Route("/stream.mjpg", self.gated(self._mjpeg)),
            Route("/snapshot.jpg", self.gated(self._snapshot)),
        ]

    def gated(self, handler: Answer) -> Answer:
        """The handler behind the password: by session, or by HTTP Basic for programs."""

        async def answer(request: Request) -> Response:
            if not self._is_known(request) and (refused := await self._gate.basic(request)):
                return refused
            return await handler(request)

        return answer

    async def _mjpeg(self, request: Request) -> Response:
        if self._stream.num_readers >= MAX_READERS:
            return error_answer(503, f"{MAX_READERS} readers are there already")
        return MjpegResponse(self._stream)

    async def _snapshot(self, request: Request) -> Response:
        jpeg = await self._stream.snapshot()
        if jpeg is None:
            return error_answer(503, "no picture yet")
        return Response(jpeg, media_type="image/jpeg")


class MjpegResponse(Response):
    """A stream of JPEGs that ends with its reader; one who takes nothing is let go.

    Args:
        stream: Live pictures.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__(media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until reader or stream end."""
        headers = [(k, v) for k, v in self.raw_headers if k != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        pictures = self._stream.pictures()
        gone = asyncio.create_task(_until_gone(receive))
        try:
            while not gone.done() and (jpeg := await _first(pictures, gone)) is not None:
                body = _PART % len(jpeg) + jpeg + b"\r\n"
                message = {"type": "http.response.body", "body": body, "more_body": True}
                await asyncio.wait_for(send(message), _STUCK_S)
            await send({"type": "http.response.body", "body": f"--{BOUNDARY}--\r\n".encode()})
        except (TimeoutError, OSError):
            return
        finally:
            gone.cancel()
            await pictures.aclose()  # type: ignore[attr-defined]


async def _first(pictures: AsyncIterator[bytes], gone: "asyncio.Task[None]") -> bytes | None:
    coming = asyncio.ensure_future(anext(pictures, None))
    await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
    if coming.done():
        return coming.result()
    coming.cancel()
    await asyncio.wait({coming})
    return None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def make_stream_app(stream: Stream, *, password_hash: str, names: frozenset[str], port: int) -> App:
    """Stream and snapshot alone, for `run --sink web`; anything else is 404."""
    routes = StreamRoutes(stream, Gate(password_hash), lambda _request: False).routes()
    return Guard(Starlette(routes=routes), names=names, port=port, max_body_bytes=0)


def error_answer(status: int, problem: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal as JSON."""
    return JSONResponse({"error": problem}, status_code=status, headers=headers)
