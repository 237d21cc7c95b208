"""Picture files in and out: what is refused, what is turned, and that only pixels leave."""

import doctest
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veilcam.camera import album, album_files, album_scan
from veilcam.camera.errors import ConfigError, SourceError
from veilcam.camera.types import SafeFrame

Image = pytest.importorskip("PIL.Image")
SECRET = "SECRETPLACE"


def coded(picture: Any, kind: str = "PNG", **options: Any) -> bytes:
    memory = io.BytesIO()
    picture.save(memory, format=kind, **options)
    return memory.getvalue()


def ramp(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Any:
    """Dark on the left, bright on the right."""
    row = np.linspace(0, 255, size[0]).astype(np.uint8)
    return Image.fromarray(np.tile(row, (size[1], 1))).convert(mode)


def png_16_bit_rgb() -> bytes:
    """Pillow cannot write one, and reads it as 8 bits without a word."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 20, 20, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(20 * 6) for _ in range(20))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))  # fmt: skip


BAD = {
    "animated_png": (coded(ramp(), save_all=True, append_images=[ramp().rotate(180)]), "PNG",
                     r"animated \(2 pictures\)"),
    "animated_webp": (coded(ramp(), "WEBP", save_all=True, append_images=[ramp().rotate(180)]),
                      "WebP", "animated"),
    "cmyk": (coded(ramp("CMYK"), "JPEG"), "JPEG", "CMYK colours"),
    "16_bit_grey": (coded(Image.fromarray(np.full((20, 20), 40_000, np.uint16))), "PNG", "16 bits"),
    "16_bit_rgb": (png_16_bit_rgb(), "PNG", "16 bits"),
    "100_megapixel": (coded(Image.new("1", (10_000, 10_000))), "PNG", "10000x10000 px, wanted"),
    "bomb": (coded(Image.new("1", (16_000, 16_000))), "PNG", "far more pixels"),
    "tiny": (coded(ramp(size=(4, 4))), "PNG", "4x4 px, wanted"),
    "truncated": (coded(ramp(size=(400, 400)), "JPEG")[:900], "JPEG", "is truncated"),
    "truncated_png": (coded(ramp(size=(400, 400)))[:-40], "PNG", "truncated|broken"),
    "torn_header": (coded(ramp(), "WEBP")[:24], "WebP", "broken|truncated"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_in_one_line(name: str) -> None:
    data, kind, message = BAD[name]
    with pytest.raises(SourceError, match=message) as caught:
        album_files.read_picture(data, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP"])
def test_orientation_is_baked_in(orientation: int, kind: str) -> None:
    upright = ramp(size=(48, 24))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose that a viewer's turn undoes
    stored = upright.transpose(back[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WebP" else {}
    bgr = album_files.read_picture(coded(stored, kind.upper(), exif=exif, **options), kind)
    assert bgr.shape == (24, 48, 3)
    assert np.abs(bgr[..., 0].astype(int) - np.asarray(upright)[..., 0]).max() < 8


def test_nothing_shows_of_what_transparency_hid() -> None:
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[..., 2] = 200  # blue, wholly transparent
    rgba[:, :10, 3] = 255
    bgr = album_files.read_picture(coded(Image.fromarray(rgba)), "PNG")
    assert (bgr[:, 10:] == 255).all()
    assert (bgr[:, :10] == (200, 0, 0)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_all_common_modes_are_read(mode: str) -> None:
    bgr = album_files.read_picture(coded(ramp(mode)), "PNG")
    assert bgr.shape == (20, 40, 3)
    assert bgr[0, 0, 0] < 40
    assert bgr[0, -1, 0] > 215


def test_only_the_first_picture_of_a_phones_pair_is_taken() -> None:
    data = coded(ramp(), "MPO", save_all=True, append_images=[ramp().rotate(180)])
    bgr = album_files.read_picture(data, "JPEG")
    assert bgr[0, 0, 0] < 40


def test_colours_are_brought_to_srgb() -> None:
    cms = pytest.importorskip("PIL.ImageCms")
    profile = cms.ImageCmsProfile(cms.createProfile("sRGB")).tobytes()
    plain = album_files.read_picture(coded(ramp()), "PNG")
    tagged = album_files.read_picture(coded(ramp(), icc_profile=profile), "PNG")
    assert np.abs(plain.astype(int) - tagged).max() <= 2
    broken = album_files.read_picture(coded(ramp(), icc_profile=b"nonsense"), "PNG")
    assert np.array_equal(plain, broken)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "HEIC"])
def test_what_is_written_holds_pixels_only(kind: str) -> None:
    if kind == "HEIC":
        pytest.importorskip("pillow_heif").register_heif_opener()
    safe = SafeFrame.blank((32, 48), index=0, time_s=0.0, reason=SECRET)
    data = album_files.write_picture(safe, kind)
    assert album_files.sniff(data[:32]) == kind
    assert SECRET.encode() not in data
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (48, 32)
        assert not picture.getexif()
        assert not {"icc_profile", "xmp", "comment", "photoshop"} & {
            key for key, value in picture.info.items() if value
        }
    assert np.abs(album_files.read_picture(data, kind).astype(int) - safe.bgr).max() < 4


def test_only_safe_frames_are_written() -> None:
    write: Any = album_files.write_picture.__wrapped__  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="only a SafeFrame"):
        write(np.zeros((20, 20, 3), np.uint8), "PNG")


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("a.jpg", b"", "is empty"),
        ("a.jpg", b"\x89PNG\r\n\x1a\n", "named .jpg but holds PNG"),
        ("a.png", b"hello", "something unknown"),
        ("a.heic", b"\xff\xd8\xff\xe0", "named .heic but holds JPEG"),
        ("a.mp4", b"\x1aE\xdf\xa3", "named .mp4 but holds Matroska"),
    ],
)
def test_names_have_to_agree_with_content(name: str, head: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        album_files.check_kind(Path(name), head)


def test_a_missing_reader_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError("no", name=name)

    monkeypatch.setattr(album_files.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"HEIC need PIL.Image: pip install 'veilcam\[album\]'"):
        album_files.load_pillow("HEIC")


def test_the_documented_examples_hold() -> None:
    for module in (album, album_files, album_scan):
        assert doctest.testmod(module).failed == 0
