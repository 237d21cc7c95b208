"""Password, sessions, tries, wire, stream and strings of the page, each on its own."""

import asyncio
import json
import os
import re
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="extra `serve` is not installed")
if not sys.platform.startswith("linux"):
    pytest.skip("the page needs Linux", allow_module_level=True)

import veilcam.camera.web
from veilcam.camera import serve_password
from veilcam.camera.errors import ConfigError, InputError, SinkError
from veilcam.camera.serve_app import STATIC
from veilcam.camera.serve_guard import own_names
from veilcam.camera.serve_session import Sessions, Tries, is_token
from veilcam.camera.serve_wire import Parcel, Wire, WireError, has_mail, say_lost
from veilcam.camera.serve_words import unknown_words
from veilcam.camera.sink_web import Stream, WebSink, listen, parse_address
from veilcam.camera.strength import CHOICES
from veilcam.camera.types import Frame, SafeFrame

WEB = Path(veilcam.camera.web.__file__).parent


# --- password --------------------------------------------------------------------------------


def test_the_password_is_kept_as_a_hash_only_its_owner_reads(tmp_path: Path) -> None:
    path = serve_password.save("correct horse battery", tmp_path / "veilcam" / "password")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    assert "horse" not in path.read_text()
    stored = serve_password.load(path)
    assert stored is not None
    assert serve_password.is_right("correct horse battery", stored)
    for wrong in ("correct horse batterz", "", "x" * 5000, "correct horse battery\0"):
        assert not serve_password.is_right(wrong, stored)
    assert [p.name for p in path.parent.iterdir()] == ["password"]  # no temporary is left


def test_a_password_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = serve_password.save("correct horse battery", tmp_path / "password")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        serve_password.load(path)
    path.write_text("secret")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="set-password"):
        serve_password.load(path)
    assert serve_password.load(tmp_path / "none") is None


@pytest.mark.parametrize("password", ["", "short", "x" * 201])
def test_a_short_password_is_not_taken(tmp_path: Path, password: str) -> None:
    with pytest.raises(ConfigError, match="wanted 10 to 200"):
        serve_password.save(password, tmp_path / "password")
    assert list(tmp_path.iterdir()) == []


def test_generated_passwords_differ_and_can_be_typed() -> None:
    found = {serve_password.generate() for _ in range(200)}
    assert len(found) == 200
    for password in found:
        assert re.fullmatch(r"([a-z2-9]{4}-){3}[a-z2-9]{4}", password)
        serve_password.check_new(password)


# --- sessions --------------------------------------------------------------------------------


def test_a_session_is_found_by_its_cookie_alone_and_ends() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    token, session = sessions.start()
    assert sessions.find(token) is session
    assert token not in str(sessions._by_hash)  # only its hash is kept
    assert sessions.find(token[:-1]) is None
    assert sessions.find("") is None
    assert is_token(session, session.csrf)
    assert not is_token(session, "")
    assert not is_token(session, session.csrf + "\udc80")
    now[0] = 13 * 3600.0
    assert sessions.find(token) is None  # idle for too long
    token, _ = sessions.start()
    for _ in range(20):
        now[0] += 10 * 3600.0
        found = sessions.find(token)
    assert found is None  # however busy, a week is the end


def test_there_are_never_more_sessions_than_the_limit() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    tokens = []
    for _ in range(100):
        now[0] += 1
        tokens.append(sessions.start()[0])
    assert sum(sessions.find(token) is not None for token in tokens) == 64
    assert sessions.find(tokens[-1]) is not None


def test_tries_fill_up_again_and_are_counted_by_household() -> None:
    now = [0.0]
    tries = Tries(lambda: now[0])
    assert [tries.wait_s("192.0.2.7") for _ in range(6)][:5] == [0.0] * 5
    assert 0 < tries.wait_s("192.0.2.7") <= 12.0
    assert tries.wait_s("192.0.2.8") == 0.0
    now[0] = 12.5
    assert tries.wait_s("192.0.2.7") == 0.0
    assert tries.wait_s("192.0.2.7") > 0
    tries.forgive("192.0.2.7")
    assert tries.wait_s("192.0.2.7") == 0.0
    found = [tries.wait_s(f"2001:db8::{n:x}") for n in range(8)]
    assert found[5] > 0  # one household, whatever its addresses
    for n in range(5000):
        tries.wait_s(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert len(tries._left) <= 4096


def test_a_server_knows_its_names() -> None:
    found = own_names("0.0.0.0", ["Cam.Example.org."])
    assert {"localhost", socket.gethostname().lower(), "cam.example.org"} <= found
    assert "" not in found


# --- wire ------------------------------------------------------------------------------------


@pytest.fixture
def ends():
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield [end.fileno() for end in pair]
    for end in pair:
        end.close()


def wires(ends, max_bytes: int = 1 << 20) -> tuple[Wire, Wire]:
    return (
        Wire(ends[0], is_asking=True, max_bytes=max_bytes),
        Wire(ends[1], is_asking=False, max_bytes=max_bytes),
    )


@pytest.mark.parametrize("size", [0, 1, 60_000, 60_001, 700_000])
def test_a_file_crosses_the_wire_whole(ends, size: int) -> None:
    ask, answer = wires(ends)
    data = np.random.default_rng(size).bytes(size)
    sender = threading.Thread(target=ask.send, args=(Parcel(7, {"kind": "PNG"}, data), 10.0))
    sender.start()
    got = answer.receive(10.0)
    sender.join()
    assert got is not None
    assert (got.job, got.note, got.data) == (7, {"kind": "PNG"}, data)
    assert "withheld" in repr(got)


def test_pieces_of_a_lost_job_are_passed_over(ends) -> None:
    ask, answer = wires(ends)
    ask.send(Parcel(1, {}, b"x" * 60_000), 1.0)
    os.read(ends[1], 100_000)  # its head went down with the process that read it
    ask.send(Parcel(2, {}, b"whole"), 1.0)
    got = answer.receive(1.0)
    assert got is not None
    assert (got.job, got.data) == (2, b"whole")


def test_who_waits_is_told_when_the_process_died(ends) -> None:
    ask, _ = wires(ends)
    say_lost(ends[1])
    assert has_mail(ends[0])
    with pytest.raises(WireError, match="ended"):
        ask.receive(1.0, job=5)
    say_lost(ends[1])
    ask.drain()
    assert not has_mail(ends[0])
    with pytest.raises(WireError, match="in time"):
        ask.receive(0.05, job=5)


def test_what_is_no_parcel_is_refused(ends) -> None:
    from veilcam.camera.serve_wire import _HEAD

    ask, _ = wires(ends)
    for note in (b"{", b"[]", b"[" * 3000, b'{"length": -1}', b'{"length": 1e9}', b"{}",
                 b'{"length": 2000000}', b'{"length": 1, "a": {"b": 1}}', b"x" * 5000):  # fmt: skip
        os.write(ends[1], _HEAD.pack(b"R", 5) + note)
        with pytest.raises(WireError):
            ask.receive(1.0, job=5)
    for pieces in ([(b"P", 6, b"abc")], [(b"P", 5, b"abcd")], [(b"R", 5, b"abc")]):
        os.write(ends[1], _HEAD.pack(b"R", 5) + b'{"length": 3}')
        for kind, job, body in pieces:
            os.write(ends[1], _HEAD.pack(kind, job) + body)
        with pytest.raises(WireError):
            ask.receive(1.0, job=5)


@given(st.binary(min_size=1, max_size=80))
def test_noise_on_the_wire_is_no_parcel(noise: bytes) -> None:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ask, _ = wires([end.fileno() for end in pair])
    os.write(pair[1].fileno(), noise)
    try:
        with pytest.raises(WireError):
            ask.receive(0.0, job=5)
    finally:
        for end in pair:
            end.close()


# --- stream ----------------------------------------------------------------------------------


def safe_frame(level: int) -> SafeFrame:
    blank = SafeFrame.blank((48, 64), index=0, time_s=0.0, reason="test")
    return SafeFrame(np.full((48, 64, 3), level, np.uint8), 0, 0.0, "", blank.maker)


def level_of(jpeg: bytes) -> float:
    import cv2

    return float(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).mean())


def test_a_slow_reader_misses_pictures_and_holds_nobody_up() -> None:
    stream = Stream()
    sink = WebSink(stream)

    async def read() -> list[float]:
        found = []
        pictures = stream.pictures()
        sink.write(safe_frame(10))
        found.append(level_of(await anext(pictures)))
        for level in range(11, 200):  # nobody reads meanwhile
            sink.write(safe_frame(level))
        while found[-1] < 198:
            found.append(level_of(await anext(pictures)))
        stream.close()
        assert [picture async for picture in pictures] == []
        return found

    found = asyncio.run(read())
    assert found == sorted(found)
    assert abs(found[-1] - 199) < 2
    assert len(found) < 100
    assert stream.num_readers == 0


def test_nothing_is_encoded_while_nobody_looks() -> None:
    stream = Stream()
    for level in range(50):
        stream.offer(safe_frame(level))
    assert stream.num_encoded == 0
    jpeg = asyncio.run(stream.snapshot())
    assert jpeg is not None
    assert abs(level_of(jpeg) - 49) < 2  # the newest, though it was offered before anyone asked
    stream.close()
    assert asyncio.run(Stream().snapshot()) is None


def test_the_stream_takes_safe_frames_only() -> None:
    stream = Stream()
    raw = Frame(np.zeros((48, 64, 3), np.uint8), 0, 0.0)
    with pytest.raises(Exception, match="SafeFrame"):
        stream.offer(raw)  # type: ignore[arg-type]
    stream.close()


@pytest.mark.parametrize("spec", ["web:x", "web:70000", "web:-1", "web:127.0.0.1:", "web:a:b:c"])
def test_a_port_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(SinkError, match="port"):
        parse_address(spec, "web", default=8080)


def test_a_taken_port_is_told() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SinkError, match=f"port {port}: Address already in use"):
            listen("127.0.0.1", port)
    with pytest.raises(SinkError, match="no address"):
        listen("no.such.host.invalid.", 0)


# --- words and files of the page -------------------------------------------------------------


def test_words_that_are_not_known_are_told() -> None:
    pytest.importorskip("veilcam.camera.text_tokens")
    words = ("man", "old", "glasses")
    assert unknown_words("an old man with glasses and wings", words) == ("wings",)
    assert unknown_words("", ()) == ()
    for prompt, table in (("wings", words), ("x" * 201, words), ("old\nman", words), ("old", ())):
        with pytest.raises(InputError):
            unknown_words(prompt, table)


def tables() -> dict[str, dict[str, str]]:
    value: dict[str, dict[str, str]] = json.loads((WEB / "strings.json").read_text("utf-8"))
    return value


def test_every_language_has_every_text_with_the_same_gaps() -> None:
    english = tables()["en"]
    for name, table in tables().items():
        assert set(table) == set(english), name
        for key, text in table.items():
            assert text.strip() == text != ""
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[key]))
    assert all(re.search("[\u4e00-\u9fff]", text) for key, text in tables()["zh"].items()
               if key != "prompt.example")  # fmt: skip


def test_every_text_that_is_shown_is_there() -> None:
    known = set(tables()["en"])
    html = (WEB / "index.html").read_text()
    used = set(re.findall(r'data-t(?:-[a-z]+)?="([^"]+)"', html))
    scripts = "".join((WEB / name).read_text() for name in STATIC if name.endswith(".js"))
    used |= set(re.findall(r"\bt\('([^'$]+)'", scripts))
    used |= {f"strength.{name.value}{more}" for name in CHOICES for more in ("", ".more")}
    assert used <= known
    assert len(used) >= 80


def test_the_page_loads_nothing_from_elsewhere_and_parses_no_text_as_html() -> None:
    files = {name: (WEB / name).read_text() for name in STATIC}
    for name, text in files.items():
        found = set(re.findall(r"(?:https?:)?//[a-z][\w.]+\.\w+", text))
        assert found <= {"http://www.w3.org"}, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(", text)
        assert not re.search(r"\bon\w+=|\bstyle=|javascript:|@import|url\(", text), name
    assert "<script>" not in files["index.html"]


def test_static_files_are_all_there_are() -> None:
    there = {path.name for path in WEB.iterdir() if path.suffix != ".py" and path.is_file()}
    assert there == set(STATIC)
