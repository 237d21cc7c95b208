"""The words that capture, publish and their supervisor may say to each other: a closed list.

Every message is one packet on a Unix socket pair that the supervisor made: a fixed head, then a
fixed struct, or JSON of a known shape. Nothing is ever unpickled or evaluated, a packet that is not
exactly one of these is a `ProtocolError`, and no packet has room for a picture.
"""

import json
import math
import re
import struct
from dataclasses import astuple, dataclass, field
from typing import Any

MAX_BYTES = 8192
MAX_TEXT = 400
_HEAD = struct.Struct("<BBH")  # protocol version, kind, length of the rest
_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9_ .:/-]{1,60}")
_MAX_DEPTH = 3


class ProtocolError(Exception):
    """A peer said something that is not in the vocabulary; it is to be ended."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Supervisor to capture: read the source from frame `resume_at` on, as life number `epoch`.

    The first `blank_frames` frames are not to be shown: a new life knows no tracks yet.
    """

    epoch: int
    resume_at: int
    blank_frames: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Capture to publish: the source is open; frames will be of this size."""

    epoch: int
    height: int
    width: int
    fps: float
    is_live: bool


@dataclass(frozen=True, slots=True)
class Go:
    """Publish to capture: the sink is open. With `is_lossless` no frame may be skipped."""

    epoch: int
    is_lossless: bool


@dataclass(frozen=True, slots=True)
class Started:
    """Capture to publish: models are loaded, from now on every frame has its time limit."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Wrote:
    """Capture to publish: the ring's `slot` holds a frame at sequence number `seq`."""

    epoch: int
    slot: int
    seq: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Publish to capture: so many frames of this epoch are done with."""

    epoch: int
    count: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Capture to publish and supervisor: the source has no more frames, all are in the ring."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Supervisor to publish: the capture process of this epoch is gone. Publish answers Resume."""

    epoch: int
    was_hung: bool


@dataclass(frozen=True, slots=True)
class Resume:
    """Publish to supervisor: the lost frame's blank is out; go on at frame `index`."""

    epoch: int
    index: int


@dataclass(frozen=True, slots=True)
class Stalled:
    """Publish to supervisor: capture of this epoch missed its time limit or sent garbage."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Supervisor to both: end after the frame in hand. Capture then says Ended."""


@dataclass(frozen=True, slots=True)
class Done:
    """Publish to supervisor: the output stands under its final name (or the viewer ended it)."""

    is_by_viewer: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """Capture or publish to supervisor: it cannot go on. `is_input`: the user can cure it."""

    epoch: int
    is_input: bool
    text: str


@dataclass(frozen=True, slots=True)
class Barriers:
    """A process's barriers, as `barriers.raise_barriers` found them."""

    state: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """Counters and latencies so far: names, numbers, short texts, nested at most three deep.

    The supervisor tells publish those of the whole run, where there is a page to show them.
    """

    epoch: int
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Log:
    """Capture or publish to supervisor: one line for the log; their own stderr is closed."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Wish:
    """Publish to supervisor: the user of the page wants another mode, strength or prompt."""

    mode: str
    strength: str
    text: str


@dataclass(frozen=True, slots=True)
class Setup:
    """Supervisor to both, first of all: the run's settings (`worker.Settings`).

    `noise_key` is for capture alone (`run_noise`); publish gets an empty one.
    """

    values: dict[str, Any] = field(default_factory=dict)
    noise_key: str = ""


Message = (
    Begin | Ready | Go | Started | Wrote | Taken | Ended | Lost | Resume | Stalled | Stop | Done
    | Failed | Barriers | Report | Log | Setup | Wish
)  # fmt: skip
_FIXED: dict[int, tuple[type[Any], struct.Struct]] = {
    1: (Begin, struct.Struct("<IQI")),
    2: (Ready, struct.Struct("<IIId?")),
    3: (Go, struct.Struct("<I?")),
    4: (Started, struct.Struct("<I")),
    5: (Wrote, struct.Struct("<IIQ")),
    6: (Taken, struct.Struct("<IQ")),
    7: (Ended, struct.Struct("<I")),
    8: (Lost, struct.Struct("<I?")),
    9: (Resume, struct.Struct("<IQ")),
    10: (Stalled, struct.Struct("<I")),
    11: (Stop, struct.Struct("<")),
    12: (Done, struct.Struct("<?")),
}
_JSON: dict[int, type[Any]] = {20: Failed, 21: Barriers, 22: Report, 23: Setup, 24: Log, 25: Wish}
_KINDS = {entry[0]: kind for kind, entry in _FIXED.items()} | {v: k for k, v in _JSON.items()}


def encode(message: Message) -> bytes:
    """The packet of a message. Raises ValueError where it would be too long."""
    kind = _KINDS[type(message)]
    if kind in _FIXED:
        body = _FIXED[kind][1].pack(*astuple(message))
    else:
        values = {name: getattr(message, name) for name in type(message).__dataclass_fields__}
        if "text" in values:
            values["text"] = plain_text(values["text"])
        body = json.dumps(values, allow_nan=False).encode()
    if len(body) + _HEAD.size > MAX_BYTES:
        raise ValueError(f"{type(message).__name__} has {len(body)} bytes, wanted < {MAX_BYTES}")
    return _HEAD.pack(_VERSION, kind, len(body)) + body


def decode(packet: bytes) -> Message:
    """The message of a packet. Raises ProtocolError for anything else."""
    if not _HEAD.size <= len(packet) <= MAX_BYTES:
        raise ProtocolError(f"packet of {len(packet)} bytes")
    version, kind, length = _HEAD.unpack_from(packet)
    body = packet[_HEAD.size :]
    if version != _VERSION or length != len(body) or (kind not in _FIXED and kind not in _JSON):
        raise ProtocolError(f"version {version}, kind {kind}, {len(body)} of {length} bytes")
    if kind in _JSON:
        return _from_json(_JSON[kind], body)
    make, layout = _FIXED[kind]
    if len(body) != layout.size:
        raise ProtocolError(f"{make.__name__} of {len(body)} bytes")
    message: Message = make(*layout.unpack(body))
    if isinstance(message, Ready):
        _check_ready(message)
    return message


def _check_ready(ready: Ready) -> None:
    is_sane = 1 <= ready.height <= 8192 and 1 <= ready.width <= 8192
    if not (is_sane and math.isfinite(ready.fps) and 0 < ready.fps <= 1000):
        raise ProtocolError("impossible size or rate")


def _from_json(make: type[Any], body: bytes) -> Message:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not JSON") from error
    if not isinstance(values, dict) or set(values) != set(make.__dataclass_fields__):
        raise ProtocolError(f"wrong keys for {make.__name__}")
    kinds = {
        "epoch": int,
        "level": int,
        "noise_key": str,
        "is_input": bool,
        "text": str,
        "mode": str,
        "strength": str,
        "state": dict,
        "values": dict,
    }
    for name, value in values.items():
        if type(value) is not kinds[name]:
            raise ProtocolError(f"{make.__name__}.{name} is {type(value).__name__}")
        if isinstance(value, dict):
            _check_tree(value, _MAX_DEPTH)
    if make is Barriers and not all(isinstance(v, str) for v in values["state"].values()):
        raise ProtocolError("a barrier's state must be text")
    if "text" in values:
        values["text"] = plain_text(values["text"])
    message: Message = make(**values)
    return message


def _check_tree(tree: dict[str, Any], depth: int) -> None:
    if depth == 0 or len(tree) > 200:
        raise ProtocolError("too deep or too wide")
    for name, value in tree.items():
        if not _NAME.fullmatch(name):
            raise ProtocolError("a name with odd characters")
        if isinstance(value, dict):
            _check_tree(value, depth - 1)
        elif isinstance(value, str):
            if len(value) > 4096:
                raise ProtocolError("a long text")
        elif not (value is None or isinstance(value, int | float)) or value in _INFINITE:
            raise ProtocolError(f"a value of type {type(value).__name__}")
        elif isinstance(value, float) and math.isnan(value):
            raise ProtocolError("a value that is not a number")


_INFINITE = (math.inf, -math.inf)


def plain_text(text: str) -> str:
    r"""Printable text of bounded length: no escape sequence reaches a terminal.

    >>> plain_text("no\x1b[2Jcamera")
    'no?[2Jcamera'
    """
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_TEXT])
