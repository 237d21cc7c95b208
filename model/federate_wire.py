"""What travels in a federation, counted and told: payloads, replies that are broken, rounds."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from veilcam.camera.errors import VeilcamError

Payload = dict[str, Any]  # flat: numbers, strings, bytes and lists of them
Exchange = Callable[[Mapping[str, Payload], float], dict[str, Payload]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a round came to.

    Attributes:
        index: Rounds paid, this one included.
        outcome: `applied`, or why not.
        asked, announced, shared, summed: Nodes left after each stage.
        bytes_down, bytes_up: Of payloads to and from all nodes.
        norm: Of the noisy sum; 0 where there is none.
        seconds: From draw to step.
        refusals: What nodes answered instead of taking part.
    """

    index: int
    outcome: str
    asked: int
    announced: int
    shared: int
    summed: int
    bytes_down: int
    bytes_up: int
    norm: float
    seconds: float
    refusals: dict[str, str]


@contextmanager
def blame(name: str, refusals: dict[str, str]) -> Iterator[None]:
    """A node whose reply is broken is left out, with the reason."""
    try:
        yield
    except (VeilcamError, KeyError, TypeError, ValueError) as error:
        refusals[name] = f"broken reply: {type(error).__name__} {error}"[:300]


def payload_bytes(payload: Mapping[str, Any]) -> int:
    """Bytes of names and values, without the carrier's own."""

    def size(value: Any) -> int:
        if isinstance(value, (bytes, str)):
            return len(value)
        return sum(map(size, value)) if isinstance(value, list) else 8

    return sum(len(key) + size(value) for key, value in payload.items())


def one_line(report: Round, rounds: int) -> str:
    """A round for people."""
    told = (
        f"round {report.index}/{rounds}: {report.outcome}; asked {report.asked}, in the sum "
        f"{report.summed}; {report.bytes_up + report.bytes_down:,} bytes; {report.seconds:.1f} s"
    )
    for name, reason in report.refusals.items():
        told += f"\n  {name}: {reason}"
    return told
