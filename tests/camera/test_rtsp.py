"""The RTSP server at the level of its bytes: packets, login, and clients that misbehave."""

import hashlib
import re
import socket
import struct
import time
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilcam.camera import rtsp_server
from veilcam.camera.rtsp_login import Login, kept
from veilcam.camera.rtsp_packets import (
    description,
    nal_units,
    packets,
    parameter_sets,
    sender_report,
)
from veilcam.camera.rtsp_server import MAX_READERS, RtspServer

SPS, PPS, IDR, P = b"\x67\x42\xc0\x1f", b"\x68\xce\x3c\x80", b"\x65\x88", b"\x41\x9a"
URL = "rtsp://127.0.0.1/veilcam"


def unit(*nals: bytes) -> bytes:
    return b"".join(b"\0\0\0\1" + nal for nal in nals)


KEY = unit(SPS, PPS, IDR + bytes(range(1, 200)))


class Client:
    """One connection that says what a test wants."""

    def __init__(self, port: int) -> None:
        self.link = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.number, self.rest = 0, b""

    def ask(self, method: str, url: str = URL, **headers: str) -> tuple[int, dict[str, str], bytes]:
        self.number += 1
        lines = [f"{method} {url} RTSP/1.0", f"CSeq: {self.number}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.link.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self.rest:
            self._more()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        first, *others = head.decode().split("\r\n")
        found = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in others)}
        assert found["cseq"] == str(self.number)
        return int(first.split()[1]), found, self.exactly(int(found.get("content-length", "0")))

    def exactly(self, size: int) -> bytes:
        while len(self.rest) < size:
            self._more()
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    def packet(self) -> tuple[int, bytes]:
        mark, channel, size = struct.unpack(">cBH", self.exactly(4))
        assert mark == b"$"
        return channel, self.exactly(size)

    def play(self) -> None:
        assert self.ask("DESCRIBE")[0] == 200
        status, found, _ = self.ask("SETUP", f"{URL}/track0", Transport="RTP/AVP/TCP;unicast")
        assert status == 200
        assert self.ask("PLAY", Session=found["session"])[0] == 200

    def _more(self) -> None:
        data = self.link.recv(1 << 16)
        if not data:
            raise EOFError
        self.rest += data


@contextmanager
def serving(known: str = "", key: bytes = KEY):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = RtspServer(listener.fileno(), known=known)
        server.offer(key, is_key=True, time_s=1.0)
        try:
            yield server, listener.getsockname()[1]
        finally:
            server.close()
            assert not server.is_alive


@given(
    st.lists(st.binary(min_size=1, max_size=9000), min_size=1, max_size=4), st.integers(0, 65535)
)
def test_what_is_cut_into_packets_can_be_put_together_again(bodies, first) -> None:
    nals = [b"\x65" + body for body in bodies]
    found = packets(nals, first=first, time=2**32 + 7, source=5)
    joined: list[bytes] = []
    for number, packet in enumerate(found):
        assert len(packet) <= 12 + 1400
        flags, kind, sequence, ticks, source = struct.unpack(">BBHII", packet[:12])
        assert (flags, kind & 127, sequence) == (0x80, 96, (first + number) & 0xFFFF)
        assert (ticks, source, kind >> 7) == (7, 5, int(number == len(found) - 1))
        payload = packet[12:]
        if payload[0] & 31 != 28:
            joined.append(payload)
        elif payload[1] & 0x80:
            joined.append(bytes((payload[0] & 0xE0 | payload[1] & 31,)) + payload[2:])
        else:
            joined[-1] += payload[2:]
    assert joined == nals


def test_start_codes_of_both_lengths_part_units() -> None:
    assert nal_units(b"\0\0\1" + SPS + b"\0\0\0\1" + PPS + b"\0\0\1" + IDR) == [SPS, PPS, IDR]
    assert parameter_sets([SPS, PPS, IDR]) == (SPS, PPS)
    assert parameter_sets([IDR]) is None
    assert b"profile-level-id=42C01F;sprop-parameter-sets=Z0LAHw==,aM48gA==" in description(
        (SPS, PPS), track="t"
    )


def test_a_report_ties_the_stream_to_the_wall_clock() -> None:
    data = sender_report(source=9, wall_s=1.5, time=2**32 + 3, num_packets=4, num_bytes=5)
    _, kind, words, source, seconds, part, ticks, num, size = struct.unpack(">BBHIIIIII", data[:28])
    assert (kind, words, source, ticks, num, size) == (200, 6, 9, 3, 4, 5)
    assert (seconds, part) == (2_208_988_801, 1 << 31)
    assert len(data) % 4 == 0
    assert len(data) == 28 + 4 * (1 + struct.unpack(">H", data[30:32])[0])


def answer(login: Login, password: str, method: str, *, user: str = "veilcam") -> str:
    nonce = re.search('nonce="(.*?)"', login.challenge)[1]
    ha1, ha2 = (
        hashlib.md5(text.encode()).hexdigest()
        for text in (f"{user}:Veilcam:{password}", f"{method}:{URL}")
    )
    response = hashlib.md5(f"{ha1}:{nonce}:{ha2}".encode()).hexdigest()
    return f'Digest username="{user}", nonce="{nonce}", uri="{URL}", response="{response}"'


def test_the_login_knows_right_from_wrong_and_keeps_to_its_connection() -> None:
    known = kept("long enough")
    login, other = Login(known), Login(known)
    right = answer(login, "long enough", "DESCRIBE")
    assert not other.check("DESCRIBE", right), "an answer of another connection"
    assert not login.check("PLAY", right), "an answer to another question"
    wrong = [answer(login, "", "DESCRIBE"), answer(login, "long enough", "DESCRIBE", user="root")]
    for sent in (*wrong, "", "Digest", "Basic dmVpbGNhbTo=", 'Digest username="veilcam"'):
        assert not login.check("DESCRIBE", sent)
        assert not login.is_in
    assert login.check("DESCRIBE", right)
    assert login.is_in
    assert Login("").is_in
    assert kept("") == ""


def test_without_the_password_nothing_is_told_and_guesses_are_slowed_down() -> None:
    with serving(kept("long enough")) as (server, port):
        client = Client(port)
        assert client.ask("OPTIONS")[0] == 200
        for method in ("DESCRIBE", "SETUP", "PLAY", "GET_PARAMETER", "TEARDOWN"):
            status, found, body = client.ask(method, Transport="RTP/AVP/TCP")
            assert (status, body) == (401, b"")
            assert 'Digest realm="Veilcam"' in found["www-authenticate"]
        assert not server.is_watched
        statuses = [client.ask("DESCRIBE", Authorization="Digest x")[0] for _ in range(8)]
        assert statuses[0] == 401
        assert statuses[-1] == 503


def test_a_reader_gets_pictures_from_a_key_frame_on() -> None:
    with serving() as (server, port):
        client = Client(port)
        client.play()
        deadline_s = time.monotonic() + 20
        while not server.wants_key.is_set():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        time.sleep(0.1)
        server.offer(unit(P + b"late"), is_key=False, time_s=2.0)
        server.offer(KEY, is_key=True, time_s=3.0)
        server.offer(unit(P + b"next"), is_key=False, time_s=3.5)
        channel, report = client.packet()
        assert (channel, report[1]) == (1, 200)
        found = [client.packet() for _ in range(4)]
        assert [channel for channel, _ in found] == [0] * 4
        assert [packet[12:][:4] for _, packet in found] == [SPS, PPS, IDR + b"\1\2", P + b"ne"]
        times = [struct.unpack(">I", packet[4:8])[0] for _, packet in found]
        assert times[0] == times[1] == times[2]
        assert (times[3] - times[0]) % 2**32 == 45_000
        client.link.sendall(b"$\1\0\4\x80\xc9\0\1")  # what players report
        assert client.ask("GET_PARAMETER", Session="wrong")[0] == 454


@pytest.mark.parametrize(
    ("method", "url", "headers", "status"),
    [("DESCRIBE", "rtsp://127.0.0.1/other", {}, 404), ("RECORD", URL, {}, 405),
     ("SETUP", f"{URL}/track0", {"Transport": "RTP/AVP;unicast;client_port=5000-5001"}, 461),
     ("SETUP", f"{URL}/track0", {"Transport": "RTP/AVP/TCP;interleaved=255-256"}, 461),
     ("PLAY", URL, {"Session": "x"}, 454)],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_status(method, url, headers, status) -> None:
    with serving() as (_, port):
        assert Client(port).ask(method, url, **headers)[0] == status


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\1\0", b"OPTIONS * RTSP/1.0\r\n" + b"x" * 20000,
     b"OPTIONS * RTSP/1.0\r\nContent-Length: 999999\r\n\r\n", b"\xff" * 100 + b"\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_rtsp_ends_its_connection_alone(sent: bytes, monkeypatch) -> None:
    monkeypatch.setattr(rtsp_server, "_IDLE_S", 0.5)
    with serving() as (server, port):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
            link.sendall(sent)
            with suppress(ConnectionResetError):
                assert link.recv(100) == b""
        assert Client(port).ask("OPTIONS")[0] == 200
        assert server.is_alive


def test_there_is_room_for_so_many_readers_and_a_place_becomes_free() -> None:
    with serving() as (server, port):
        clients = [Client(port) for _ in range(MAX_READERS)]
        for client in clients:
            client.play()
        assert Client(port).ask("DESCRIBE")[0] == 503
        clients[0].link.close()
        deadline_s = time.monotonic() + 20
        while len(server.readers) == MAX_READERS:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        Client(port).play()


def test_connections_that_want_nothing_do_not_use_up_what_there_is(monkeypatch) -> None:
    monkeypatch.setattr(rtsp_server, "_MAX_OPEN", 3)
    with serving() as (_, port):
        idle = [Client(port) for _ in range(3)]
        assert all(client.ask("OPTIONS")[0] == 200 for client in idle)
        with pytest.raises((EOFError, ConnectionError)):
            Client(port).ask("OPTIONS")
        idle[0].link.close()
        deadline_s = time.monotonic() + 20
        while True:
            try:
                assert Client(port).ask("OPTIONS")[0] == 200
                break
            except (EOFError, ConnectionError):
                assert time.monotonic() < deadline_s


def test_a_reader_that_takes_nothing_loses_pictures_then_its_place(monkeypatch) -> None:
    monkeypatch.setattr(rtsp_server, "_STUCK_S", 0.2)
    big = unit(SPS, PPS, IDR + b"\1" * 1_000_000)
    with serving(key=big) as (server, port):
        stuck, good = Client(port), Client(port)
        stuck.play()
        good.play()
        deadline_s = time.monotonic() + 60
        while len(server.readers) > 1:
            assert time.monotonic() < deadline_s
            server.offer(big, is_key=True, time_s=time.monotonic())
            num = 0
            while num < 1_000_000:  # the one that reads gets every byte of it
                channel, packet = good.packet()
                num += 0 if channel else len(packet) - 14
        assert server.num_lost > 0
