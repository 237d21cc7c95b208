"""The vocabulary: closed, bounded, and harmless whatever bytes come."""

import json
import math
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilcam.camera import control
from veilcam.camera.control import ProtocolError, decode, encode
from veilcam.camera.link import Link, drain, open_pair

MESSAGES = [
    control.Begin(3, 2**40, 5),
    control.Ready(1, 720, 1280, 29.97, True),
    control.Go(1, False),
    control.Started(2),
    control.Wrote(1, 3, 2**60),
    control.Taken(1, 7),
    control.Ended(9),
    control.Lost(1, True),
    control.Resume(1, 44),
    control.Stalled(4),
    control.Stop(),
    control.Done(True),
    control.Failed(1, True, "no camera 3"),
    control.Barriers({"landlock": "up (ABI 7)"}),
    control.Report(1, {"frames_in": 3, "latency_ms": {"total": {"p50": 1.5}}, "name": "face"}),
    control.Log(30, "said once"),
    control.Setup({"source": "demo", "profile": {}}, "ab" * 32),
    control.Wish("face", "strict", "an old man with glasses"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_comes_back_as_it_was(message: control.Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=300))
def test_noise_is_refused(packet: bytes) -> None:
    try:
        message = decode(packet)
    except ProtocolError:
        return
    assert decode(encode(message)) == message


@given(st.sampled_from(MESSAGES), st.integers(0, 10**6), st.integers(0, 255))
def test_one_wrong_byte_gives_a_message_or_an_error(message, place, value) -> None:
    packet = bytearray(encode(message))
    packet[place % len(packet)] = value
    try:
        decode(bytes(packet))
    except ProtocolError:
        return


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_cut_or_longer_packet_is_refused(message: control.Message) -> None:
    packet = encode(message)
    for wrong in (packet[:-1], packet + b"\0", packet[:2], b""):
        with pytest.raises(ProtocolError):
            decode(wrong)


def json_packet(kind: int, value: object) -> bytes:
    body = json.dumps(value).encode()
    return struct.pack("<BBH", 1, kind, len(body)) + body


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (22, {"epoch": 1, "values": {"a": math.nan}}),
        (22, {"epoch": 1, "values": {"a": math.inf}}),
        (22, {"epoch": 1, "values": {"a": [1, 2]}}),
        (22, {"epoch": 1, "values": {"a": {"b": {"c": {"d": 1}}}}}),
        (22, {"epoch": 1, "values": {"a\x1b[2J": 1}}),
        (22, {"epoch": 1, "values": {str(n): n for n in range(201)}}),
        (22, {"epoch": 1.5, "values": {}}),
        (22, {"epoch": 1}),
        (22, {"epoch": 1, "values": {}, "more": 1}),
        (22, [1]),
        (21, {"state": {"landlock": 1}}),
        (20, {"epoch": 1, "is_input": 1, "text": ""}),
    ],
)
def test_json_of_another_shape_is_refused(kind: int, value: object) -> None:
    with pytest.raises(ProtocolError):
        decode(json_packet(kind, value))


@pytest.mark.parametrize(
    "change", [{"height": 0}, {"width": 9000}, {"fps": math.nan}, {"fps": 0.0}, {"fps": -1.0}]
)
def test_impossible_pictures_are_refused(change: dict[str, float]) -> None:
    values = {"epoch": 1, "height": 10, "width": 10, "fps": 30.0, "is_live": True} | change
    with pytest.raises(ProtocolError, match="impossible"):
        decode(encode(control.Ready(**values)))  # type: ignore[arg-type]


def test_no_packet_has_room_for_a_picture() -> None:
    with pytest.raises(ValueError, match="wanted < 8192"):
        encode(control.Report(1, {"a": "x" * 9000}))
    with pytest.raises(ProtocolError):
        decode(encode(control.Report(1, {"a": "x" * 5000})))


def test_texts_cannot_steer_a_terminal() -> None:
    message = decode(json_packet(20, {"epoch": 1, "is_input": True, "text": "a\x1b[2J\n" * 200}))
    assert isinstance(message, control.Failed)
    assert message.text.isprintable()
    assert len(message.text) <= control.MAX_TEXT


def test_a_channel_keeps_borders_tells_its_end_and_never_waits() -> None:
    ours, theirs = (Link(number) for number in open_pair())
    assert ours.receive() is None
    assert all(theirs.send(control.Taken(1, n)) for n in range(3))
    assert [ours.receive() for _ in range(4)] == [*(control.Taken(1, n) for n in range(3)), None]
    while theirs.send(control.Stop()):
        pass  # full: it says so
    drain(ours.fileno())
    assert ours.receive() is None
    os.write(theirs.fileno(), b"garbage")
    with pytest.raises(ProtocolError):
        ours.receive()
    theirs.close()
    with pytest.raises(EOFError):
        ours.receive()
    assert not ours.send(control.Stop())
    ours.close()
