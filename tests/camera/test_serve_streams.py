"""`run --sink web` and `--sink rtsp`, read by real clients."""

import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="extra `serve` is not installed")
if not sys.platform.startswith("linux"):
    pytest.skip("serving needs two processes", allow_module_level=True)

from veilcam.camera import landlock, seccomp
from veilcam.camera.errors import SinkError
from veilcam.camera.rtsp_login import PASSWORD_VARIABLE
from veilcam.camera.sink_rtsp import Encoder
from veilcam.camera.sink_served import TLS_VARIABLE, opened_for, opener_of


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parts = load("serve_parts")


@contextmanager
def running(folder: Path, sink: str, **environment: str):
    """A `veilcam run demo` with a sink; gives the address it told and the process."""
    code = "from veilcam.camera.cli import main; main()"
    command = [sys.executable, "-c", code, "run", "demo", "--sink", sink, "--json"]
    errors = folder / "stderr"
    with errors.open("w") as file:
        process = subprocess.Popen(
            command, env=os.environ | environment, stderr=file, stdout=subprocess.PIPE, cwd=folder
        )
    try:
        while not (found := re.search(r"stream: (\S+?)[,\s]", errors.read_text())):
            assert process.poll() is None, errors.read_text()
            time.sleep(0.05)
        yield found[1], process
    finally:
        process.kill()
        process.communicate()


def frames_of(address: str, number: int, **options: str) -> list[np.ndarray]:
    """So many pictures of a stream; it may need some time to come up."""
    for _ in range(40):
        try:
            with av.open(address, options=options, timeout=20) as container:
                found = []
                for frame in container.decode(video=0):
                    found.append(frame.to_ndarray(format="bgr24"))
                    if len(found) == number:
                        return found
        except (av.error.FFmpegError, OSError):
            time.sleep(0.25)
    raise AssertionError(f"{address} gives no pictures")


def test_the_web_sink_streams_and_ends_cleanly(tmp_path: Path) -> None:
    with running(tmp_path, "web:0") as (address, process):
        found = frames_of(address, 5)
        assert found[0].shape == (480, 640, 3)
        assert any((found[0] != other).any() for other in found[1:])
        host = address.split("/")[2]
        for path, status in (("/snapshot.jpg", 200), ("/", 404), ("/api/status", 404)):
            link = http.client.HTTPConnection(host, timeout=20)
            link.request("GET", path)
            answer = link.getresponse()
            body = answer.read()
            assert answer.status == status
        link = http.client.HTTPConnection(host, timeout=20)
        link.request("GET", "/snapshot.jpg", headers={"Host": "evil.example"})
        assert link.getresponse().status == 421
        assert body  # 404 says something
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
        report = json.loads(out)
        assert report["frames_out"] > 0
        if landlock.abi_version() >= 1 and seccomp.is_available():
            assert report["barriers"]["missing"] == []
            assert report["barriers"]["publish"]["network"] == "up"


def test_a_password_is_asked_for_where_one_is_set(tmp_path: Path) -> None:
    with running(tmp_path, "web:0", **{PASSWORD_VARIABLE: "correct horse"}) as (address, _):
        host = address.split("/")[2]
        for sent, status in ((None, 401), ("wrong", 401), ("correct horse", 200)):
            link = http.client.HTTPConnection(host, timeout=30)
            coded = b64encode(f"veilcam:{sent}".encode()).decode()
            link.request(
                "GET", "/stream.mjpg", headers={"Authorization": f"Basic {coded}"} if sent else {}
            )
            assert link.getresponse().status == status
            link.close()


@pytest.mark.parametrize("kind", ["web", "rtsp"])
def test_an_open_address_without_a_password_is_refused(kind, monkeypatch) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with (
        pytest.raises(SinkError, match=f"open to the network.*{PASSWORD_VARIABLE}"),
        opened_for(f"{kind}:0.0.0.0:8554"),
    ):
        pass
    with opened_for("null") as handed:
        assert handed == {}


def test_rtsp_serves_several_readers_and_forgets_them(tmp_path: Path) -> None:
    with running(tmp_path, "rtsp:0") as (address, process):
        assert "missing" not in (tmp_path / "stderr").read_text()
        first = frames_of(address, 8, rtsp_transport="tcp")
        assert first[0].shape == (480, 640, 3)
        assert any((first[0] != other).any() for other in first[1:])
        opened = [av.open(address, options={"rtsp_transport": "tcp"}, timeout=20) for _ in "ab"]
        for container in opened:
            assert next(container.decode(video=0)).width == 640
            container.close()
        assert frames_of(address, 3, rtsp_transport="tcp")  # after all have left
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
        report = json.loads(out)
        assert report["frames_blank"] == 0
        assert report["restarts"] == {"capture": 0, "publish": 0}
    assert process.returncode == 130


@pytest.mark.slow
def test_rtsp_with_a_password_refuses_who_does_not_know_it(tmp_path: Path) -> None:
    with running(tmp_path, "rtsp:0", **{PASSWORD_VARIABLE: "correct-horse"}) as (address, _):
        known = address.replace("//", "//veilcam:correct-horse@")
        assert frames_of(known, 2, rtsp_transport="tcp")
        for refused in (address, address.replace("//", "//veilcam:wrong@")):
            with pytest.raises(av.error.HTTPUnauthorizedError):
                av.open(refused, options={"rtsp_transport": "tcp"}, timeout=20)
        told = (tmp_path / "stderr").read_text()
        assert "correct" not in told


@pytest.mark.slow
def test_a_reader_that_stands_still_holds_nobody_up(tmp_path: Path) -> None:
    with running(tmp_path, "rtsp:0") as (address, _):
        frames_of(address, 1, rtsp_transport="tcp")
        stuck = av.open(address, options={"rtsp_transport": "tcp"}, timeout=20)
        next(stuck.decode(video=0))  # and reads no more
        assert len(frames_of(address, 60, rtsp_transport="tcp")) == 60
        stuck.close()


def test_a_taken_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SinkError, match=f"port {port}: "), opened_for(f"rtsp:{port}"):
            pass


@pytest.mark.slow
def test_rtsp_with_tls_is_what_the_variable_asks_for(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="extra `serve` is not installed")
    variables = {TLS_VARIABLE: "self-signed", "XDG_CONFIG_HOME": str(tmp_path)}
    with running(tmp_path, "rtsp:0", **variables) as (address, _):
        assert address.startswith("rtsps://")
        assert frames_of(address, 3)
        with pytest.raises(av.error.FFmpegError):
            av.open(address.replace("rtsps", "rtsp"), options={"rtsp_transport": "tcp"}, timeout=5)


def test_nothing_is_encoded_while_nobody_looks_and_a_dead_server_is_told() -> None:
    with opened_for("rtsp:0") as handed:
        sink = opener_of("rtsp", handed["publish"])("rtsp", size_hw=(48, 64), fps=30.0)
        for _ in range(5):
            sink.write(parts.safe_frame())
        assert sink.counters == {"stream_sent": 0, "stream_lost": 0}
        sink.close()
        with pytest.raises(SinkError, match="ended"):
            sink.write(parts.safe_frame())
        with pytest.raises(TypeError, match="SafeFrame"):
            sink.write(np.zeros((48, 64, 3), np.uint8))


def test_units_start_with_a_key_frame_each_second_and_keep_the_time() -> None:
    encoder = Encoder((49, 65), 10.0)  # odd sides are cut
    found = []
    for number in range(31):
        bgr = np.full((49, 65, 3), number, np.uint8)
        found += encoder.encode(bgr, 5.0 + number / 10, must_be_key=number == 25)
    assert len(found) == 31  # without delay
    keys = [round(time_s * 10) for _, is_key, time_s in found if is_key]
    assert keys[0] == 50
    assert {60, 70, 75} <= set(keys)
    assert [round(time_s, 3) for _, _, time_s in found] == [5 + n / 10 for n in range(31)]
    decoder = av.CodecContext.create("h264", "r")
    pictures = [p for data, _, _ in found for p in decoder.decode(av.Packet(data))]
    pictures += decoder.decode(None)
    assert (len(pictures), pictures[0].width, pictures[0].height) == (31, 64, 48)
    assert abs(float(cv2.cvtColor(pictures[-1].to_ndarray(format="bgr24"), 6).mean()) - 30) < 4
