"""The process that gets the page's pictures: no network, no writable path, nothing kept.

Started by `serve_supervise` when a picture waits. It has the barriers of capture, reads raw
pictures from a socket pair, answers with safe ones, and ends after some quiet time: then even its
memory is gone.
"""

import importlib
import os
import resource
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veilcam.camera.barriers import Plan, raise_barriers
from veilcam.camera.control import Barriers, Setup
from veilcam.camera.errors import ConfigError, InputError, SourceError, VeilcamError
from veilcam.camera.link import Link
from veilcam.camera.sandbox import capture_plan
from veilcam.camera.serve_wire import MAX_UPLOAD_BYTES, Parcel, Wire, WireError
from veilcam.camera.serve_words import with_prompt
from veilcam.camera.settings import Settings, from_values
from veilcam.camera.worker import wait_for

if TYPE_CHECKING:
    from veilcam.camera.pictures import Protector

MAX_PIXELS = 50_000_000  # what a page may unpack here; `veilcam album` takes more
_JOB_S = 120  # a picture that needs longer ends the process
_QUIET_S = 60.0
_MAX_DATA_BYTES = 6 * 2**30
_ANSWER_S = 30.0
_KINDS = ("JPEG", "PNG", "WebP", "HEIC")


class Desk:
    """Makes safe pictures of raw ones.

    Args:
        settings: Of the run; the bundle counts.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = Path(settings.bundle) if settings.bundle else None
        self._protect: tuple[tuple[str, str, str], Protector] | None = None

    def __call__(self, parcel: Parcel) -> Parcel:
        """The answer; whatever goes wrong is told without anything of the picture."""
        try:
            data, note = self._make(parcel)
        except (InputError, ConfigError) as error:
            return _refusal(parcel.job, str(error))
        except MemoryError:
            return _refusal(parcel.job, "needs more memory than there is")
        except Exception as error:  # its text could hold anything
            return _refusal(parcel.job, f"failed: {type(error).__name__}")
        return Parcel(parcel.job, note | {"problem": ""}, data)

    def _make(self, parcel: Parcel) -> tuple[bytes, dict[str, Any]]:
        from veilcam.camera.album_files import read_picture, write_picture

        purpose, kind, strength, size = (
            str(parcel.note.get(name, "")) for name in ("purpose", "kind", "strength", "size")
        )
        if kind not in _KINDS:
            raise SourceError("is no JPEG, PNG, WebP or HEIC picture")
        mode, prompt = (str(parcel.note.get(name, "")) for name in ("mode", "prompt"))
        if purpose == "search":
            return self._query(parcel.data, kind, strength, size, prompt)
        protect = self._protector(mode, strength, prompt)
        safe = protect(read_picture(parcel.data, kind))
        if safe.reason:
            raise SourceError(f"cannot be vouched for ({safe.reason}); nothing comes back")
        kind = "JPEG" if kind == "HEIC" else kind  # browsers show no HEIC
        if purpose == "social":
            data, is_signed = _marked(safe, kind, size, mode, protect.bundle.sha256)
        else:
            data, is_signed = write_picture(safe, kind), False
        height, width = safe.bgr.shape[:2]
        return data, {
            "kind": kind,
            "width": width,
            "height": height,
            "heads": protect.heads_replaced,
            "signed": int(is_signed),
        }

    def _query(
        self, data: bytes, kind: str, strength: str, size: str, prompt: str
    ) -> tuple[bytes, dict[str, Any]]:
        """As `veilcam search`: one substitute to search by."""
        from veilcam.camera.album_files import read_picture
        from veilcam.camera.social import Size

        search = importlib.import_module("veilcam.camera.search")
        cast = importlib.import_module("veilcam.camera.cast").Cast(others=prompt)
        options = search.SearchOptions(
            strength=strength, size=Size(size), bundle=self._path, cast=cast
        )
        ((made, report),) = search.QueryMaker(options)(
            read_picture(data, kind), "JPEG" if kind == "HEIC" else kind
        )
        return made, {
            "kind": "JPEG" if kind == "HEIC" else kind,
            "width": report["width"],
            "height": report["height"],
            "heads": report["heads_replaced"],
            "signed": 0,
        }

    def _protector(self, mode: str, strength: str, prompt: str) -> "Protector":
        from veilcam.camera.cast import Cast
        from veilcam.camera.pictures import make_protector, to_strength

        asked = (mode, strength, prompt)
        if self._protect is None or self._protect[0] != asked:
            cast = Cast(others=prompt) if prompt else None
            protector = make_protector(mode, self._path, strength=to_strength(strength), cast=cast)
            self._protect = (asked, protector)
        return self._protect[1]


def _marked(safe: Any, kind: str, size: str, mode: str, sha256: str) -> tuple[bytes, bool]:
    """As `veilcam social`: sized, with its IPTC source type, signed where the library is there."""
    from veilcam.camera import credentials
    from veilcam.camera.social import Size, encode

    if size not in set(Size):
        raise ConfigError(f"size {size!r}: wanted {', '.join(Size)}")
    data, _ = encode(safe, kind, Size(size), source_type=credentials.SOURCE_TYPES[mode])
    try:
        credentials.load_c2pa()
    except ConfigError:
        return data, False
    made_by = {"mode": mode, "bundle_sha256": sha256}
    return credentials.sign(data, kind, credentials.make_certificate(), made_by), True


def _refusal(job: int, problem: str) -> Parcel:
    return Parcel(job, {"problem": " ".join(problem.split())[:300]}, b"")


def serve(wire: Wire, desk: Desk, is_over: Any) -> None:
    """Answers until it is quiet for long, or the other side is gone."""
    heard_s = time.monotonic()

    def idle() -> bool:
        return bool(is_over()) or time.monotonic() - heard_s > _QUIET_S

    while True:
        try:
            parcel = wire.receive(_ANSWER_S, idle=idle)
        except WireError:
            continue  # pieces of a job that an earlier life of this process began
        if parcel is None:
            return
        signal.alarm(_JOB_S)  # even inside a decoder: the default action ends the process
        answer = desk(parcel)
        del parcel
        signal.alarm(0)
        wire.send(answer, _ANSWER_S)
        heard_s = time.monotonic()


def _plan(settings: Settings) -> Plan:
    """Barriers of capture, without a camera but with the words of prompts."""
    return capture_plan(with_prompt(replace(settings, source="demo"), "any"))


def _prepare() -> None:
    """Imports all a picture needs, so that nothing is looked for while there is one."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    onnxruntime = importlib.import_module("onnxruntime")
    onnxruntime.set_default_logger_severity(3)
    onnxruntime.disable_telemetry_events()
    from veilcam.camera.album_files import load_pillow

    load_pillow().MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice of it


def main(argv: list[str]) -> int:
    """Runs the process.

    Args:
        argv: Process id of the supervisor, then the descriptors of its channel and of the pictures.
    """
    parent, channel, pictures = (int(text) for text in argv)
    for name in ("SIGINT", "SIGHUP", "SIGPIPE"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    supervisor = Link(channel)
    setup = wait_for(supervisor, Setup, 30.0)
    if setup is None:
        return 1
    settings = from_values(setup.values)
    supervisor.send(Barriers(raise_barriers(_plan(settings))))
    if os.getppid() != parent:
        return 1
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_DATA_BYTES, _MAX_DATA_BYTES))

    def is_over() -> bool:
        try:
            supervisor.receive()
        except EOFError:
            return True
        return False

    try:
        _prepare()
        wire = Wire(pictures, is_asking=False, max_bytes=MAX_UPLOAD_BYTES)
        serve(wire, Desk(settings), is_over)
    except (VeilcamError, WireError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
