"""What a page of somebody else, a stranger on the network, or a bad client gets: nothing."""

import importlib.util
import json
import socket
import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="extra `serve` is not installed")
pytest.importorskip("argon2", reason="extra `serve` is not installed")
if not sys.platform.startswith("linux"):
    pytest.skip("the page needs Linux", allow_module_level=True)


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parts = load("serve_parts")
ASKED = ["/api/session", "/api/status", "/metrics", "/api/claims", "/api/pictures.zip",
         "/api/pictures/x", "/report", "/stream.mjpg", "/snapshot.jpg"]  # fmt: skip
CHANGES = [("POST", "/api/settings"), ("POST", "/api/pictures"), ("DELETE", "/api/pictures"),
           ("POST", "/api/logout")]  # fmt: skip


@pytest.fixture(scope="module")
def served():
    with parts.page(report=b"<html>audit</html>") as found:
        yield found


@pytest.fixture
def client(served):
    fresh = parts.Client(served[0].port)
    fresh.log_in()
    return fresh


@pytest.fixture
def stranger(served):
    return parts.Client(served[0].port)


@pytest.mark.parametrize("path", ASKED)
def test_nothing_is_told_without_a_login(stranger, path: str) -> None:
    assert stranger.ask("GET", path)[0] == 401
    stranger.cookie = f"veilcam_{stranger.port}=guess"
    assert stranger.ask("GET", path)[0] == 401


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_nothing_is_changed_without_the_sessions_token(client, served, method, path) -> None:
    body = {"mode": "face", "strength": "strict"}
    for token in (None, "", "x", client.csrf[:-1], client.csrf + "x"):
        assert client.ask(method, path, body, X_CSRF_Token=token)[0] == 403
    other = parts.Client(client.port)
    other.log_in()
    assert client.ask(method, path, body, X_CSRF_Token=other.csrf)[0] == 403
    assert served[2] == []


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1", "http://127.0.0.1.evil:80",
               "http://localhost:1"],
)  # fmt: skip
def test_nothing_is_changed_from_another_origin(client, served, origin) -> None:
    body = {"mode": "face", "strength": "strict"}
    assert client.ask("POST", "/api/settings", body, Origin=origin)[0] == 403
    assert client.ask("POST", "/api/login", {"password": parts.PASSWORD}, Origin=origin)[0] == 403
    assert served[2] == []


def test_another_sites_page_gets_no_picture_even_with_the_cookie(client) -> None:
    for site in ("cross-site", "same-site"):
        for path in ("/stream.mjpg", "/snapshot.jpg", "/api/status", "/static/app.js"):
            assert client.ask("GET", path, Sec_Fetch_Site=site)[0] == 403
        assert client.ask("GET", "/", Sec_Fetch_Site=site)[0] == 200  # a link to us


@pytest.mark.parametrize(
    "host", [None, "", "evil.example", "evil.example:{port}", "127.0.0.1:1",
             "localhost.evil:{port}", "cam.local:99999999", "[::1", "127.0.0.1.nip.io:{port}",
             "0x7f.1:{port}"],
)  # fmt: skip
def test_a_name_that_is_not_ours_gets_no_page(client, host) -> None:
    sent = host if host is None else host.format(port=client.port)
    assert client.ask("GET", "/", Host=sent)[0] in (400, 421)
    assert client.ask("GET", "/api/status", Host=sent)[0] in (400, 421)


@pytest.mark.parametrize(
    "host", ["cam.local:{port}", "LOCALHOST:{port}", "127.0.0.1", "[::1]:{port}",
             "192.168.0.9:{port}"],
)  # fmt: skip
def test_our_own_names_and_numbers_get_it(client, host: str) -> None:
    assert client.ask("GET", "/", Host=host.format(port=client.port))[0] == 200


@pytest.mark.parametrize(
    "path", ["/static/../serve.py", "/static/..%2f..%2fetc%2fpasswd", "/static/%2e%2e/serve.py",
             "/static//etc/passwd", "/static/app.js/../../x", "/static/.", "/../../etc/passwd",
             "//etc/passwd", "/static/app.js%00.css", "/api/pictures/..%2f..%2fx", "/etc/passwd"],
)  # fmt: skip
def test_no_path_leaves_the_few_files_there_are(client, path: str) -> None:
    status, _, body = client.ask("GET", path)
    assert status == 404
    assert json.loads(body) == {"error": "nothing there"}


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(stranger) -> None:
    headers = stranger.log_in()
    found = {part.strip().lower() for part in headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= found
    assert "secure" not in found  # plain HTTP, which would lose it
    assert len(stranger.cookie) > 50
    origin = f"https://127.0.0.1:{stranger.port}"  # as behind a proxy with TLS
    body = {"password": parts.PASSWORD}
    cookie = stranger.ask("POST", "/api/login", body, Origin=origin)[1]["set-cookie"]
    assert "secure" in cookie.lower()
    assert parts.PASSWORD not in str(headers)


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/status", "/api/nothing", "/report"])
def test_every_answer_forbids_what_the_page_does_not_need(client, path: str) -> None:
    _, headers, _ = client.ask("GET", path)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    if path != "/report":
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    else:  # no script, no form, no navigation
        assert policy.startswith("sandbox; default-src 'none'")
        assert "script" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


def test_a_refused_request_has_the_headers_too(client) -> None:
    _, headers, _ = client.ask("GET", "/", Host="evil.example")
    assert "default-src 'none'" in headers["content-security-policy"]


def test_guessing_is_slowed_down_and_a_session_is_not() -> None:
    with parts.page() as (client, *_):
        inside = parts.Client(client.port)
        inside.log_in()
        found = [client.ask("POST", "/api/login", {"password": f"guess {n}"}) for n in range(20)]
        statuses = [status for status, _, _ in found]
        assert statuses[:5] == [401] * 5
        assert set(statuses[6:]) == {429}
        assert 1 <= int(found[-1][1]["retry-after"]) <= 13
        right = client.ask("POST", "/api/login", {"password": parts.PASSWORD})
        assert right[0] == 429  # the right one is not told apart meanwhile
        coded = {"Authorization": "Basic dXNlcjpndWVzcw=="}
        assert client.ask("GET", "/snapshot.jpg", **coded)[0] == 429
        assert inside.ask("GET", "/api/status")[0] == 200


def test_a_session_ends_with_logout(client) -> None:
    assert client.ask("POST", "/api/logout")[0] == 200
    assert client.ask("GET", "/api/status")[0] == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400), ("[1]", 400), ('"x"', 400), ("[" * 2000, 400), ("", 400),
        ('{"password": 1}', 400), ('{"password": ["a"]}', 400), ("x" * 5000, 413),
        (json.dumps({"password": "x" * 3000}), 401),
    ],
)  # fmt: skip
def test_odd_bodies_are_refused(served, body: str, status: int) -> None:
    with parts.page() as (fresh, *_):
        found = fresh.ask("POST", "/api/login", body, Content_Type="application/json")
        assert found[0] == status


def test_a_form_cannot_log_in_or_change(client) -> None:
    kind = "application/x-www-form-urlencoded"
    assert client.ask("POST", "/api/login", "password=x", Content_Type=kind)[0] == 415
    assert client.ask("POST", "/api/settings", "mode=face", Content_Type="text/plain")[0] == 415


@pytest.mark.parametrize(
    "value",
    [
        {}, {"mode": "scene", "strength": "strict"}, {"mode": "face", "strength": "blank"},
        {"mode": "face", "strength": ["strict"]}, {"mode": ["face"], "strength": "strict"},
        {"mode": "face", "strength": "strict", "prompt": 3},
        {"mode": "face", "strength": "strict", "prompt": "x" * 201},
        {"mode": "face", "strength": "strict", "prompt": "a\nb"},
        {"mode": "face", "strength": "strict", "prompt": "an old man"},  # no words in this one
    ],
)  # fmt: skip
def test_only_known_settings_are_passed_on(client, served, value) -> None:
    assert client.ask("POST", "/api/settings", value)[0] == 400
    assert served[2] == []


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_other_methods_are_refused(client, method: str) -> None:
    assert client.ask(method, "/api/status")[0] in (400, 405)


def raw(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        link.sendall(request)
        link.shutdown(socket.SHUT_WR)
        found = b""
        while piece := link.recv(65536):
            found += piece
    return found


def test_smuggled_and_oversized_requests_are_refused(client) -> None:
    host = b"Host: 127.0.0.1:%d\r\n" % client.port
    both = b"POST /api/login HTTP/1.1\r\n" + host + b"Content-Length: 5\r\n"
    both += b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /api/status HTTP/1.1\r\n"
    assert b"200 OK" not in raw(client.port, both + host + b"\r\n")
    two_hosts = b"GET / HTTP/1.1\r\n" + host + b"Host: evil.example\r\n\r\n"
    assert b"200 OK" not in raw(client.port, two_hosts)
    long = b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + host + b"\r\n"
    assert b"200 OK" not in raw(client.port, long)
    many = b"".join(b"X-%d: y\r\n" % n for n in range(8000))
    assert b"200 OK" not in raw(client.port, b"GET / HTTP/1.1\r\n" + host + many + b"\r\n")
    assert client.ask("GET", "/api/status")[0] == 200


def test_slow_heads_and_bodies_do_not_use_up_the_connections(monkeypatch) -> None:
    from veilcam.camera import serve_guard, serve_thread

    monkeypatch.setattr(serve_thread, "HEAD_S", 0.2)
    monkeypatch.setattr(serve_guard, "BODY_S", 0.2)
    with parts.page() as (client, stream, *_):
        client.log_in()
        reader = socket.create_connection(("127.0.0.1", client.port), timeout=10)
        request = f"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\nCookie: {client.cookie}\r\n\r\n"
        reader.sendall(request.encode())
        assert b"200 OK" in reader.recv(65536)
        slow = [socket.create_connection(("127.0.0.1", client.port), timeout=10) for _ in range(70)]
        for link in slow:
            link.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        head = b"POST /api/login HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
        head += b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        body = socket.create_connection(("127.0.0.1", client.port), timeout=10)
        body.sendall(head)
        for link in slow:
            assert link.recv(10) == b""  # let go
            link.close()
        assert body.recv(20)[9:12] in (b"408", b"503")
        body.close()
        assert client.ask("GET", "/api/status")[0] == 200
        stream.offer(parts.safe_frame())  # who watches is not let go
        found = b""
        while b"\xff\xd8" not in found:
            piece = reader.recv(65536)
            assert piece
            found += piece
        reader.close()


def test_basic_login_opens_stream_and_counters_and_nothing_else(stranger, served) -> None:
    import base64

    served[1].offer(parts.safe_frame())
    coded = base64.b64encode(f"any:{parts.PASSWORD}".encode()).decode()
    for _ in range(2):  # the second time from memory
        status, headers, body = stranger.ask("GET", "/snapshot.jpg", Authorization=f"Basic {coded}")
        assert (status, headers["content-type"], body[:3]) == (200, "image/jpeg", b"\xff\xd8\xff")
    for path in ("/api/status", "/metrics"):
        assert stranger.ask("GET", path, Authorization=f"Basic {coded}")[0] == 200
    for path in ("/api/session", "/api/claims", "/api/pictures.zip", "/report"):
        assert stranger.ask("GET", path, Authorization=f"Basic {coded}")[0] == 401
    assert stranger.ask("GET", "/snapshot.jpg", Authorization="Basic !")[0] == 400
