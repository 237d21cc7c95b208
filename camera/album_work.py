"""One file of an album: original in, its twin under a temporary name out, or a reason."""

import errno
import hashlib
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2

from veilcam.camera.album_files import (
    CLIP_KINDS,
    MAX_PICTURE_BYTES,
    check_kind,
    read_picture,
    write_picture,
)
from veilcam.camera.album_index import Entry, file_sha256
from veilcam.camera.album_people import AlbumPeople
from veilcam.camera.capture import load_builder
from veilcam.camera.cast import NOBODY, Cast, choose_cast
from veilcam.camera.clip import ClipSource
from veilcam.camera.errors import GraphError, SourceError, VeilcamError
from veilcam.camera.loop import MAX_DELAY_FRAMES
from veilcam.camera.pictures import make_protector
from veilcam.camera.sink_file import ClipSink
from veilcam.camera.source import check_size
from veilcam.camera.strength import Strength, choose

VERSION = 1  # of what is made of a file; another one makes everything anew


@dataclass(frozen=True, slots=True)
class Task:
    """One file to do.

    Attributes:
        name: Relative to both folders.
        origin, target, temporary: Where it lies, where its twin will, and where to write it.
        known: What an earlier run did with it.
    """

    name: str
    origin: Path
    target: Path
    temporary: Path
    known: Entry | None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a file.

    Attributes:
        state: `written` under the temporary name; `kept` as it was; `failed`: nothing is written.
        problem: Why it failed, or why its picture is blank.
        entry: For the index, where there is a twin.
    """

    name: str
    state: Literal["written", "kept", "failed"]
    problem: str = ""
    entry: Entry | None = None
    heads_replaced: int = 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How twins are made.

    Attributes:
        bundle: Folder NAME.veil, or None for the one in the package.
        strength: How much of a person's own may pass.
        sha256: Of the bundle as the run began; another one is refused.
        cast: Prompts of the stand-ins, in every file by the order in which heads are found.
        run: Of a consistent album a name that no other run has, else empty. Who was who is
            forgotten when a run ends, so nothing that another run made may stay.
        mode: `face` or `frame`.
    """

    bundle: Path | None
    strength: Strength
    sha256: str
    cast: Cast = NOBODY
    run: str = ""
    mode: str = "face"

    @property
    def note(self) -> str:
        """All that a twin depends on beside its original."""
        note = f"{VERSION}:{self.mode}:{self.strength}:{self.sha256}"
        if self.cast.prompts:
            said = repr(sorted(self.cast.to_values().items())).encode()
            note += f":{hashlib.sha256(said).hexdigest()[:16]}"
        if self.run:
            note += f":consistent:{self.run}"
        return note


class Worker:
    """Makes twins, one after the other.

    Args:
        recipe: How.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._people = AlbumPeople() if recipe.run else None
        self._protect = make_protector(
            recipe.mode, recipe.bundle, strength=recipe.strength, cast=recipe.cast,
            people=self._people,
        )  # fmt: skip
        if self._protect.bundle.sha256 != recipe.sha256:
            raise GraphError("the bundle was changed while the album ran; run again")

    def close(self) -> None:
        """Forgets who was in the pictures."""
        if self._people is not None:
            self._people.forget()

    def __call__(self, task: Task) -> Result:
        """The twin of one file. Whatever goes wrong with it is told, and nothing is written."""
        try:
            return self._do(task)
        except VeilcamError as error:
            problem = str(error).replace(f"{task.origin} ", "").replace(f"{task.temporary}", "it")
        except OSError as error:
            problem = _told(error)
        except MemoryError:
            problem = "needs more memory than there is"
        except Exception as error:  # one file must not end the run, and none may pass unprotected
            problem = f"failed: {type(error).__name__}"
        task.temporary.unlink(missing_ok=True)
        return Result(task.name, "failed", problem)

    def _do(self, task: Task) -> Result:
        with task.origin.open("rb") as file:
            kind = check_kind(task.origin, file.read(32))
            if kind in CLIP_KINDS:
                data, before = b"", file_sha256(task.origin)
            elif os.fstat(file.fileno()).st_size > MAX_PICTURE_BYTES:
                raise SourceError(f"has more than {MAX_PICTURE_BYTES >> 20} MiB, wanted a picture")
            else:
                file.seek(0)
                data = file.read()
                before = hashlib.sha256(data).hexdigest()
        if self._is_done(task, before):
            assert task.known is not None
            problem = "is blank: analysis could not vouch for it" if task.known.is_blank else ""
            return Result(task.name, "kept", problem)
        task.target.parent.mkdir(parents=True, exist_ok=True)
        if kind in CLIP_KINDS:
            reason, num_heads = "", self._clip(task)
            if file_sha256(task.origin) != before:
                raise SourceError("changed while it was read; run again")
        else:
            reason, num_heads = self._picture(task, data, kind)
        entry = Entry(before, file_sha256(task.temporary), self._recipe.note, bool(reason))
        problem = f"is blank: {reason}" if reason else ""
        return Result(task.name, "written", problem, entry, num_heads)

    def _is_done(self, task: Task, before: str) -> bool:
        known = task.known
        if known is None or (known.before, known.settings) != (before, self._recipe.note):
            return False
        return task.target.is_file() and file_sha256(task.target) == known.after

    def _picture(self, task: Task, data: bytes, kind: str) -> tuple[str, int]:
        """Write one picture; why it is blank, and the heads in it."""
        safe = self._protect(read_picture(data, kind))
        if " failed: " in safe.reason:
            raise SourceError(safe.reason)
        write_synced(task.temporary, write_picture(safe, kind))
        return safe.reason, self._protect.heads_replaced

    def _clip(self, task: Task) -> int:
        """Write one clip, with the look-ahead that a camera cannot afford; the heads in it."""
        source = ClipSource(task.origin)
        try:
            check_size(source.size_hw, "clip")
            sink = ClipSink(task.temporary, size_hw=source.size_hw, fps=source.fps)
            try:
                choose(self._recipe.strength)  # the loop's encoder takes it from here
                choose_cast(self._recipe.cast)
                mode = self._recipe.mode
                loop = load_builder(mode)(
                    source, sink, bundle=self._recipe.bundle, profile={"threads": 1},
                    delay_frames=MAX_DELAY_FRAMES if mode == "face" else 0,
                )  # fmt: skip
                report = loop.run()
                if report.bundle_sha256 != self._recipe.sha256:
                    raise GraphError("the bundle was changed while the album ran; run again")
                if report.faults or report.frames_blank or not report.frames_out:
                    raise SourceError(f"{report.frames_blank} frames could not be analysed")
                sink.close()
            except BaseException:
                sink.abort()
                raise
        finally:
            source.close()
        return report.heads_replaced


def write_synced(path: Path, data: bytes) -> None:
    """A new file whose content is on the disk when this returns."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _told(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk full; free some space and run again"
    return f"cannot be read or written: {error.strerror or type(error).__name__}"


_worker: Worker | None = None


def start_process(recipe: Recipe) -> None:
    """Make this process a worker: it ends with its parent, and leaves Ctrl-C to it."""
    import multiprocessing
    import signal
    from multiprocessing.connection import wait

    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def end_with_parent(sentinel: int) -> None:
            wait([sentinel])
            os._exit(1)

        threading.Thread(target=end_with_parent, args=(parent.sentinel,), daemon=True).start()
    logging.getLogger("veilcam").setLevel(logging.ERROR)
    os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
    cv2.setNumThreads(1)
    _worker = Worker(recipe)


def work(task: Task) -> Result:
    """One task, in a process made by `start_process`."""
    assert _worker is not None
    return _worker(task)
