"""How a picture gets from the page's server to the process that replaces its people, and back.

Packets on a Unix SOCK_SEQPACKET pair: a kind, the number of the job, then JSON or a piece of a
file. Nothing is unpickled, lengths are bounded before memory is taken, no file has a name.
"""

import json
import os
import select
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from veilcam.camera.link import drain

MAX_UPLOAD_BYTES = 32 * 2**20
MAX_RESULT_BYTES = 96 * 2**20
_PIECE_BYTES = 60_000
_HEAD = struct.Struct("<cQ")
_ASK, _ANSWER, _PIECE, _LOST = b"A", b"R", b"P", b"L"
_MAX_JSON = 4096
_TICK_S = 0.2


class WireError(Exception):
    """The other side is gone, silent, or says what is not in the protocol."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """One file with what is to be said of it.

    Attributes:
        job: Random number that ties an answer to its question.
        note: Short texts and numbers.
        data: The file; a raw picture in a question, a safe one in an answer.
    """

    job: int
    note: dict[str, Any]
    data: bytes

    def __repr__(self) -> str:
        return f"Parcel({self.job}, {len(self.data)} bytes withheld)"


class Wire:
    """One end. One thread at a time.

    Args:
        descriptor: The socket; it stays the caller's.
        is_asking: True for the server's end.
        max_bytes: Largest file that may come in.
    """

    def __init__(self, descriptor: int, *, is_asking: bool, max_bytes: int) -> None:
        self._descriptor, self._max_bytes = descriptor, max_bytes
        self._says, self._hears = (_ASK, _ANSWER) if is_asking else (_ANSWER, _ASK)
        os.set_blocking(descriptor, False)

    def drain(self) -> None:
        """Throws away what an earlier job left."""
        drain(self._descriptor)

    def send(self, parcel: Parcel, timeout_s: float) -> None:
        """Sends a parcel. Raises WireError where the other side does not take it in time."""
        deadline_s = time.monotonic() + timeout_s
        note = json.dumps(parcel.note | {"length": len(parcel.data)}).encode()
        self._put(self._says, parcel.job, note, deadline_s)
        view = memoryview(parcel.data)
        for start in range(0, len(view), _PIECE_BYTES):
            self._put(_PIECE, parcel.job, view[start : start + _PIECE_BYTES], deadline_s)

    def _put(self, kind: bytes, job: int, body: bytes | memoryview, deadline_s: float) -> None:
        packet = _HEAD.pack(kind, job) + body
        while True:
            try:
                os.write(self._descriptor, packet)  # not a socket call: seccomp leaves it
                return
            except BlockingIOError:
                _ready(self._descriptor, select.POLLOUT, deadline_s)
            except OSError as error:
                raise WireError("the other side is gone") from error

    def receive(
        self, timeout_s: float, *, job: int | None = None, idle: Callable[[], bool] | None = None
    ) -> Parcel | None:
        """The next parcel (of a job, where one is given); pieces of others are passed over.

        Args:
            timeout_s: Longest wait for all of it.
            job: Only this one counts.
            idle: Called while nothing comes; True ends the wait, and None comes back.

        Raises:
            WireError: Silence, nonsense, or the process that had the job was lost.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            packet = self._take(deadline_s, idle)
            if packet is None:
                return None
            kind, number = _HEAD.unpack_from(packet)
            if kind == _LOST and job is not None:
                raise WireError("the process that had the picture ended")
            if kind == self._hears and (job is None or number == job):
                rest_due_s = time.monotonic() + timeout_s
                return self._whole(number, packet[_HEAD.size :], rest_due_s)

    def _whole(self, job: int, body: bytes, deadline_s: float) -> Parcel:
        note = _note(body)
        length = note.pop("length", None)
        if type(length) is not int or not 0 <= length <= self._max_bytes:
            raise WireError("a file of impossible length")
        data = bytearray()
        while len(data) < length:
            packet = self._take(deadline_s, None)
            if packet is None:
                raise WireError("cut off")
            kind, number = _HEAD.unpack_from(packet)
            if kind == _LOST:
                raise WireError("the process that had the picture ended")
            if kind != _PIECE or number != job:
                raise WireError("out of turn")
            data += packet[_HEAD.size :]
        if len(data) != length:
            raise WireError("longer than announced")
        return Parcel(job, note, bytes(data))

    def _take(self, deadline_s: float, idle: Callable[[], bool] | None) -> bytes | None:
        while True:
            if idle is not None and idle():
                return None
            try:
                packet = os.read(self._descriptor, _PIECE_BYTES + _HEAD.size + 1)
            except BlockingIOError:
                is_idle_ok = idle is not None
                _ready(self._descriptor, select.POLLIN, deadline_s, is_quiet=is_idle_ok)
                continue
            except OSError as error:
                raise WireError("the other side is gone") from error
            if not packet:
                raise WireError("the other side is gone")
            if len(packet) >= _HEAD.size:
                return packet


def _ready(descriptor: int, event: int, deadline_s: float, *, is_quiet: bool = False) -> None:
    """Waits a little for the socket. Raises WireError once the time is over."""
    left_s = deadline_s - time.monotonic()
    if left_s <= 0 and not is_quiet:
        raise WireError("no answer in time")
    poll = select.poll()
    poll.register(descriptor, event)
    poll.poll(1000 * min(max(left_s, 0.01), _TICK_S))


def _note(body: bytes) -> dict[str, Any]:
    if len(body) > _MAX_JSON:
        raise WireError("a long note")
    try:
        note = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireError("a note that is not JSON") from error
    if not isinstance(note, dict) or not all(isinstance(v, str | int) for v in note.values()):
        raise WireError("a note that is not flat")
    return note


def say_lost(descriptor: int) -> None:
    """The supervisor, in the place of a process that died: its job will not be answered."""
    try:
        os.write(descriptor, _HEAD.pack(_LOST, 0))
    except OSError:  # nobody listens: nobody waits
        return


def has_mail(descriptor: int) -> bool:
    """True where something waits to be read."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
