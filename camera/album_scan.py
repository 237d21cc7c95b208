"""What lies in a folder tree: files to take, files to leave out, what is wrong with the rest."""

import os
import re
import stat
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from veilcam.camera.album_files import OTHER_SUFFIXES, SUFFIXES
from veilcam.camera.errors import InputError

_TEMPORARY = re.compile(r"\.{1,2}veilcam-[0-9a-f]{16}\b")


@dataclass(slots=True)
class Tree:
    """One look at a folder tree.

    Attributes:
        names: Files to take, relative to the tree, sorted.
        sizes: Bytes of each.
        problems: Name and reason of each file or folder that cannot be taken.
        num_others: Files that are neither pictures nor clips; they are left out.
    """

    names: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    num_others: int = 0


def shown(name: str) -> str:
    r"""A file name of any script on one line of any terminal.

    >>> shown("a\nb.jpg"), shown("\udcff.jpg"), shown("图.jpg")
    ('a\\x0ab.jpg', '\\udcff.jpg', '图.jpg')
    """
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def check_folders(folder: Path, out: Path) -> None:
    """Raises InputError unless `folder` is a folder and `out` lies neither in nor around it."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}; wanted a folder of pictures and clips")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; wanted a new folder")
    inner, outer = out.resolve(), folder.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise InputError(
            f"{out} and {folder} lie in one another; give a folder elsewhere, "
            "so that originals are never shared with their twins"
        )


def scan(folder: Path) -> Tree:
    """Everything in the tree. Links to folders are not followed, so no loop can form."""
    tree = Tree()

    def on_error(error: OSError) -> None:
        name = os.path.relpath(os.fsdecode(error.filename or folder), folder)
        tree.problems.append((name, f"folder cannot be read: {error.strerror}"))

    for place, folders, files in os.walk(folder, onerror=on_error):
        folders.sort()
        for name in folders:
            if (Path(place) / name).is_symlink():
                relative = os.path.relpath(Path(place) / name, folder)
                tree.problems.append((relative, "is a link to a folder; links are not followed"))
        for name in sorted(files):
            _look_at(tree, os.path.relpath(Path(place) / name, folder), Path(place) / name)
    _find_collisions(tree)
    return tree


def _look_at(tree: Tree, relative: str, path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in OTHER_SUFFIXES:
        wanted = ", ".join(sorted({s[1:].upper() for s in SUFFIXES}))
        tree.problems.append((relative, f"{suffix} is not taken; wanted {wanted}: convert it"))
        return
    if suffix not in SUFFIXES or path.name.startswith("._"):  # the latter: macOS's side files
        tree.num_others += 1
        return
    try:
        status = path.stat()
    except OSError as error:
        tree.problems.append((relative, f"cannot be read: {error.strerror}"))
        return
    if not stat.S_ISREG(status.st_mode):
        tree.problems.append((relative, "is not a file"))
        return
    tree.names.append(relative)
    tree.sizes[relative] = status.st_size


def _find_collisions(tree: Tree) -> None:
    """Take the first of files that another computer would take for the same name."""
    taken: dict[str, str] = {}
    for name in list(tree.names):
        key = unicodedata.normalize("NFC", name).casefold()
        if key in taken:
            tree.names.remove(name)
            other = shown(Path(taken[key]).name)
            tree.problems.append((name, f"has the same name as {other} elsewhere; rename one"))
        else:
            taken[key] = name


def temporary_path(target: Path, token: str) -> Path:
    """Hidden name beside `target`, with its suffix, that no picture has."""
    return target.with_name(f".veilcam-{token}{target.suffix.lower()}")


def strangers(out: Path, is_known: Callable[[str], bool]) -> list[str]:
    """Files of an output folder that no album run vouches for; leftovers of ours are removed.

    Args:
        out: The folder.
        is_known: Tells whether a run vouches for a name.
    """
    found = []
    for place, folders, files in os.walk(out):
        for name in [*files, *(f for f in folders if (Path(place) / f).is_symlink())]:
            path = Path(place) / name
            if _TEMPORARY.match(name) and not path.is_symlink():
                path.unlink(missing_ok=True)
                continue
            relative = os.path.relpath(path, out)
            if path.is_symlink() or not is_known(relative):
                found.append(relative)
    return found
