"""TLS of the page and of the stream: by real processes, and what is refused."""

import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="extra `serve` is not installed")
pytest.importorskip("cryptography", reason="extra `serve` is not installed")
if not sys.platform.startswith("linux"):
    pytest.skip("serving needs Linux", allow_module_level=True)

from veilcam.camera import cli, tls
from veilcam.camera.errors import ConfigError


@contextmanager
def running(folder: Path, *arguments: str, **more: str) -> Iterator[tuple[str, int, str]]:
    """A command that serves: all it said until its address, the port, and its certificate."""
    code = "from veilcam.camera.cli import main; main()"
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder)} | more
    log = folder / "stderr"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments, "--json"],
            env=environment, stderr=errors, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        for _ in range(1200):
            if (found := re.search(r"https://\S+?:(\d+)/", log.read_text())) is not None:
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        assert found is not None, log.read_text()
        yield log.read_text(), int(found[1]), (folder / "veilcam" / "tls.pem").read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def ask(
    port: int, certificate: str, method: str, path: str, body: str | None = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """An answer of the server, whose certificate has to be that one and name this machine."""
    context = ssl.create_default_context(cadata=certificate.partition("-----BEGIN PRIVATE")[0])
    # the port is bound before the process that answers is up: until then it waits
    link = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
    try:
        link.request(method, path, body, headers)
        answer = link.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        link.close()


def test_the_page_by_its_own_certificate_has_a_secure_cookie(tmp_path: Path) -> None:
    with running(tmp_path, "serve", "demo", "--port", "0", "--tls", "self-signed") as (
        said, port, certificate,
    ):  # fmt: skip
        assert tls.fingerprint(certificate.encode()) in said
        password = re.search(r"Password: (\S+)", said)
        assert password is not None
        sent = {"Origin": f"https://localhost:{port}", "Content-Type": "application/json"}
        body = json.dumps({"password": password[1]})
        status, headers, _ = ask(port, certificate, "POST", "/api/login", body, **sent)
        assert status == 200
        cookie = headers["set-cookie"]
        assert {"Secure", "HttpOnly", "SameSite=strict"} <= {p.strip() for p in cookie.split(";")}
        plain = http.client.HTTPConnection("localhost", port, timeout=30)
        plain.request("GET", "/")
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            plain.getresponse()
        with pytest.raises(ssl.SSLCertVerificationError):  # the control: somebody else's
            ask(port, tls._made(["localhost"]).decode(), "GET", "/")


def test_the_stream_by_its_own_certificate(tmp_path: Path) -> None:
    more = {"VEILCAM_STREAM_TLS": "self-signed"}
    with running(tmp_path, "run", "demo", "--sink", "web:0", **more) as (_, port, certificate):
        for _ in range(200):
            status, _, data = ask(port, certificate, "GET", "/snapshot.jpg")
            if status == 200:
                break
            time.sleep(0.05)  # no picture yet
        assert data[:3] == b"\xff\xd8\xff"


def test_a_certificate_is_kept_for_its_names_and_from_others(tmp_path: Path) -> None:
    first = tls.self_signed(["localhost", "127.0.0.1"], tmp_path)
    assert tls.self_signed(["localhost"], tmp_path) == first
    second = tls.self_signed(["localhost", "cam.local"], tmp_path)
    assert tls.fingerprint(second) != tls.fingerprint(first)
    assert tls.self_signed(["127.0.0.1", "localhost"], tmp_path) == second  # earlier names stay
    (tmp_path / "tls.pem").write_bytes(b"broken")
    assert tls.self_signed(["localhost"], tmp_path).startswith(b"-----BEGIN CERTIFICATE")
    path = tmp_path / "tls.pem"
    path.chmod(0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["tls.pem"]
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read"):
        tls.self_signed(["localhost"], tmp_path)


def test_chains_that_cannot_be_served_with_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (tls._made(["localhost"]).decode() for _ in range(2))
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_text(one.partition("-----BEGIN PRIVATE")[0])
    key.write_text("-----BEGIN PRIVATE" + other.partition("-----BEGIN PRIVATE")[2])
    with pytest.raises(ConfigError, match="KEY_VALUES_MISMATCH"):
        tls.read_pem(chain, key)
    with pytest.raises(ConfigError, match="wanted a PEM chain and its key"):
        tls.read_pem(chain, None)
    with pytest.raises(ConfigError, match="cannot be read"):
        tls.read_pem(tmp_path / "gone.pem", key)
    assert cli.call(["serve", "demo", "--tls-key", str(key)]) == 2
    assert "wanted --tls-cert too" in capsys.readouterr().err
    assert cli.call(["serve", "demo", "--tls", "self-signed", "--tls-cert", str(chain)]) == 2
    assert "one of the two ways" in capsys.readouterr().err
