import socket
from pathlib import Path

import pytest

from veilcam.camera import service
from veilcam.camera.service import ServiceManager, service_manager


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    monkeypatch.setattr(service, "_EVERY_S", 0.0)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    peer.bind(str(tmp_path / "notify"))
    peer.setblocking(False)
    return peer


def heard(listener: socket.socket) -> str:
    try:
        return listener.recv(4096).decode()
    except BlockingIOError:
        return ""


def test_ready_waits_for_a_picture_that_is_not_blank(listener: socket.socket) -> None:
    with listener:
        manager = service_manager()
        manager.tell({})
        assert heard(listener) == "EXTEND_TIMEOUT_USEC=120000000"  # a camera may still come
        manager.tell({7: {"frames_out": 3, "frames_blank": 3}})
        assert "READY=1" not in (text := heard(listener))
        assert "WATCHDOG=1" in text
        manager.tell({7: {"frames_out": 4, "frames_blank": 3}})
        assert heard(listener).startswith("READY=1\nWATCHDOG=1")
        manager.tell({7: {"frames_out": 5, "frames_blank": 3}})
        assert "READY=1" not in heard(listener)


def test_a_loop_that_stands_still_says_nothing(listener: socket.socket) -> None:
    with listener:
        manager = service_manager()
        values = {7: {"frames_out": 4, "frames_blank": 0}}
        manager.tell(values)
        assert heard(listener)
        manager.tell(values)
        assert heard(listener) == ""


def test_a_new_publish_process_goes_on_counting(listener: socket.socket) -> None:
    with listener:
        manager = service_manager()
        manager.tell({7: {"frames_out": 4}})
        assert heard(listener)
        manager.tell({7: {"frames_out": 4}, 8: {"frames_out": 1, "frames_blank": 1}})
        assert "STATUS=5 pictures, 1 of them blank" in heard(listener)


def test_names_without_a_file_are_spoken_to() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0veilcam-test-notify")
        ServiceManager("@veilcam-test-notify").tell({1: {"frames_out": 1}})
        assert listener.recv(100).startswith(b"READY=1")


def test_where_nobody_listens_nothing_fails(tmp_path: Path) -> None:
    ServiceManager().tell({1: {"frames_out": 1}})
    ServiceManager(str(tmp_path / "gone")).tell({1: {"frames_out": 1}})
