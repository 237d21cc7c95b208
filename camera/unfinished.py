"""Names of files that are not finished yet; light, for the supervisor imports no encoder."""

import os
import shutil
from contextlib import suppress
from pathlib import Path


def unfinished_path(path: Path, process_id: int | None = None) -> Path:
    """Temporary name, in the same folder, of what a process (this one) is writing to `path`."""
    return path.with_name(f".{path.name}.{process_id or os.getpid()}.part")


def remove_unfinished(spec: str, process_id: int) -> None:
    """Removes what a process that was killed left of the sink `spec`."""
    kind, _, target = spec.partition(":")
    if kind not in ("file", "png") or not target:
        return
    part = unfinished_path(Path(target).absolute(), process_id)
    shutil.rmtree(part, ignore_errors=True)
    with suppress(OSError):
        part.unlink(missing_ok=True)
