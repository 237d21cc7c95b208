"""`/metrics` and `veilcam status`: what they say of a run, and what they leave out."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("prometheus_client", reason="extra `serve` is not installed")

from prometheus_client import parser

from veilcam.camera.cli import call
from veilcam.camera.errors import ConfigError, SourceError
from veilcam.camera.serve_metrics import metrics_text
from veilcam.camera.status import ask, health

RUN = {
    "mode": "scene", "strength": "strict", "frames_in": 90, "frames_out": 88, "frames_blank": 3,
    "frames_dropped": 2, "outages": 1, "faults_by_stage": {"analyse": 4}, "people_seen": 7,
    "restarts": {"capture": 1, "publish": 0}, "is_live": True, "missing": "", "problem": "",
    "latency_ms": {"total": {"p50": 12.0, "p95": 20.0, "p99": 30.0, "max": 50.0}},
}  # fmt: skip


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    families = parser.text_string_to_metric_families(text.decode())
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_metrics_are_what_prometheus_reads_and_tell_nobody_who_was_there() -> None:
    text = metrics_text(RUN, 2)
    found = samples(text)
    assert found[("veilcam_frames_out_total",)] == 88
    assert found[("veilcam_faults_total", "analyse")] == 4
    assert found[("veilcam_restarts_total", "capture")] == 1
    assert found[("veilcam_latency_seconds", "0.99", "total")] == pytest.approx(0.03)
    assert found[("veilcam_camera_up",)] == 1
    assert found[("veilcam_readers",)] == 2
    assert found[("veilcam_run_info", "scene", "strict")] == 1
    assert b"people" not in text


def test_before_the_first_picture_there_are_metrics_too() -> None:
    found = samples(metrics_text({}, 0))
    assert found[("veilcam_camera_up",)] == 0
    assert ("veilcam_frames_out_total",) not in found


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, []),
        ({"problem": "no camera 0"}, ["no camera 0"]),
        ({"missing": "capture: seccomp"}, ["barriers are down: capture: seccomp"]),
        ({"frames_out": 0}, ["no picture yet"]),
        ({"frames_blank": 60}, ["60 of 88 pictures are blank"]),
    ],
)
def test_health_names_what_is_wrong(change: dict[str, object], problem: list[str]) -> None:
    assert health(RUN | change) == problem


class Page(http.server.BaseHTTPRequestHandler):
    answer: tuple[int, bytes] = (200, b"")

    def do_GET(self) -> None:
        self.send_response(self.answer[0])
        self.end_headers()
        self.wfile.write(self.answer[1])

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((401, b"{}"), ConfigError, "wrong password"),
        ((500, b"{}"), SourceError, "answers with 500"),
        ((200, b"<html>"), SourceError, "no Veilcam"),
        ((200, b"[1]"), SourceError, "no Veilcam"),
    ],
)
def test_who_is_no_camera_is_told_so(
    address: str, answer: tuple[int, bytes], error: type[Exception], message: str
) -> None:
    Page.answer = answer
    with pytest.raises(error, match=message):
        ask(address, "words")


def test_the_command_judges_by_its_exit_code(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VEILCAM_PASSWORD", "four short words here")
    Page.answer = (200, json.dumps(RUN).encode())
    assert call(["status", address]) == 0
    assert capsys.readouterr().out.startswith("well\nmode: scene\n")
    Page.answer = (200, json.dumps(RUN | {"problem": "no camera 0"}).encode())
    assert call(["status", address, "--json"]) == 1
    value = json.loads(capsys.readouterr().out)
    assert (value["ok"], value["problems"]) == (False, ["no camera 0"])
    assert call(["status", "door.local"]) == 2
    assert "wanted an address" in capsys.readouterr().err


def test_where_nobody_listens_the_address_is_named() -> None:
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9 does not answer"):
        ask("http://me:secret@127.0.0.1:9", "words")
