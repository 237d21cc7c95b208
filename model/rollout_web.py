"""Offers and reports over HTTPS: the server's handler and a device's end.

A device asks and reports; the server never calls a device. Reports are signed by the device's
registered key, so that nobody answers for another. What is on offer is no secret.
"""

import base64
import http.client
import json
import logging
import ssl
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec

from veilcam.camera.errors import ConfigError, InputError, VeilcamError
from veilcam.model.federate_keys import Identity, Roster, make_certificates
from veilcam.model.rollout_state import ReportRefused, Rollout

_log = logging.getLogger(__name__)
_HASH = ec.ECDSA(hashes.SHA256())
_MOST_BYTES, _TIMEOUT_S = 4096, 20.0
_PREFIX = b"veilcam rollout report/"


class ServerUnreachable(VeilcamError):
    """The server can't be asked now; the device goes on and tries again."""

    exit_code = 1


def sign_report(identity: Identity, told: Mapping[str, Any]) -> bytes:
    """The body of a report."""
    raw = json.dumps(told, sort_keys=True)
    signature = identity.key.sign(_message(identity.name, raw), _HASH)
    body = {"name": identity.name, "raw": raw, "signature": base64.b64encode(signature).decode()}
    return json.dumps(body).encode()


def open_report(roster: Roster, body: bytes) -> tuple[str, dict[str, Any]]:
    """Name and content of a report of a registered device.

    Raises:
        ReportRefused: It is malformed, or not signed by the device it names.
    """
    try:
        told = json.loads(body)
        name, raw = str(told["name"]), str(told["raw"])
        key = forms.load_ssh_public_key(roster.lines[name].encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)  # the roster has checked it
        key.verify(base64.b64decode(told["signature"]), _message(name, raw), _HASH)
        content = json.loads(raw)
        if not isinstance(content, dict):
            raise ValueError("no object")
    except InvalidSignature as error:
        raise ReportRefused("the report is not signed by the registered device") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ReportRefused(f"a malformed report or a stranger ({type(error).__name__})") from error
    return name, content


def _message(name: str, raw: str) -> bytes:
    return _PREFIX + name.encode().hex().encode() + b"/" + raw.encode()


class _Handler(BaseHTTPRequestHandler):
    server: "RolloutServer"
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        """`/v1/offer?name=N` or `/v1/file/SHA256`."""
        url, rollout = urlsplit(self.path), self.server.rollout
        if url.path == "/v1/offer":
            name = parse_qs(url.query).get("name", [""])[0]
            self._answer(200, json.dumps(rollout.told(name)).encode())
            return
        path = rollout.file(url.path.removeprefix("/v1/file/"))
        if path is None:
            self._answer(404, b'{"reason": "no such file on offer"}')
        else:
            self._answer(200, path.read_bytes())

    def do_POST(self) -> None:
        """`/v1/report`."""
        try:
            size = int(self.headers.get("Content-Length", ""))
            if self.path != "/v1/report" or not 0 < size <= _MOST_BYTES:
                raise ReportRefused("no report")
            name, told = open_report(self.server.rollout.roster, self.rfile.read(size))
            self.server.rollout.report(name, told)
        except (ReportRefused, ValueError) as error:
            self._answer(403, json.dumps({"reason": str(error)}).encode())
            return
        self._answer(200, b"{}")

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Devices that ask are not logged."""


class RolloutServer(ThreadingHTTPServer):
    """Serves a rollout by TLS with the federation's certificate; use `with`.

    Args:
        rollout: What is answered from.
        folder: Of `ca.crt`, `server.crt` and `server.key`; made where there are none.
        host: Address to listen at.
        port: TCP port; 0 takes a free one.
        names: Host names and addresses that a new certificate is good for.
    """

    daemon_threads = True

    def __init__(
        self, rollout: Rollout, folder: Path, *, host: str, port: int,
        names: tuple[str, ...] = ("localhost", "127.0.0.1"),
    ) -> None:  # fmt: skip
        self.rollout = rollout
        self.root = make_certificates(folder, names)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.crt", folder / "server.key")
        super().__init__((host, port), _Handler)

    def get_request(self) -> tuple[Any, Any]:
        """A connection whose handshake is done in its own thread."""
        plain, address = super().get_request()
        plain.settimeout(_TIMEOUT_S)
        wrapped = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is no fault of ours."""
        _log.debug("a connection broke off")

    def service_actions(self) -> None:
        """Twice a second: silence may decide a stage."""
        self.rollout.tick()


class Link:
    """A device's end.

    Args:
        server: HOST:PORT.
        root: The server's certificate authority.
        identity: The device's name and key.
    """

    def __init__(self, server: str, root: Path, identity: Identity) -> None:
        self._host, _, port = server.rpartition(":")
        self._identity = identity
        if not self._host or not port.isdigit():
            raise ConfigError(f"server {server!r}: wanted HOST:PORT")
        self._port = int(port)
        try:
            self._context = ssl.create_default_context(cafile=str(root))
        except OSError as error:  # SSLError is one
            raise InputError(f"{root}: no readable certificate of the server: {error}") from error

    def offer(self) -> dict[str, Any]:
        """What the server says to this device."""
        told = json.loads(self._ask("GET", f"/v1/offer?name={quote(self._identity.name)}"))
        if not isinstance(told, dict):
            raise ServerUnreachable("the server answered no offer")
        return told

    def file(self, sha256: str) -> bytes:
        """A file of the bundle on offer, not yet checked."""
        return self._ask("GET", f"/v1/file/{sha256}")

    def report(self, told: Mapping[str, Any]) -> None:
        """Sends a signed report; again is the same."""
        self._ask("POST", "/v1/report", sign_report(self._identity, told))

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        try:
            link = http.client.HTTPSConnection(
                self._host, self._port, timeout=_TIMEOUT_S, context=self._context
            )
            try:
                link.request(method, path, body)
                answer = link.getresponse()
                data = answer.read()
            finally:
                link.close()
        except (OSError, http.client.HTTPException) as error:
            raise ServerUnreachable(
                f"{self._host}:{self._port} does not answer ({type(error).__name__})"
            ) from error
        if answer.status == 403:
            raise ReportRefused(
                f"the server refuses the report: {data[:300].decode(errors='replace')}"
            )
        if answer.status != 200:
            raise ServerUnreachable(f"{self._host}:{self._port} answered {answer.status}")
        return data
