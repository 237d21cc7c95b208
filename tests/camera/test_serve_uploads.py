"""Pictures that are dropped on the page: limits, kinds, owners, names, and a process that dies."""

import importlib.util
import io
import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="extra `serve` is not installed")
if not sys.platform.startswith("linux"):
    pytest.skip("the page needs Linux", allow_module_level=True)

from veilcam.camera.serve_pictures import PictureDesk, plain_name
from veilcam.camera.serve_wire import MAX_UPLOAD_BYTES, say_lost


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parts = load("serve_parts")
JPEG = b"\xff\xd8\xff\xe0" + bytes(200_000)
URL = "/api/pictures?purpose=album&strength=balanced&name="


@pytest.fixture(scope="module")
def served():
    with parts.page() as found:
        yield found


@pytest.fixture
def client(served):
    fresh = parts.Client(served[0].port)
    fresh.log_in()
    return fresh


def test_a_picture_comes_back_and_is_the_sessions_own(client) -> None:
    status, _, body = client.ask("POST", URL + "me.png", JPEG)
    made = json.loads(body)
    assert (status, made["heads"], made["name"]) == (200, 1, "me.jpg")  # named for what it is
    status, headers, data = client.ask("GET", f"/api/pictures/{made['id']}")
    assert (status, headers["content-type"], data) == (200, "image/jpeg", b"\xff\xd8\xffsafe")
    other = parts.Client(client.port)
    other.log_in()
    assert other.ask("GET", f"/api/pictures/{made['id']}")[0] == 404
    assert other.ask("GET", "/api/pictures.zip")[0] == 404
    assert client.ask("DELETE", "/api/pictures")[0] == 200
    assert client.ask("GET", f"/api/pictures/{made['id']}")[0] == 404


def test_the_zip_holds_all_with_names_told_apart(client) -> None:
    for name in ("a.jpg", "a.jpg", "A.jpg", "..%2F..%2Fetc%2Fpasswd", "%E5%A4%8F.heic"):
        assert client.ask("POST", URL + name, JPEG)[0] == 200
    status, headers, data = client.ask("GET", "/api/pictures.zip")
    assert (status, headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        found = packed.namelist()
        assert {info.date_time[0] for info in packed.infolist()} == {1980}
    assert found == ["a.jpg", "a-2.jpg", "A-3.jpg", "passwd.jpg", "夏.jpg"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400), (b"GIF89a" + bytes(40), 415), (b"%PDF-1.7" + bytes(40), 415),
        (b"<svg onload=alert(1)>" + bytes(40), 415), (b"<html>" + bytes(40), 415),
        (b"\0\0\0\x18ftypisom" + bytes(40), 415), (b"PK\3\4" + bytes(40), 415),
        (b"RIFF\0\0\0\0WEBP" + bytes(40), 200),
    ],
)  # fmt: skip
def test_what_a_file_is_its_bytes_tell(client, head: bytes, status: int) -> None:
    kind = {"Content_Type": "image/jpeg"}  # what the client claims counts for nothing
    assert client.ask("POST", URL + "a.jpg", head, **kind)[0] == status


@pytest.mark.parametrize(
    "query", ["purpose=steal&strength=strict", "purpose=album&strength=blank", "purpose=album",
              "purpose=social&strength=strict&size=huge", "",
              "purpose=album&strength=strict&prompt=an+old+man"],
)  # fmt: skip
def test_only_what_there_is_can_be_asked_for(client, query: str) -> None:
    assert client.ask("POST", f"/api/pictures?{query}", JPEG)[0] == 400


def test_a_large_upload_is_refused_before_it_is_read(client, served) -> None:
    before = len(served[3].seen)
    size = str(MAX_UPLOAD_BYTES + 1)
    assert client.ask("POST", URL + "a.jpg", JPEG, Content_Length=size)[0] == 413
    for length in ("-1", "1e3", "9" * 30, "0x10"):
        assert client.ask("POST", URL + "a.jpg", JPEG, Content_Length=length)[0] in (400, 413)
    assert len(served[3].seen) == before


def test_a_large_upload_without_length_is_cut_off(client, served) -> None:
    before = len(served[3].seen)
    piece = b"%x\r\n%s\r\n" % (1 << 20, bytes(1 << 20))
    body = piece * 33 + b"0\r\n\r\n"
    sent = {"Transfer_Encoding": "chunked", "Content_Length": None}
    try:
        status = client.ask("POST", URL + "a.jpg", body, **sent)[0]
    except ConnectionError:
        status = 413  # it hung up in the middle
    assert status == 413
    assert len(served[3].seen) == before


def test_a_refusal_of_the_picture_process_is_told() -> None:
    def refuse(_parcel):
        return {"problem": "is truncated"}, b""

    with parts.page(make=refuse) as (client, *_):
        client.log_in()
        status, _, body = client.ask("POST", URL + "a.jpg", JPEG)
        assert (status, json.loads(body)) == (422, {"error": "is truncated"})


@pytest.mark.parametrize(
    "note", [{}, {"kind": "SVG"}, {"kind": "JPEG", "width": "1", "height": 1, "heads": 1},
             {"kind": "JPEG", "width": 1, "height": 1, "heads": 1, "signed": "<b>"}],
)  # fmt: skip
def test_a_hijacked_picture_process_chooses_no_other_type(note) -> None:
    with parts.page(make=lambda _parcel: (note, b"<script>")) as (client, *_):
        client.log_in()
        assert client.ask("POST", URL + "a.jpg", JPEG)[0] == 500
        assert client.ask("GET", "/api/pictures.zip")[0] == 404


def test_a_process_that_dies_costs_one_picture() -> None:
    calls = []

    def die_once(parcel):
        calls.append(1)
        if len(calls) == 1:
            say_lost(still[0].wire._descriptor)  # as the supervisor does
            return {"problem": "too late"}, b""
        return parts.made(parcel)

    still: list = []
    with parts.page(make=die_once) as (client, _, _, fake):
        still.append(fake)
        client.log_in()
        status, _, body = client.ask("POST", URL + "a.jpg", JPEG)
        assert status == 422
        assert b"ended" in body
        assert client.ask("POST", URL + "a.jpg", JPEG)[0] == 200


def test_kept_pictures_end_by_time_and_by_number() -> None:
    from veilcam.camera import serve_pictures
    from veilcam.camera.serve_session import Sessions
    from veilcam.camera.serve_wire import Parcel, Wire

    now = [0.0]
    wire = Wire(os.open("/dev/null", os.O_RDWR), is_asking=True, max_bytes=9)
    desk = PictureDesk(wire, ("album",), (), lambda: now[0])
    _, session = Sessions().start()
    note, data = parts.made(None)
    numbers = [desk._keep(session, "a", Parcel(1, note, data))["id"]
               for _ in range(serve_pictures._KEPT_FILES + 3)]  # fmt: skip
    assert [desk.find(session, n) is None for n in numbers[:4]] == [True, True, True, False]
    now[0] = serve_pictures._KEPT_S + 1
    assert desk.find(session, numbers[-1]) is None
    assert desk.zipped(session) == b""


@given(st.text(max_size=120), st.sampled_from(["JPEG", "PNG", "WebP"]))
def test_a_name_never_leaves_its_folder(name: str, kind: str) -> None:
    found = plain_name(name, kind)
    assert found == Path(found).name
    assert not found.startswith(".")
    assert found.isprintable()
    assert not set(found) & set('/\\:*?"<>|\0')
    assert len(found) < 100
