"""The real page: three processes and the picture process, from the first start to Ctrl-C."""

import importlib.util
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="extra `serve` is not installed")
pytest.importorskip("PIL", reason="extra `serve` is not installed")
if not sys.platform.startswith("linux"):
    pytest.skip("the page needs Linux", allow_module_level=True)

from veilcam.camera import landlock, seccomp
from veilcam.camera.clip import ClipSource
from veilcam.camera.rtsp_login import PASSWORD_VARIABLE
from veilcam.camera.settings import Settings
from veilcam.camera.source import demo_clip
from veilcam.camera.supervise import Supervisor


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


image = pytest.importorskip("PIL.Image")
parts, lean, storm = load("serve_parts"), load("lean"), load("storm")
NEEDS = pytest.mark.skipif(
    landlock.abi_version() < 1 or not seccomp.is_available(),
    reason="barriers not provable here",
)
STREAM_PASSWORD = "four-other-words-here"
URL = "/api/pictures?purpose={purpose}&strength=balanced&name=me"


class Served:
    """A running `veilcam serve demo`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        environment = os.environ | {
            "XDG_CONFIG_HOME": str(folder / "config"), PASSWORD_VARIABLE: STREAM_PASSWORD
        }  # fmt: skip
        code = "from veilcam.camera.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", *(arguments or ("demo",)), "--port", "0",
                   "--json"]  # fmt: skip
        with (folder / "stderr").open("w") as errors:
            self.process = subprocess.Popen(
                command, env=environment, stderr=errors, stdout=subprocess.PIPE, cwd=folder
            )
        while "Veilcam is at" not in self.told() and self.process.poll() is None:
            time.sleep(0.05)
        address = re.search(r"is at \w+://127\.0\.0\.1:(\d+)/", self.told())
        password = re.search(r"Password: (\S+)", self.told())
        assert address is not None, self.told()
        assert password is not None
        self.client, self.password = parts.Client(int(address[1])), password[1]

    def told(self) -> str:
        return (self.folder / "stderr").read_text()

    def status(self) -> dict:
        value: dict = json.loads(self.client.ask("GET", "/api/status")[2])
        return value

    def wait(self, is_there) -> dict:
        """The first status of which `is_there` is true."""
        for _ in range(600):
            if is_there(value := self.status()):
                return value
            time.sleep(0.05)
        raise AssertionError(value)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    found = Served(tmp_path_factory.mktemp("served"), "demo", "--rtsp-port", "0")
    found.client.log_in(found.password)
    yield found
    if found.process.poll() is None:
        found.process.kill()
        found.process.communicate()


def demo_frame() -> np.ndarray:
    source = ClipSource(demo_clip())
    frame = source.read()
    source.close()
    assert frame is not None
    return np.asarray(frame.bgr)


def as_file(picture: np.ndarray, suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, picture)[1].tobytes())


def test_the_first_start_tells_a_password_once_and_keeps_its_hash(served) -> None:
    kept = served.folder / "config" / "veilcam" / "password"
    assert kept.read_text().startswith("$argon2id$")
    assert served.told().count(served.password) == 1
    assert served.client.ask("POST", "/api/login", {"password": "not " + served.password})[0] == 401


def test_the_clip_plays_on_and_every_barrier_is_up(served) -> None:
    stages = {"analyse", "encode", "generate", "compose", "total", "cross"}
    value = served.wait(
        lambda v: v.get("frames_out", 0) > 3 and stages <= set(v.get("latency_ms", {}))
    )
    assert value["mode"] == "face"
    status, _, body = served.client.ask("GET", "/metrics")
    assert status == 200
    assert b"veilcam_camera_up 1.0" in body
    if landlock.abi_version() >= 1 and seccomp.is_available():
        assert value["missing"] == ""
        assert value["barriers"]["publish"]["network"] == "up"  # though it serves


def test_rtsp_stands_beside_the_page_with_a_password_of_its_own(served) -> None:
    port = re.search(r"rtsp://127\.0\.0\.1:(\d+)/veilcam, user veilcam", served.told())[1]
    options = {"rtsp_transport": "tcp"}
    address = f"rtsp://veilcam:{STREAM_PASSWORD}@127.0.0.1:{port}/veilcam"
    with av.open(address, options=options, timeout=60) as container:
        frames = container.decode(video=0)
        found = [next(frames).to_ndarray(format="bgr24") for _ in range(8)]
    assert any((found[0] != other).any() for other in found[1:])
    refused = address.replace(STREAM_PASSWORD, served.password)  # the page's is no key to it
    with pytest.raises(av.error.HTTPUnauthorizedError):
        av.open(refused, options=options, timeout=60)
    assert STREAM_PASSWORD not in served.told()


def test_the_stream_is_jpegs_that_any_reader_takes(served) -> None:
    request = f"GET /stream.mjpg HTTP/1.1\r\nHost: 127.0.0.1:{served.client.port}\r\n"
    request += f"Cookie: {served.client.cookie}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.client.port), timeout=30) as link:
        link.sendall(request.encode())
        found = b""
        while found.count(b"--veilcam\r\n") < 4 and len(found) < 10_000_000:
            found += link.recv(65536)
    head, _, body = found.partition(b"\r\n\r\n")
    assert b"multipart/x-mixed-replace; boundary=veilcam" in head
    jpeg = body[body.index(b"\xff\xd8") : body.index(b"\xff\xd9") + 2]
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape[2] == 3
    served.wait(lambda v: v["readers"] == 0)  # a reader that left is gone


def test_a_wish_holds_without_a_fault(served) -> None:
    before = served.status()
    found = served.client.ask("POST", "/api/settings", {"mode": "face", "strength": "strict"})
    assert found[0] == 202
    value = served.wait(lambda v: v["strength"] == "strict")
    frames = value["frames_out"] - value["frames_blank"]
    value = served.wait(lambda v: v["frames_out"] - v["frames_blank"] > frames + 2)
    assert value["outages"] == before["outages"]
    assert value["restarts"] == before["restarts"]
    assert value["faults"] == before["faults"]


@pytest.mark.parametrize("purpose", ["album", "social", "search"])
def test_a_dropped_picture_comes_back_without_its_head(served, purpose: str) -> None:
    if purpose not in json.loads(served.client.ask("GET", "/api/claims")[2])["purposes"]:
        pytest.skip("this package has no such command")
    before = demo_frame()
    sent = as_file(before, ".png")
    status, _, body = served.client.ask("POST", URL.format(purpose=purpose), sent)
    made = json.loads(body)
    assert (status, made.get("heads")) == (200, 1), body
    data = served.client.ask("GET", f"/api/pictures/{made['id']}")[2]
    after = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    changed = np.abs(before.astype(int) - after).max(2) > 30
    assert 0.005 < changed.mean() < 0.3
    assert made["is_signed"] == (purpose == "social")
    value = served.wait(lambda v: "pictures" in v["barriers"])
    if landlock.abi_version() >= 1 and seccomp.is_available():
        assert value["missing"] == ""


def test_an_original_keeps_none_of_its_notes(served) -> None:
    memory = io.BytesIO()
    picture = image.fromarray(demo_frame()[:, :, ::-1])
    exif = image.Exif()
    exif[0x010F], exif[0x9003] = "SecretCamera", "2026:01:02 03:04:05"
    picture.save(memory, format="JPEG", exif=exif, comment=b"secret note")
    status, _, body = served.client.ask("POST", URL.format(purpose="album"), memory.getvalue())
    assert status == 200
    data = served.client.ask("GET", f"/api/pictures/{json.loads(body)['id']}")[2]
    assert b"Secret" in memory.getvalue()
    for note in (b"Secret", b"secret", b"Exif", b"2026:01"):
        assert note not in data


def test_a_phones_picture_comes_back_as_one_that_browsers_show(served) -> None:
    heif = pytest.importorskip("pillow_heif", reason="extra `serve` is not installed")
    heif.register_heif_opener()
    memory = io.BytesIO()
    image.fromarray(demo_frame()[:, :, ::-1]).save(memory, format="HEIF")
    url = URL.format(purpose="album") + ".heic"
    status, _, body = served.client.ask("POST", url, memory.getvalue())
    made = json.loads(body)
    assert (status, made["name"], made["heads"]) == (200, "me.jpg", 1)
    assert (
        served.client.ask("GET", f"/api/pictures/{made['id']}")[1]["content-type"] == "image/jpeg"
    )


def test_words_cast_the_stand_in_and_unknown_ones_are_told(served) -> None:
    if not json.loads(served.client.ask("GET", "/api/claims")[2])["has_prompt"]:
        pytest.skip("the package's bundle comes without words")
    wish = {"mode": "face", "strength": "balanced", "prompt": "an old man and xyzzy"}
    status, _, body = served.client.ask("POST", "/api/settings", wish)
    assert (status, json.loads(body)) == (202, {"unknown": ["xyzzy"]})
    served.wait(lambda v: v["prompt"] == wish["prompt"])
    url = URL.format(purpose="album") + "&prompt=an+old+man"
    status, _, body = served.client.ask("POST", url, as_file(demo_frame(), ".jpg"))
    assert (status, json.loads(body)["heads"]) == (200, 1)
    before = served.status()["frames_out"]
    value = served.wait(lambda v: v["frames_out"] > before + 12)
    assert value["problem"] == ""


def bomb() -> bytes:
    memory = io.BytesIO()
    image.new("1", (30_000, 8_000)).save(memory, format="PNG")
    return memory.getvalue()


def wide_bomb() -> bytes:
    memory = io.BytesIO()
    image.new("1", (8_192, 8_192)).save(memory, format="PNG")  # within the sides, not the pixels
    return memory.getvalue()


def cmyk() -> bytes:
    memory = io.BytesIO()
    image.new("CMYK", (64, 64)).save(memory, format="JPEG")
    return memory.getvalue()


def animated() -> bytes:
    memory = io.BytesIO()
    pictures = [image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    pictures[0].save(memory, format="WebP", save_all=True, append_images=pictures[1:])
    return memory.getvalue()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (bomb, "far more pixels"), (wide_bomb, "far more pixels"), (cmyk, "CMYK"),
        (animated, "animated"),
        (lambda: as_file(demo_frame(), ".jpg")[:20_000], "truncated"),
        (lambda: b"\x89PNG\r\n\x1a\n" + bytes(5000), "broken"),
        (lambda: as_file(np.zeros((8, 8, 3), np.uint8), ".png"), "px"),
    ],
    ids=["bomb", "wide_bomb", "cmyk", "animated", "truncated", "noise", "tiny"],
)  # fmt: skip
def test_a_bad_picture_gets_a_line_and_costs_nothing(served, make, problem: str) -> None:
    data = make()
    assert len(data) < 200_000
    status, _, body = served.client.ask("POST", URL.format(purpose="album"), data)
    assert status == 422
    assert problem in json.loads(body)["error"]


def test_a_killed_picture_process_is_replaced(served) -> None:
    found = [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit()
        and f"veilcam.camera.serve_still\0{served.process.pid}\0"
        in (path / "cmdline").read_bytes().decode("utf-8", "replace")
    ]
    assert len(found) == 1
    os.kill(found[0], signal.SIGKILL)
    status, _, body = served.client.ask(
        "POST", URL.format(purpose="album"), as_file(demo_frame(), ".jpg")
    )
    if status == 422:  # it was not noticed yet
        assert b"ended" in body
        body = served.client.ask(
            "POST", URL.format(purpose="album"), as_file(demo_frame(), ".jpg")
        )[2]
    assert json.loads(body)["heads"] == 1


def test_it_ends_cleanly_and_has_written_nothing_but_the_hash(served) -> None:
    served.process.terminate()
    out, _ = served.process.communicate(timeout=30)
    assert served.process.returncode == 0
    report = json.loads(out)
    assert report["frames_out"] > 0
    written = {path.name for path in served.folder.rglob("*") if path.is_file()}
    assert written == {"stderr", "password"}
    assert "me" not in served.told().split()  # no name of a picture
    assert "Traceback" not in served.told()


def test_the_page_says_which_camera_is_missing_and_goes_on_looking(tmp_path: Path) -> None:
    found = Served(tmp_path, "97", "--wait-for-camera")
    try:
        found.client.log_in(found.password)
        first = found.wait(lambda v: "no camera 97" in v.get("problem", ""))
        assert first["frames_out"] == 0
        value = found.wait(lambda v: v["restarts"]["capture"] > first["restarts"]["capture"])
        assert "no camera 97" in value["problem"]
        assert found.told().count("no camera 97") == 1
        found.process.send_signal(signal.SIGINT)
        found.process.communicate(timeout=60)
        assert found.process.returncode == 0
    finally:
        found.process.kill()
        found.process.communicate()


@NEEDS
def test_the_page_process_can_answer_but_open_no_connection(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    program = os.path.realpath(sys.executable)
    with socket.create_server(("127.0.0.1", 0)) as server:
        options = {
            "folder": str(tmp_path), "port": server.getsockname()[1], "pid": os.getpid(),
            "camera": "/dev/full", "program": program,
        }  # fmt: skip
        names = [name for name in lean.attempts(options) if name != "unix"]
        found = Supervisor(
            Settings(source="storm", sink="web"),
            capture_command=storm.command("capture"),
            publish_command=lean.command("publish", **options, only=names),
            handed={"publish": (server.fileno(),)},
        )
        with pytest.raises(Exception, match="tried=") as caught:
            found.run(lambda: False)
    assert str(caught.value).split() == [f"tried={len(names)}", "socketpair=ok"]
