"""Pictures dropped on the page: raw ones in and out of this process in one call, safe ones kept.

The server has the bytes that the user's browser sent, because it is the one that was sent them. It
looks at the first 32, hands all on, and forgets them; no decoder runs here. Safe results stay in
memory until the session, the user or the clock lets them go.
"""

import asyncio
import io
import re
import secrets
import time
import unicodedata
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from veilcam.camera.album_files import sniff
from veilcam.camera.errors import InputError
from veilcam.camera.serve_session import Session
from veilcam.camera.serve_wire import Parcel, Wire, WireError
from veilcam.camera.serve_words import unknown_words
from veilcam.camera.strength import CHOICES

SIZES = ("full", "large", "medium", "small", "square", "story")
MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WebP": "image/webp"}
_SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "WebP": ".webp"}
_KINDS = ("JPEG", "PNG", "WebP", "HEIC")
_KEPT_BYTES, _KEPT_FILES, _KEPT_S = 256 * 2**20, 200, 3600.0
_MAX_WAITING = 4
_JOB_S = 150.0
_MAX_NAME = 80


class Refused(Exception):
    """A picture that is not made.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


@dataclass(frozen=True, slots=True)
class Made:
    """One safe picture in memory.

    Attributes:
        owner: The session that may have it.
        name: What it is called in the zip.
    """

    owner: Session
    name: str
    mime: str
    data: bytes
    made_s: float

    def __repr__(self) -> str:
        return f"Made({self.mime}, {len(self.data)} bytes)"


class PictureDesk:
    """Hands pictures to the process that replaces people, one at a time, and keeps what comes back.

    Args:
        wire: To that process.
        purposes: What can be made: `album`, `social`.
        words: That a prompt may use.
        now_s: The clock.
        modes: In which twins can be made.
    """

    def __init__(
        self,
        wire: Wire,
        purposes: tuple[str, ...],
        words: tuple[str, ...] = (),
        now_s: Callable[[], float] = time.monotonic,
        modes: tuple[str, ...] = ("face",),
    ) -> None:
        self.modes = modes
        self._wire, self.purposes, self._words, self._now_s = wire, purposes, words, now_s
        self._turn, self._num_waiting = asyncio.Lock(), 0
        self._made: OrderedDict[str, Made] = OrderedDict()

    def check(
        self, *, purpose: str, strength: str, size: str, prompt: str, mode: str = "face"
    ) -> dict[str, Any]:
        """What to say of a picture. Raises Refused where it was asked for what there is not."""
        if purpose not in self.purposes or (size or "large") not in SIZES:
            raise Refused(400, "no such purpose or size")
        if strength not in [choice.value for choice in CHOICES]:
            raise Refused(400, "no such strength")
        if mode not in self.modes:
            raise Refused(400, "no such mode")
        if mode != "face" and (purpose == "search" or prompt.strip()):
            raise Refused(400, "this mode keeps nothing to search by, and paints no heads by words")
        try:
            unknown_words(prompt.strip(), self._words)
        except InputError as error:
            raise Refused(400, str(error)) from error
        asked = {"purpose": purpose, "strength": strength, "size": size or "large"}
        return asked | {"prompt": prompt.strip(), "mode": mode}

    async def make(
        self, session: Session, data: bytes, name: str, note: dict[str, Any]
    ) -> dict[str, Any]:
        """What was made of a picture: its number, size, heads.

        Raises:
            Refused: It is no picture, cannot be vouched for, or too many wait.
        """
        if not data:
            raise Refused(400, "is empty: got 0 bytes")
        kind = sniff(data[:32])
        if kind not in _KINDS:
            raise Refused(415, "is no JPEG, PNG, WebP or HEIC picture")
        if self._num_waiting >= _MAX_WAITING:
            raise Refused(503, "too many pictures wait; try again")
        self._num_waiting += 1
        try:
            async with self._turn:
                answer = await asyncio.to_thread(self._ask, note | {"kind": kind}, data)
        finally:
            self._num_waiting -= 1
        if answer.note.get("problem"):
            raise Refused(422, str(answer.note["problem"]))
        return self._keep(session, name, answer)

    def _ask(self, note: dict[str, Any], data: bytes) -> Parcel:
        job = secrets.randbits(64)
        try:
            self._wire.drain()
            self._wire.send(Parcel(job, note, data), _JOB_S)
            answer = self._wire.receive(_JOB_S, job=job)
        except WireError as error:
            raise Refused(422, f"could not be made: {error}") from error
        assert answer is not None  # only an idle wait gives none
        return answer

    def _keep(self, session: Session, name: str, answer: Parcel) -> dict[str, Any]:
        kind, told = answer.note.get("kind"), answer.note
        numbers = [told.get(key) for key in ("width", "height", "heads", "signed")]
        if kind not in MIME or not all(type(n) is int for n in numbers):
            raise Refused(500, "the picture process said what it should not")
        mime = MIME[str(kind)]
        made = Made(session, plain_name(name, str(kind)), mime, answer.data, self._now_s())
        number = secrets.token_urlsafe(12)
        self._made[number] = made
        self._tidy()
        width, height, heads, is_signed = numbers
        return {
            "id": number, "name": made.name, "bytes": len(made.data), "width": width,
            "height": height, "heads": heads, "is_signed": bool(is_signed),
        }  # fmt: skip

    def _tidy(self) -> None:
        """Lets the oldest go: by time, number and bytes."""
        now_s = self._now_s()
        while self._made:
            first = next(iter(self._made.values()))
            num_bytes = sum(len(made.data) for made in self._made.values())
            is_much = num_bytes > _KEPT_BYTES or len(self._made) > _KEPT_FILES
            if not is_much and now_s - first.made_s < _KEPT_S:
                return
            self._made.popitem(last=False)

    def find(self, session: Session, number: str) -> Made | None:
        """One safe picture of this session."""
        self._tidy()
        made = self._made.get(number)
        return made if made is not None and made.owner is session else None

    def zipped(self, session: Session) -> bytes:
        """All of this session's in one file, names made different; empty where there are none."""
        self._tidy()
        own = [made for made in list(self._made.values()) if made.owner is session]
        if not own:
            return b""
        memory, taken = io.BytesIO(), set[str]()
        with zipfile.ZipFile(memory, "w", zipfile.ZIP_STORED) as packed:
            for made in own:
                stem, dot, suffix = made.name.rpartition(".")
                name, again = made.name, 2
                while name.casefold() in taken:
                    name, again = f"{stem}-{again}{dot}{suffix}", again + 1
                taken.add(name.casefold())
                packed.writestr(zipfile.ZipInfo(name), made.data)  # dated 1980: no time is told
        return memory.getvalue()

    def forget(self, session: Session) -> None:
        """Drops this session's pictures."""
        for number in [n for n, made in self._made.items() if made.owner is session]:
            del self._made[number]


def plain_name(name: str, kind: str) -> str:
    r"""A file name without folders, odd characters or a foreign suffix.

    >>> plain_name("../../etc/passwd", "JPEG"), plain_name("C:\\tmp\\me.heic", "JPEG")
    ('passwd.jpg', 'me.jpg')
    >>> plain_name("..", "PNG"), plain_name("夏 2026.png", "PNG")
    ('picture.png', '夏 2026.png')
    """
    text = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])
    stem = text.rpartition(".")[0] or text
    stem = "".join(c if c.isalnum() or c in " -_().+" else "_" for c in stem)
    stem = stem.strip(" ._")[:_MAX_NAME].strip(" ._")
    return f"{stem or 'picture'}{_SUFFIX[kind]}"
