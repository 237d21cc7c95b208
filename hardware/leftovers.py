"""What an update left behind that was cut off: a kernel the boot loader passed over.

A FAT file system keeps a file's name before its contents. A power cut right after an update can
leave an empty or torn kernel; the boot loader passes over it and starts the old version, while the
update counts as done and is never made again. So it is removed at the next start.
"""

import logging
import re
from pathlib import Path

_log = logging.getLogger(__name__)
_FRESH = re.compile(r"veilcam_(?P<version>.+)\+(?P<left>[1-9]\d*)(-0)?\.efi")


def remove_passed_over(folder: Path, running: str) -> tuple[str, ...]:
    """Removes kernels of other versions that have tries left and were never tried.

    The boot loader starts the newest version that has tries left, and counts before it does. A
    version that has all its tries when another one has started could not be read.

    Args:
        folder: Where kernels lie, EFI/Linux of the boot partition.
        running: Version of the system that has started.

    Returns:
        The names of the removed.
    """
    removed = []
    for path in sorted(folder.glob("veilcam_*.efi")):
        found = _FRESH.fullmatch(path.name)
        if found is not None and found["version"] != running:
            _log.warning("%s was passed over by the boot loader; it is fetched anew", path.name)
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return tuple(removed)


def running_version(os_release: Path) -> str:
    """IMAGE_VERSION of the system, empty where it has none."""
    try:
        lines = os_release.read_text().splitlines()
    except OSError:
        return ""
    values = (line.partition("=")[2] for line in lines if line.startswith("IMAGE_VERSION="))
    return next(values, "").strip('"')
