"""The page: its routes. Static files come from memory, by exact name: there is no path to leave."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from veilcam.camera.errors import InputError
from veilcam.camera.serve_guard import App, Guard, TooLargeError, TooSlowError
from veilcam.camera.serve_metrics import CONTENT_TYPE, metrics_text
from veilcam.camera.serve_pictures import PictureDesk, Refused
from veilcam.camera.serve_session import Session, Sessions, is_token
from veilcam.camera.serve_stream import Gate, StreamRoutes, error_answer
from veilcam.camera.serve_wire import MAX_UPLOAD_BYTES
from veilcam.camera.serve_words import unknown_words
from veilcam.camera.sink_web import Stream
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
_MAX_JSON_BYTES = 4096
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
        self._sessions, self._gate = Sessions(), Gate(page.password_hash)
        self._cookie = f"veilcam_{page.port}"  # cookies do not tell ports apart
        self._static = {name: _load(name) for name in STATIC}
        self._live = StreamRoutes(page.stream, self._gate, lambda r: self._find(r) is not None)

    def routes(self) -> list[Route]:
        """Every address there is."""
        return [
            Route("/", self._index),
            Route("/static/{name}", self._file),
            Route("/api/login", self._login, methods=["POST"]),
            Route("/api/session", self._asked(self._session)),
            Route("/api/logout", self._changed(self._logout), methods=["POST"]),
            Route("/api/status", self._live.gated(self._status)),
            Route("/metrics", self._live.gated(self._metrics)),
            Route("/api/claims", self._asked(self._claims)),
            Route("/api/settings", self._changed(self._settings), methods=["POST"]),
            Route("/api/pictures", self._changed(self._add_picture), methods=["POST"]),
            Route("/api/pictures", self._changed(self._forget), methods=["DELETE"]),
            Route("/api/pictures.zip", self._asked(self._zip)),
            Route("/api/pictures/{number}", self._asked(self._picture)),
            Route("/report", self._asked(self._report)),
            *self._live.routes(),
        ]

    # --- who may -----------------------------------------------------------------------------

    def _find(self, request: Request) -> Session | None:
        return self._sessions.find(request.cookies.get(self._cookie, ""))

    def _asked(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            session = self._find(request)
            if session is None:
                return error_answer(401, "log in first")
            return await handler(request, session)

        return answer

    def _changed(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request, session: Session) -> Response:
            if not is_token(session, request.headers.get("x-csrf-token", "")):
                return error_answer(
                    403, "the request lacks the token of this session; load the page anew"
                )
            return await handler(request, session)

        return self._asked(answer)

    # --- the page ----------------------------------------------------------------------------

    async def _index(self, request: Request) -> Response:
        return Response(self._static["index.html"], media_type=STATIC["index.html"])

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._static:
            return error_answer(404, "nothing there")
        return Response(self._static[name], media_type=STATIC[name])

    async def _login(self, request: Request) -> Response:
        value = await _json(request)
        password = value.get("password")
        if not isinstance(password, str):
            return error_answer(400, "wanted a password")
        if refused := await self._gate.check(request, password):
            return refused
        token, session = self._sessions.start()
        response = JSONResponse({"csrf": session.csrf})
        response.set_cookie(
            self._cookie, token, path="/", httponly=True, samesite="strict",
            secure=request.headers["origin"].startswith("https:"),  # our own TLS, or a proxy's
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

    async def _status(self, request: Request) -> Response:
        readers = {"readers": self._page.stream.num_readers}
        return JSONResponse(self._page.status() | readers)

    async def _metrics(self, request: Request) -> Response:
        text = metrics_text(self._page.status(), self._page.stream.num_readers)
        return Response(text, media_type=CONTENT_TYPE)

    async def _claims(self, request: Request, session: Session) -> Response:
        page = self._page
        more = {
            "modes": page.modes,
            "strength_choices": [choice.value for choice in CHOICES],
            "has_prompt": bool(page.words),
            "has_report": bool(page.report),
            "purposes": page.desk.purposes,
            "picture_modes": page.desk.modes,
            "max_upload_bytes": MAX_UPLOAD_BYTES,
        }
        return JSONResponse(page.claims | more)

    async def _settings(self, request: Request, session: Session) -> Response:
        value = await _json(request)
        mode, strength, prompt = (value.get(k, "") for k in ("mode", "strength", "prompt"))
        if mode not in self._page.modes or strength not in [choice.value for choice in CHOICES]:
            return error_answer(400, "no such mode or strength")
        if not isinstance(prompt, str):
            return error_answer(400, "wanted a prompt in words")
        try:
            unknown = unknown_words(prompt.strip(), self._page.words)
        except InputError as error:
            return error_answer(400, str(error))
        self._page.wish(mode, strength, prompt.strip())
        return JSONResponse({"unknown": unknown}, status_code=202)

    async def _report(self, request: Request, session: Session) -> Response:
        if not self._page.report:
            return error_answer(404, "no report was given; see --report")
        headers = {"content-security-policy": _REPORT_CSP, "x-frame-options": "SAMEORIGIN"}
        return Response(self._page.report, media_type="text/html; charset=utf-8", headers=headers)

    # --- pictures ----------------------------------------------------------------------------

    async def _add_picture(self, request: Request, session: Session) -> Response:
        asked = request.query_params
        try:
            note = self._page.desk.check(
                purpose=asked.get("purpose", ""), strength=asked.get("strength", ""),
                size=asked.get("size", ""), prompt=asked.get("prompt", ""),
                mode=asked.get("mode", "face"),
            )  # fmt: skip
            data = await _body(request, MAX_UPLOAD_BYTES)
            made = await self._page.desk.make(session, data, asked.get("name", ""), note)
        except Refused as refused:
            return error_answer(refused.status, str(refused))
        except ClientDisconnect:
            return error_answer(400, "cut off")
        return JSONResponse(made)

    async def _picture(self, request: Request, session: Session) -> Response:
        found = self._page.desk.find(session, request.path_params["number"])
        if found is None:
            return error_answer(404, "nothing there")
        return Response(found.data, media_type=found.mime)

    async def _zip(self, request: Request, session: Session) -> Response:
        data = await asyncio.to_thread(self._page.desk.zipped, session)
        if not data:
            return error_answer(404, "nothing there")
        headers = {"content-disposition": 'attachment; filename="veilcam.zip"'}
        return Response(data, media_type="application/zip", headers=headers)

    async def _forget(self, request: Request, session: Session) -> Response:
        self._page.desk.forget(session)
        return JSONResponse({})


def make_app(page: Page) -> App:
    """The guarded application, ready for a server."""
    handlers = dict.fromkeys((HTTPException, TooLargeError, TooSlowError), _refuse)
    inner = Starlette(routes=PageApp(page).routes(), exception_handlers=handlers)
    inner.router.redirect_slashes = False
    return Guard(inner, names=page.names, port=page.port, max_body_bytes=MAX_UPLOAD_BYTES)


async def _refuse(request: Request, problem: Exception) -> Response:
    if isinstance(problem, TooLargeError):
        return error_answer(413, "too large")
    if isinstance(problem, TooSlowError):
        return error_answer(408, "too slow")
    status = problem.status_code if isinstance(problem, HTTPException) else 500
    return error_answer(status, "nothing there" if status == 404 else "refused")


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
