"""A page in the test's own process, and a browser's half of HTTP that can also misbehave."""

import http.client
import json
import socket
import threading
from contextlib import contextmanager

import numpy as np

from veilcam.camera import serve_password
from veilcam.camera.serve_app import Page, make_app
from veilcam.camera.serve_pictures import PictureDesk
from veilcam.camera.serve_thread import ServerThread
from veilcam.camera.serve_wire import MAX_RESULT_BYTES, MAX_UPLOAD_BYTES, Parcel, Wire
from veilcam.camera.sink_web import Stream
from veilcam.camera.types import SafeFrame

PASSWORD = "correct horse battery"


def safe_frame(level=80, size_hw=(48, 64), index=0):
    """A safe picture of one grey."""
    blank = SafeFrame.blank(size_hw, index=index, time_s=0.0, reason="test")
    return SafeFrame(np.full_like(blank.bgr, level), index, 0.0, "", blank.maker)


class Client:
    """One browser: keeps its cookie and token."""

    def __init__(self, port):
        self.port, self.cookie, self.csrf = port, "", ""

    def ask(self, method, path, body=None, **headers):
        """Status, headers (lower case) and body. A header that is None is left out."""
        sent = {"Host": f"127.0.0.1:{self.port}"}
        if method not in ("GET", "HEAD"):
            sent |= {"Origin": f"http://127.0.0.1:{self.port}", "X-CSRF-Token": self.csrf}
        if self.cookie:
            sent["Cookie"] = self.cookie
        if isinstance(body, dict):
            body, sent["Content-Type"] = json.dumps(body), "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            link.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            if body is not None and "Content-Length" not in sent:
                sent["Content-Length"] = str(len(body))
            for name, value in sent.items():
                if value is not None:
                    link.putheader(name, value)
            link.endheaders(body.encode() if isinstance(body, str) else body)
            answer = link.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            try:
                return answer.status, found, answer.read()
            except ConnectionError:  # it hung up on a body that it did not want
                return answer.status, found, b""
        finally:
            link.close()

    def log_in(self, password=PASSWORD):
        """Logs in; the answer's headers."""
        status, headers, body = self.ask("POST", "/api/login", {"password": password})
        assert status == 200, body
        self.cookie = headers["set-cookie"].split(";")[0]
        self.csrf = json.loads(body)["csrf"]
        return headers


class FakeStill(threading.Thread):
    """Stands for the picture process: answers with what `make` gives."""

    def __init__(self, descriptor, make):
        super().__init__(daemon=True)
        self.wire = Wire(descriptor, is_asking=False, max_bytes=MAX_UPLOAD_BYTES)
        self.make, self.is_over, self.seen = make, False, []
        self.start()

    def run(self):
        while (parcel := self.wire.receive(30.0, idle=lambda: self.is_over)) is not None:
            self.seen.append(parcel.note)
            note, data = self.make(parcel)
            self.wire.send(Parcel(parcel.job, note, data), 5.0)


def made(_parcel):
    """A picture of one head."""
    note = {"problem": "", "kind": "JPEG", "width": 4, "height": 3, "heads": 1, "signed": 0}
    return note, b"\xff\xd8\xffsafe"


@contextmanager
def page(make=made, report=b"", words=()):
    """A served page; gives a client, its stream, the wishes that came and the fake process."""
    listener = socket.create_server(("127.0.0.1", 0))
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stream, wishes = Stream(), []
    still = FakeStill(ends[1].fileno(), make)
    wire = Wire(ends[0].fileno(), is_asking=True, max_bytes=MAX_RESULT_BYTES)
    port = listener.getsockname()[1]
    value = Page(
        password_hash=_HASH, names=frozenset({"localhost", "cam.local"}), port=port,
        claims={"bundles": {}}, modes=("face",), words=words, report=report, stream=stream,
        desk=PictureDesk(wire, ("album", "social"), words),
        wish=lambda *wish: wishes.append(wish), status=lambda: {"frames_out": 7},
    )  # fmt: skip
    server = ServerThread(make_app(value), listener.fileno())
    try:
        yield Client(port), stream, wishes, still
    finally:
        still.is_over = True
        stream.close()
        server.close()
        still.join(5)
        listener.close()
        for end in ends:
            end.close()


_HASH = serve_password._argon2().PasswordHasher(time_cost=1, memory_cost=1024).hash(PASSWORD)
