"""`veilcam social`: a substitute of one picture for upload, marked as made by a program.

`veilcam verify` tells what such a mark says and whether the picture was changed since.
"""

import io
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from veilcam.camera import credentials, watermark
from veilcam.camera.album_files import load_pillow, read_picture
from veilcam.camera.cast import NOBODY, Cast
from veilcam.camera.credentials import SOURCE_TYPES
from veilcam.camera.errors import ConfigError, SinkError, SourceError
from veilcam.camera.manifest import load_bundle
from veilcam.camera.picture_files import WRITTEN, bytes_of, kind_of, read_image, write_whole
from veilcam.camera.pictures import check_mode, make_protector, to_strength
from veilcam.camera.strength import DEFAULT
from veilcam.camera.types import SafeFrame

_QUALITY = 90
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    "<Iptc4xmpExt:DigitalSourceType>%s</Iptc4xmpExt:DigitalSourceType>"
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)
_SOURCE_TYPE = re.compile(rb"DigitalSourceType(?:>|=\")([!-;=?-~]{1,200}?)[<\"]")


class Size(StrEnum):
    """Size presets: longest side, or an exact size cut from the middle."""

    FULL = "full"
    LARGE = "large"
    MEDIUM = "medium"
    SMALL = "small"
    SQUARE = "square"
    STORY = "story"


_LONGEST_PX = {Size.LARGE: 2048, Size.MEDIUM: 1080, Size.SMALL: 640}
_EXACT_WH = {Size.SQUARE: (1080, 1080), Size.STORY: (1080, 1920)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SocialOptions:
    """What the command line asks for.

    Attributes:
        has_credentials: Sign, where the library is installed.
        certificate, key: PEM files to sign with; both or none.
        has_watermark: An invisible mark in the pixels, too.
        cast: Prompts of the stand-ins.
    """

    mode: str = "face"
    strength: str = DEFAULT
    size: Size = Size.LARGE
    bundle: Path | None = None
    has_credentials: bool = True
    certificate: Path | None = None
    key: Path | None = None
    has_watermark: bool = False
    cast: Cast = NOBODY


def make_substitute(image: Path, out: Path, options: SocialOptions) -> dict[str, Any]:
    """Writes the substitute of a picture; the report comes back.

    Raises:
        InputError: The picture cannot be read, analysis cannot vouch for it, or `out` is no name
            for a picture. Then nothing is written.
        ConfigError: A certificate that cannot be used.
    """
    check_mode(options.mode, options.cast)
    kind = kind_of(out, WRITTEN)
    if out.resolve() == image.resolve():
        raise SinkError(f"{out} is the original itself; give another name")
    certificate, missing = _certificate(options)
    if options.has_watermark:
        watermark.load_library()
    strength = to_strength(options.strength)
    protect = make_protector(options.mode, options.bundle, strength=strength, cast=options.cast)
    bundle, source_type = protect.bundle, SOURCE_TYPES[options.mode]
    safe = protect(read_image(image))
    if safe.reason:
        raise SourceError(f"{image} cannot be vouched for: {safe.reason}; nothing was written")
    data, size_wh = encode(
        safe, kind, options.size, has_watermark=options.has_watermark, source_type=source_type
    )
    if certificate is not None:
        made_by = {"mode": options.mode, "bundle_sha256": bundle.sha256}
        data = credentials.sign(data, kind, certificate, made_by)
    write_whole(out, data)
    return {
        "out": str(out),
        "width": size_wh[0],
        "height": size_wh[1],
        "heads_replaced": protect.heads_replaced,
        "mode": options.mode,
        "strength": options.strength,
        "source_type": source_type,
        "watermark": options.has_watermark,
        "credentials": "signed" if certificate is not None else None,
        "no_credentials_because": missing or None,
        "bundle_sha256": bundle.sha256,
    }


def _certificate(options: SocialOptions) -> tuple[credentials.Certificate | None, str]:
    """What to sign with; else why nothing is signed."""
    if (options.certificate is None) != (options.key is None):
        raise ConfigError("got one of --certificate and --key, wanted both or none")
    if not options.has_credentials:
        return None, "--no-credentials"
    try:
        credentials.load_c2pa()
    except ConfigError as error:
        if options.certificate is not None:
            raise
        return None, str(error)
    if options.certificate is None or options.key is None:
        return credentials.make_certificate(), ""
    try:
        chain, key = options.certificate.read_bytes(), options.key.read_bytes()
    except OSError as error:
        raise ConfigError(f"certificate or key cannot be read: {error.strerror}") from error
    return credentials.Certificate(chain, key), ""


def encode(
    safe: SafeFrame,
    kind: str,
    size: Size,
    *,
    has_watermark: bool = False,
    source_type: str = SOURCE_TYPES["face"],
) -> tuple[bytes, tuple[int, int]]:
    """A file of a safe picture with its IPTC source type as the only note; its width and height."""
    if not isinstance(safe, SafeFrame):
        raise TypeError(f"only a SafeFrame may be written, got {type(safe).__name__}")
    bgr = sized(safe.bgr, size)
    if has_watermark:
        bgr = watermark.mark(bgr)
    image, memory = load_pillow(), io.BytesIO()
    picture = image.fromarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
    if kind == "PNG":
        import PIL.PngImagePlugin

        info = PIL.PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", _XMP % source_type)
        picture.save(memory, format="PNG", pnginfo=info)
    else:
        picture.save(
            memory, format=kind.upper(), quality=_QUALITY, xmp=(_XMP % source_type).encode()
        )
    return memory.getvalue(), (bgr.shape[1], bgr.shape[0])


def sized(bgr: UInt8[np.ndarray, "h w 3"], size: Size) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The picture in a preset's size. Only an exact size ever makes it larger."""
    height, width = bgr.shape[:2]
    if size in _EXACT_WH:
        wide, high = _EXACT_WH[size]
        scale = max(wide / width, high / height)
        scaled_wh = max(round(width * scale), wide), max(round(height * scale), high)
        bgr = _resized(bgr, scaled_wh)
        left, top = (bgr.shape[1] - wide) // 2, (bgr.shape[0] - high) // 2
        return np.ascontiguousarray(bgr[top : top + high, left : left + wide])
    scale = _LONGEST_PX.get(size, max(height, width)) / max(height, width)
    if scale >= 1:
        return bgr
    return _resized(bgr, (max(round(width * scale), 1), max(round(height * scale), 1)))


def _resized(
    bgr: UInt8[np.ndarray, "h w 3"], size_wh: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    is_smaller = size_wh[0] < bgr.shape[1]
    how = cv2.INTER_AREA if is_smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(bgr, size_wh, interpolation=how), np.uint8)


def verify(path: Path, *, has_watermark: bool = False) -> dict[str, Any]:
    """What a picture says of itself: its credentials, whether they hold, and its source type.

    Args:
        path: The picture.
        has_watermark: Look for the invisible mark, too.

    Returns:
        `is_valid`: it has credentials and was not changed since; `credentials`: see
        `credentials.read`; `source_type`: of the IPTC note; `is_our_bundle`: the credentials name
        the bundle of this package (a name is no proof: anybody may sign anything); `watermark`: see
        `watermark.read`, None where nobody looked.
    """
    data, kind = bytes_of(path, WRITTEN)
    found = credentials.read(data, kind)
    note = _SOURCE_TYPE.search(data)
    named = found["bundle"].get("bundle_sha256") if found else None
    return {
        "is_valid": found is not None and found["state"] in ("Valid", "Trusted"),
        "credentials": found,
        "source_type": note[1].decode() if note else None,
        "is_our_bundle": named is not None and named == load_bundle().sha256,
        "watermark": watermark.read(read_picture(data, kind)) if has_watermark else None,
    }


def to_text(value: dict[str, Any]) -> str:
    """What `verify` found, for people."""
    found = value["credentials"]
    if found is None:
        lines = ["no content credentials"]
    elif value["is_valid"]:
        lines = ["content credentials: valid, the picture was not changed since it was signed"]
    else:
        problems = ", ".join(found["problems"]) or "broken"
        lines = [f"content credentials: INVALID ({problems}): changed after it was signed"]
    if found is not None:
        lines.append(f"signed by: {found['signer'] or 'unknown'} (not checked who that is)")
        lines.append(f"made by: {found['generator'] or 'unknown'}")
        whose = "the bundle of this package" if value["is_our_bundle"] else "another bundle or none"
        lines.append(f"bundle: {whose}")
    lines.append(f"IPTC source type: {value['source_type'] or 'none'}")
    if (mark := value["watermark"]) is not None:
        said = "made by Veilcam" if mark["is_found"] else "none"
        lines.append(f"watermark: {said} ({mark['bits_equal']} of {mark['bits']} bits)")
    return "\n".join(lines)
