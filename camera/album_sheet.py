"""What an album run leaves to look at: a contact sheet of the twins, and a table of problems."""

import csv
import html
import io
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from veilcam.camera.album_files import CLIP_KINDS, SUFFIXES
from veilcam.camera.album_scan import shown, temporary_path
from veilcam.camera.errors import SinkError
from veilcam.camera.sink_file import _sync_folder

SHEET_NAME = "sheet.html"
MARK = "<!-- veilcam album -->"
_CSV_HEAD = "file,problem"
_STYLE = (
    "body{font:15px system-ui,sans-serif;margin:1.5rem;background:Canvas;color:CanvasText}"
    ":root{color-scheme:light dark}"
    "ul{list-style:none;padding:0;display:grid;gap:1rem;"
    "grid-template-columns:repeat(auto-fill,minmax(180px,1fr))}"
    "figure{margin:0}img,video{width:100%;height:150px;object-fit:contain;background:#8882}"
    "figcaption{font-size:12px;overflow-wrap:anywhere}"
)


def write_over(path: Path, text: str) -> None:
    """A text file under its name at once and for good, or not at all."""
    temporary = temporary_path(path, secrets.token_hex(8))
    try:
        with temporary.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SinkError(f"cannot write {path}: {error.strerror}") from error
    _sync_folder(path.parent)


def sheet(names: Sequence[str]) -> str:
    """A page of all twins; it loads what it shows from beside it and nothing else.

    Args:
        names: Of the twins, relative to the page.
    """
    items = "\n".join(_item(name) for name in names)
    return (
        f'<!doctype html>\n{MARK}\n<html lang="en"><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src 'self' file:; media-src 'self' file:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width"><title>Album</title>'
        f"<style>{_STYLE}</style>\n<h1>Album</h1>\n<p>{len(names)} files. Every head in them was "
        "replaced by that of a person who does not exist; everything else is as it was.</p>\n"
        f"<ul>\n{items}\n</ul>\n</html>\n"
    )


def _item(name: str) -> str:
    link = html.escape(quote(os.fsencode(name)))
    label = html.escape(shown(name))
    kind = SUFFIXES.get(Path(name).suffix.lower(), "")
    if kind in CLIP_KINDS:
        body = f'<video src="{link}" controls muted preload="metadata"></video>'
    elif kind == "HEIC":
        body = ""  # most browsers cannot show it
    else:
        body = f'<a href="{link}"><img src="{link}" alt="{label}" loading="lazy"></a>'
    return f'<li><figure>{body}<figcaption><a href="{link}">{label}</a></figcaption></figure></li>'


def write_problems(path: Path, problems: Sequence[tuple[str, str]]) -> bool:
    """A table of names and problems; where there are none, the last run's table is removed.

    Returns:
        True where a table was written.
    """
    if not problems:
        if path.is_file() and path.read_bytes().startswith(_CSV_HEAD.encode()):
            path.unlink()
        return False
    memory = io.StringIO()
    writer = csv.writer(memory)
    writer.writerow(_CSV_HEAD.split(","))
    for name, problem in problems:
        writer.writerow([f"./{shown(name)}", problem])  # "./": no table reads it as a formula
    write_over(path, memory.getvalue())
    return True
