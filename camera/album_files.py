"""Picture files -> upright pixels, and safe pictures -> files without any metadata.

What a file is, its first bytes tell; its name has to agree. Sizes are checked before pixels are
unpacked. Of what is read only the pixels are kept, so nothing else can get into what is written.
"""

import importlib
import io
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from veilcam.camera.errors import ConfigError, InputError, SourceError
from veilcam.camera.source import check_size
from veilcam.camera.types import SafeFrame

SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WebP", ".heic": "HEIC",
    ".heif": "HEIC", ".mp4": "MP4", ".m4v": "MP4", ".mov": "MP4", ".mkv": "Matroska",
}  # fmt: skip
CLIP_KINDS = frozenset({"MP4", "Matroska"})
# pictures and clips that we know of but do not take: a line each, not a silent gap
OTHER_SUFFIXES = frozenset(
    {
        ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".cr2",
        ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".avi", ".webm", ".wmv", ".mpg",
        ".mpeg", ".3gp", ".mts", ".m2ts", ".flv", ".ts", ".insv",
    }
)  # fmt: skip
MAX_PICTURE_BYTES = 256 * 2**20
_PLUGINS = {"JPEG": ("JPEG", "MPO"), "PNG": ("PNG",), "WebP": ("WEBP",), "HEIC": ("HEIF",)}
_SAVE: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG", "quality": 92, "optimize": True},
    "PNG": {"format": "PNG"},
    "WebP": {"format": "WEBP", "quality": 90},
    "HEIC": {"format": "HEIF", "quality": 85},
}
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"})
_MAGIC = (
    (0, b"\xff\xd8\xff", "JPEG"), (0, b"\x89PNG\r\n\x1a\n", "PNG"), (8, b"WEBP", "WebP"),
    (0, b"\x1aE\xdf\xa3", "Matroska"), (4, b"moov", "MP4"), (4, b"mdat", "MP4"),
    (4, b"wide", "MP4"), (0, b"GIF8", "GIF"), (0, b"BM", "BMP"), (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"), (8, b"AVI ", "AVI"), (0, b"%PDF", "PDF"),
)  # fmt: skip


def sniff(head: bytes) -> str:
    r"""What a file is by its first 32 bytes; empty where nobody knows.

    >>> sniff(b"\xff\xd8\xff\xe0"), sniff(b"\0\0\0\x18ftypheic"), sniff(b"hello")
    ('JPEG', 'HEIC', '')
    """
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return "HEIC" if brand in _HEIC_BRANDS else "AVIF" if brand == b"avif" else "MP4"
    return next((kind for at, magic, kind in _MAGIC if head[at : at + len(magic)] == magic), "")


def check_kind(path: Path, head: bytes) -> str:
    """What the file is, where name and content agree. Raises SourceError elsewhere."""
    suffix = path.suffix.lower()
    wanted, got = SUFFIXES[suffix], sniff(head)
    if not head:
        raise SourceError("is empty: got 0 bytes")
    if got != wanted:
        raise SourceError(f"is named {suffix} but holds {got or 'something unknown'}; rename it")
    return got


def load_pillow(kind: str = "") -> Any:
    """Pillow's Image module, with HEIC where it is asked for. Raises ConfigError without it."""
    try:
        image = importlib.import_module("PIL.Image")
        if kind == "HEIC":
            importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError as error:
        raise ConfigError(
            f"{kind or 'pictures'} need {error.name}: pip install 'veilcam[album]'"
        ) from error
    return image


def read_picture(data: bytes, kind: str) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels of a picture as a viewer would see them: turned as noted, in sRGB, on white.

    Args:
        data: The whole file.
        kind: What it is, as `check_kind` found.

    Raises:
        SourceError: Animated, CMYK, 16 bits, too large, cut off or broken.
        ConfigError: What reads this kind is not installed.
    """
    image = load_pillow(kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # we have our own, smaller size limit
            with image.open(io.BytesIO(data), formats=_PLUGINS[kind]) as picture:
                _check_header(picture, data, kind)
                return _pixels(picture)
    except (InputError, ConfigError, MemoryError):
        raise
    except image.DecompressionBombError as error:
        raise SourceError("unpacks to far more pixels than anybody's camera makes") from error
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet
        reason = "is truncated" if "truncated" in str(error) else "is broken"
        raise SourceError(f"{reason}: no {kind} that can be read to its end") from error


def _check_header(picture: Any, data: bytes, kind: str) -> None:
    check_size((picture.height, picture.width), "picture")
    # JPEGs of phones hold a second picture (depth, gain map): only the first one is taken
    if kind in ("PNG", "WebP") and getattr(picture, "n_frames", 1) > 1:
        raise SourceError(f"is animated ({picture.n_frames} pictures); save one, or make a clip")
    if picture.mode in ("CMYK", "YCCK", "LAB"):
        raise SourceError(f"has {picture.mode} colours, made for print; wanted RGB")
    is_deep = kind == "PNG" and data[24:25] == b"\x10"
    if is_deep or picture.mode.startswith(("I", "F")):
        raise SourceError("has 16 bits a channel; wanted 8: save it with 8 bits")


def _pixels(picture: Any) -> UInt8[np.ndarray, "h w 3"]:
    """Only these leave the file. Colours under transparent parts are lost on purpose."""
    picture.load()
    upright = importlib.import_module("PIL.ImageOps").exif_transpose(picture)
    if upright.mode in ("P", "PA", "LA", "La") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
    upright = _in_srgb(upright)
    if upright.mode == "RGBA":
        white = importlib.import_module("PIL.Image").new("RGBA", upright.size, "white")
        upright = importlib.import_module("PIL.Image").alpha_composite(white, upright)
    rgb = np.asarray(upright.convert("RGB"), np.uint8)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)


def _in_srgb(picture: Any) -> Any:
    """The picture in the colours that viewers take for granted, as its profile will be gone."""
    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "RGBA"):
        return picture
    cms = importlib.import_module("PIL.ImageCms")
    try:
        return cms.profileToProfile(picture, io.BytesIO(profile), cms.createProfile("sRGB"))
    except cms.PyCMSError:
        return picture  # a broken profile is no reason to leave the picture out


def write_picture(safe: SafeFrame, kind: str) -> bytes:
    """A file of a safe picture that holds nothing but its pixels.

    Args:
        safe: The picture.
        kind: JPEG, PNG, WebP or HEIC.
    """
    if not isinstance(safe, SafeFrame):
        raise TypeError(f"only a SafeFrame may be written, got {type(safe).__name__}")
    image, memory = load_pillow(kind), io.BytesIO()
    image.fromarray(cv2.cvtColor(safe.bgr, cv2.COLOR_BGR2RGB)).save(memory, **_SAVE[kind])
    return memory.getvalue()
