"""`veilcam album`: a folder tree of pictures and clips in, a shareable twin of it out.

A twin is written under a hidden temporary name, synced, noted in the index, and only then given
its name. So nothing in OUT is ever unprotected or half written, whenever the run is killed.
"""

import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veilcam.camera.album_crew import results
from veilcam.camera.album_files import load_pillow
from veilcam.camera.album_index import Index, opened
from veilcam.camera.album_scan import (
    Tree,
    check_folders,
    scan,
    shown,
    strangers,
    temporary_path,
)
from veilcam.camera.album_sheet import MARK, SHEET_NAME, sheet, write_over, write_problems
from veilcam.camera.album_work import Recipe, Result, Task
from veilcam.camera.cast import NOBODY, Cast
from veilcam.camera.errors import InputError, SinkError
from veilcam.camera.manifest import load_bundle
from veilcam.camera.pictures import check_mode, to_strength
from veilcam.camera.sink_file import _sync_folder
from veilcam.camera.strength import DEFAULT

_SAY_EVERY_S = 10.0  # where stderr is no terminal
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlbumOptions:
    """What the command line asks for.

    Attributes:
        strength: How much of a person's own may pass.
        jobs: Processes, >= 1.
        errors: Where the table of problems goes; default: OUT-errors.csv beside OUT.
        overwrite: Files in OUT that no run vouches for may stay or be replaced.
        cast: Prompts of the stand-ins.
        is_consistent: One stand-in for all pictures of a person; wants one process, which alone
            knows who is who.
        ray: Address of a Ray cluster that does the work; empty: processes of this machine.
    """

    mode: str = "face"
    strength: str = DEFAULT
    bundle: Path | None = None
    jobs: int = 1
    errors: Path | None = None
    overwrite: bool = False
    cast: Cast = NOBODY
    is_consistent: bool = False
    ray: str = ""


def run_album(folder: Path, out: Path, options: AlbumOptions, say: Say) -> dict[str, Any]:
    """Makes or completes the twin of a folder tree.

    Args:
        folder: Originals; read only.
        out: Twins, under the same relative names. Made where it is not there.
        options: See there.
        say: Takes lines about progress.

    Returns:
        The run's report, see docs/album.md; `errors` lists what has no (or a blank) twin.

    Raises:
        InputError: No such folder, the two lie in one another, or `out` holds other files.
        SinkError: `out` or the index cannot be written.
    """
    check_mode(options.mode, options.cast)
    check_folders(folder, out)
    load_pillow()
    strength = to_strength(options.strength)
    if options.is_consistent and options.mode != "face":
        raise InputError(f"--consistent keeps faces, and mode {options.mode} paints none")
    if options.is_consistent and options.ray:
        raise InputError("--ray does not go with --consistent: who is who is known in one process")
    if options.is_consistent and options.jobs != 1:
        raise InputError(
            f"--jobs {options.jobs} does not go with --consistent: who is who is known in one "
            "process only; leave one of the two out"
        )
    sha256 = load_bundle(options.bundle, mode=options.mode).sha256
    run_name = secrets.token_hex(8) if options.is_consistent else ""
    recipe = Recipe(options.bundle, strength, sha256, options.cast, run_name, options.mode)
    started_s = time.monotonic()
    tree = scan(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"cannot make {out}: {error.strerror}") from error
    table = options.errors or Path(f"{out.resolve()}-errors.csv")
    with opened(out) as index:
        _check_output(out, index, options.overwrite)
        run = _Run(folder, out, tree, index)
        try:
            run.go(recipe, options.jobs, options.ray, say)
        finally:
            strangers(out, lambda _: True)  # removes what an interrupt left unfinished
        twins = [n for n in sorted(tree.names) if (out / n).is_file() and index.get(n) is not None]
        if twins:
            write_over(out / SHEET_NAME, sheet(twins))
        run.problems.sort()
        has_table = write_problems(table, run.problems)
    return run.report() | {
        "seconds": round(time.monotonic() - started_s, 1),
        "errors_csv": str(table) if has_table else None,
        "sheet": str(out / SHEET_NAME) if twins else None,
        "mode": options.mode,
        "strength": strength.value,
        "is_consistent": options.is_consistent,
        "bundle_sha256": recipe.sha256,
    }


def _check_output(out: Path, index: Index, overwrite: bool) -> None:
    def is_known(name: str) -> bool:
        if name == SHEET_NAME:
            with (out / name).open("rb") as file:
                return MARK.encode() in file.read(200)
        return index.get(name) is not None

    found = strangers(out, is_known)
    if found and not overwrite:
        raise InputError(
            f"{out} holds {len(found)} files that no album run here made, the first is "
            f"{shown(found[0])}; give a new folder, or --overwrite if you know what they are"
        )


class _Run:
    """Counts, problems and progress of one run."""

    def __init__(self, folder: Path, out: Path, tree: Tree, index: Index) -> None:
        self._tree, self._index = tree, index
        self.problems: list[tuple[str, str]] = list(tree.problems)
        self.num = dict.fromkeys(("written", "kept", "blank", "failed", "heads"), 0)
        self._tasks = []
        for name in tree.names:
            target = out / name
            temporary = temporary_path(target, secrets.token_hex(8))
            self._tasks.append(Task(name, folder / name, target, temporary, index.get(name)))
        self._done_bytes = self._num_done = 0
        self._started_s = self._said_s = time.monotonic()

    def go(self, recipe: Recipe, jobs: int, ray: str, say: Say) -> None:
        """Do all files."""
        by_name = {task.name: task for task in self._tasks}
        jobs = max(1, min(jobs, len(self._tasks)))
        for result in results(self._tasks, recipe, jobs=jobs, ray=ray):
            self._take(result, by_name[result.name])
            self._progress(say)

    def report(self) -> dict[str, Any]:
        """Counts and problems, ready for `json.dumps`."""
        return {
            "files": len(self._tree.names) + len(self._tree.problems),
            "written": self.num["written"],
            "kept": self.num["kept"],
            "blank": self.num["blank"],
            "failed": self.num["failed"] + len(self._tree.problems),
            "left_out": self._tree.num_others,
            "heads_replaced": self.num["heads"],
            "errors": [{"file": shown(name), "problem": text} for name, text in self.problems],
        }

    def _take(self, result: Result, task: Task) -> None:
        state, problem = result.state, result.problem
        if result.entry is not None:
            try:
                self._index.add(result.name, result.entry)
                task.temporary.replace(task.target)
                _sync_folder(task.target.parent)
            except OSError as error:
                task.temporary.unlink(missing_ok=True)
                state, problem = "failed", f"cannot be written: {error.strerror}"
        self.num[state] += 1
        self.num["heads"] += result.heads_replaced
        if problem:
            self.num["blank"] += state != "failed"
            self.problems.append((result.name, problem))
        self._num_done += 1
        self._done_bytes += self._tree.sizes[result.name]

    def _progress(self, say: Say) -> None:
        """One line that is written over on a terminal; elsewhere a line now and then."""
        now_s = time.monotonic()
        is_last = self._num_done == len(self._tasks)
        if not sys.stderr.isatty() and now_s - self._said_s < _SAY_EVERY_S and not is_last:
            return
        self._said_s = now_s
        say(progress_line(
            self._num_done, len(self._tasks), self._done_bytes,
            sum(self._tree.sizes[name] for name in self._tree.names), now_s - self._started_s,
        ))  # fmt: skip


def progress_line(
    num_done: int, num_all: int, done_bytes: int, all_bytes: int, spent_s: float
) -> str:
    """How far a run is, and the time left if the rest goes as fast, byte for byte.

    >>> progress_line(3, 10, 50, 200, 60.0)
    'album: 3 of 10 files, 3:00 left'
    """
    left_s = spent_s * (all_bytes - done_bytes) / max(done_bytes, 1)
    minutes, seconds = divmod(round(left_s), 60)
    return f"album: {num_done} of {num_all} files, {minutes}:{seconds:02d} left"


def say_on_stderr(line: str) -> None:
    """Progress for people: one line written over on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{line}\x1b[K")
    else:
        sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def to_text(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{entry['file']}: {entry['problem']}" for entry in report["errors"]]
    lines.append(
        f"{report['written']} written, {report['kept']} kept, {report['blank']} blank, "
        f"{report['failed']} failed, {report['left_out']} other files left out; "
        f"{report['heads_replaced']} heads replaced in {report['seconds']:.1f} s"
    )
    if report["errors_csv"]:
        lines.append(f"problems: {report['errors_csv']}")
    if report["sheet"]:
        lines.append(f"look at: {report['sheet']}")
    return "\n".join(lines)


def default_jobs() -> int:
    """One process for each core, up to four: each holds models and a picture."""
    return max(1, min(4, os.cpu_count() or 1))
