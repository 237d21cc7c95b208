"""The page: its routes. Static files come from memory, by exact name: there is no path to leave."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from veilcam.camera import serve_password
from veilcam.camera.errors import InputError
from veilcam.camera.serve_guard import App, Guard, Receive, Scope, Send, TooLargeError
from veilcam.camera.serve_pictures import PictureDesk, Refused
from veilcam.camera.serve_session import Session, Sessions, Tries, is_token
from veilcam.camera.serve_wire import MAX_UPLOAD_BYTES
from veilcam.camera.serve_words import unknown_words
from veilcam.camera.sink_web import BOUNDARY, Stream
from veilcam.camera.strength import CHOICES

STATIC = {
    "index.html": "text/html; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "chart.js": "text/javascript; charset=utf-8",
    "drop.js": "text/javascript; charset=utf-8",
    "text.js": "text/javascript; charset=utf-8",
    "strings.json": "application/json",
    "icon.svg": "image/svg+xml",
}
MAX_READERS = 16
_MAX_JSON_BYTES = 4096
_PART = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n".encode()
_STUCK_S = 15.0  # a reader that takes no byte for so long is let go
_REPORT_CSP = (
    "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)
Handler = Callable[[Request, Session], Awaitable[Response]]


@dataclass(slots=True, kw_only=True)
class Page:
    """What the page shows and steers.

    Attributes:
        password_hash: Of the one password.
        names, port: By which it may be called.
        claims: What the bundle states, for plain words.
        modes: Modes that can be chosen.
        words: That a prompt may use, empty where there are no prompts.
        report: The audit's HTML, empty where none was given.
        stream: Live pictures.
        desk: Pictures that are dropped on the page.
        wish: Tells the supervisor what the user wants.
        status: Gives the run's counters.
    """

    password_hash: str
    names: frozenset[str]
    port: int
    claims: dict[str, Any]
    modes: tuple[str, ...]
    words: tuple[str, ...]
    report: bytes
    stream: Stream
    desk: PictureDesk
    wish: Callable[[str, str, str], None]
    status: Callable[[], dict[str, Any]]


class PageApp:
    """Answers of the page.

    Args:
        page: What it shows.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._sessions, self._tries = Sessions(), Tries()
        self._hashing = asyncio.Semaphore(1)  # 64 MiB each
        self._cookie = f"veilcam_{page.port}"  # cookies do not tell ports apart
        self._static = {name: _load(name) for name in STATIC}
        self._key, self._known = secrets.token_bytes(32), b""

    def routes(self) -> list[Route]:
        """Every address there is."""
        return [
            Route("/", self._index),
            Route("/static/{name}", self._file),
            Route("/api/login", self._login, methods=["POST"]),
            Route("/api/session", self._asked(self._session)),
            Route("/api/logout", self._changed(self._logout), methods=["POST"]),
            Route("/api/status", self._asked(self._status)),
            Route("/api/claims", self._asked(self._claims)),
            Route("/api/settings", self._changed(self._settings), methods=["POST"]),
            Route("/api/pictures", self._changed(self._add_picture), methods=["POST"]),
            Route("/api/pictures", self._changed(self._forget), methods=["DELETE"]),
            Route("/api/pictures.zip", self._asked(self._zip)),
            Route("/api/pictures/{number}", self._asked(self._picture)),
            Route("/report", self._asked(self._report)),
            Route("/stream.mjpg", self._live(self._stream)),
            Route("/snapshot.jpg", self._live(self._snapshot)),
        ]

    # --- who may -----------------------------------------------------------------------------

    def _find(self, request: Request) -> Session | None:
        return self._sessions.find(request.cookies.get(self._cookie, ""))

    def _asked(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            session = self._find(request)
            return (
                _error(401, "log in first") if session is None else await handler(request, session)
            )

        return answer

    def _changed(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request, session: Session) -> Response:
            if not is_token(session, request.headers.get("x-csrf-token", "")):
                return _error(
                    403, "the request lacks the token of this session; load the page anew"
                )
            return await handler(request, session)

        return self._asked(answer)

    def _live(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """For players and recorders besides the page: they log in by HTTP Basic."""

        async def answer(request: Request) -> Response:
            if self._find(request) is None and (refused := await self._basic(request)):
                return refused
            return await handler(request)

        return answer

    async def _basic(self, request: Request) -> Response | None:
        """None where the Authorization header holds the password."""
        scheme, _, coded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return _error(401, "log in first", {"www-authenticate": 'Basic realm="Veilcam"'})
        try:
            sent = base64.b64decode(coded, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return _error(400, "authorization")
        mark = hmac.digest(self._key, sent.encode(), hashlib.sha256)
        if self._known and hmac.compare_digest(mark, self._known):  # spares the slow hash
            return None
        refused = await self._check(request, sent)
        if refused is None:
            self._known = mark
        return refused

    async def _check(self, request: Request, password: str) -> Response | None:
        """None for the right password, else the answer."""
        address = request.client.host if request.client else ""
        if wait_s := self._tries.wait_s(address):
            headers = {"retry-after": str(int(wait_s) + 1)}
            return _error(429, "too many tries; wait a little", headers)
        async with self._hashing:
            is_right = await asyncio.to_thread(
                serve_password.is_right, password, self._page.password_hash
            )
        if not is_right:
            return _error(401, "wrong password")
        self._tries.forgive(address)
        return None

    # --- the page ----------------------------------------------------------------------------

    async def _index(self, request: Request) -> Response:
        return Response(self._static["index.html"], media_type=STATIC["index.html"])

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._static:
            return _error(404, "nothing there")
        return Response(self._static[name], media_type=STATIC[name])

    async def _login(self, request: Request) -> Response:
        value = await _json(request)
        password = value.get("password")
        if not isinstance(password, str):
            return _error(400, "wanted a password")
        if refused := await self._check(request, password):
            return refused
        token, session = self._sessions.start()
        response = JSONResponse({"csrf": session.csrf})
        response.set_cookie(
            self._cookie, token, path="/", httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return response

    async def _session(self, request: Request, session: Session) -> Response:
        return JSONResponse({"csrf": session.csrf})

    async def _logout(self, request: Request, session: Session) -> Response:
        self._sessions.end(request.cookies.get(self._cookie, ""))
        self._page.desk.forget(session)
        response = JSONResponse({})
        response.delete_cookie(self._cookie, path="/", httponly=True, samesite="strict")
        return response

    # --- the run -----------------------------------------------------------------------------

    async def _status(self, request: Request, session: Session) -> Response:
        readers = {"readers": self._page.stream.num_readers}
        return JSONResponse(self._page.status() | readers)

    async def _claims(self, request: Request, session: Session) -> Response:
        page = self._page
        more = {
            "modes": page.modes,
            "strength_choices": [choice.value for choice in CHOICES],
            "has_prompt": bool(page.words),
            "has_report": bool(page.report),
            "purposes": page.desk.purposes,
            "max_upload_bytes": MAX_UPLOAD_BYTES,
        }
        return JSONResponse(page.claims | more)

    async def _settings(self, request: Request, session: Session) -> Response:
        value = await _json(request)
        mode, strength, prompt = (value.get(k, "") for k in ("mode", "strength", "prompt"))
        if mode not in self._page.modes or strength not in [choice.value for choice in CHOICES]:
            return _error(400, "no such mode or strength")
        if not isinstance(prompt, str):
            return _error(400, "wanted a prompt in words")
        try:
            unknown = unknown_words(prompt.strip(), self._page.words)
        except InputError as error:
            return _error(400, str(error))
        self._page.wish(mode, strength, prompt.strip())
        return JSONResponse({"unknown": unknown}, status_code=202)

    async def _report(self, request: Request, session: Session) -> Response:
        if not self._page.report:
            return _error(404, "no report was given; see --report")
        headers = {"content-security-policy": _REPORT_CSP, "x-frame-options": "SAMEORIGIN"}
        return Response(self._page.report, media_type="text/html; charset=utf-8", headers=headers)

    async def _stream(self, request: Request) -> Response:
        if self._page.stream.num_readers >= MAX_READERS:
            return _error(503, f"{MAX_READERS} readers are there already")
        return MjpegResponse(self._page.stream)

    async def _snapshot(self, request: Request) -> Response:
        jpeg = await self._page.stream.snapshot()
        if jpeg is None:
            return _error(503, "no picture yet")
        return Response(jpeg, media_type="image/jpeg")

    # --- pictures ----------------------------------------------------------------------------

    async def _add_picture(self, request: Request, session: Session) -> Response:
        asked = request.query_params
        try:
            note = self._page.desk.check(
                purpose=asked.get("purpose", ""), strength=asked.get("strength", ""),
                size=asked.get("size", ""), prompt=asked.get("prompt", ""),
            )  # fmt: skip
            data = await _body(request, MAX_UPLOAD_BYTES)
            made = await self._page.desk.make(session, data, asked.get("name", ""), note)
        except Refused as refused:
            return _error(refused.status, str(refused))
        except ClientDisconnect:
            return _error(400, "cut off")
        return JSONResponse(made)

    async def _picture(self, request: Request, session: Session) -> Response:
        found = self._page.desk.find(session, request.path_params["number"])
        if found is None:
            return _error(404, "nothing there")
        return Response(found.data, media_type=found.mime)

    async def _zip(self, request: Request, session: Session) -> Response:
        data = await asyncio.to_thread(self._page.desk.zipped, session)
        if not data:
            return _error(404, "nothing there")
        headers = {"content-disposition": 'attachment; filename="veilcam.zip"'}
        return Response(data, media_type="application/zip", headers=headers)

    async def _forget(self, request: Request, session: Session) -> Response:
        self._page.desk.forget(session)
        return JSONResponse({})


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


def make_app(page: Page) -> App:
    """The guarded application, ready for a server."""
    handlers = {HTTPException: _refuse, TooLargeError: _refuse}
    inner = Starlette(routes=PageApp(page).routes(), exception_handlers=handlers)
    inner.router.redirect_slashes = False
    return Guard(inner, names=page.names, port=page.port, max_body_bytes=MAX_UPLOAD_BYTES)


async def _refuse(request: Request, problem: Exception) -> Response:
    if isinstance(problem, TooLargeError):
        return _error(413, "too large")
    status = problem.status_code if isinstance(problem, HTTPException) else 500
    return _error(status, "nothing there" if status == 404 else "refused")


def _error(status: int, problem: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": problem}, status_code=status, headers=headers)


async def _body(request: Request, max_bytes: int) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > max_bytes:
            raise TooLargeError
    return bytes(data)


async def _json(request: Request) -> dict[str, Any]:
    """The object of a body. Only JSON by its own type: a form of another page cannot send that."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415)
    try:
        value = json.loads(await _body(request, _MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise HTTPException(400) from error
    if not isinstance(value, dict):
        raise HTTPException(400)
    return value


def _load(name: str) -> bytes:
    return (files("veilcam.camera.web") / name).read_bytes()
