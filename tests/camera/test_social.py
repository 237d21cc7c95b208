"""`veilcam social` and `veilcam verify`: a marked substitute, and what becomes of the mark."""

import getpass
import io
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veilcam.camera import cli, credentials, social
from veilcam.camera.errors import ConfigError
from veilcam.camera.manifest import load_bundle
from veilcam.camera.types import SafeFrame

Image = pytest.importorskip("PIL.Image")
SECRET = "SECRETPLACE"
BUNDLE = {"mode": "face", "bundle_sha256": "ab" * 32}


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = cli.call([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, SECRET
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (120, 90), "green").save(path, exif=exif, comment=SECRET)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_substitute_is_signed_marked_and_holds_no_note(
    photo: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    pytest.importorskip("c2pa")
    out = photo.with_name(f"out{suffix}")
    code, report = call(capsys, "social", photo, "-o", out)
    assert code == 0
    assert (report["width"], report["height"]) == (90, 120)  # turned as noted, not enlarged
    data = out.read_bytes()
    for text in (SECRET, str(photo.parent), "photo", socket.gethostname(), f"/{getpass.getuser()}"):
        # two letters turn up in any compressed picture
        assert len(text) < 5 or text.encode() not in data
    with Image.open(io.BytesIO(data)) as picture:
        assert not picture.getexif()
    code, found = call(capsys, "verify", out)
    assert code == 0
    assert found["is_valid"]
    assert found["is_our_bundle"]
    assert found["source_type"] == credentials.SOURCE_TYPES["face"]
    assert found["credentials"]["source_type"] == credentials.SOURCE_TYPES["face"]
    assert found["credentials"]["generator"] == "Veilcam"
    assert [p.name for p in photo.parent.iterdir() if "veilcam" in p.name] == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP"])
def test_an_edited_picture_is_caught(kind: str) -> None:
    pytest.importorskip("c2pa")
    safe = SafeFrame.blank((64, 64), index=0, time_s=0.0, reason="x")
    data, _ = social.encode(safe, kind, social.Size.FULL)
    signed = credentials.sign(data, kind, credentials.make_certificate(), BUNDLE)
    whole = credentials.read(signed, kind)
    assert whole is not None
    assert (whole["state"], whole["problems"], whole["bundle"]) == ("Valid", [], BUNDLE)
    place = signed.index(b"DigitalSourceType>http") + 30
    edited = signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :]
    changed = credentials.read(edited, kind)
    assert changed is not None
    assert changed["state"] == "Invalid"
    assert changed["problems"]
    assert credentials.read(data, kind) is None


def test_two_pictures_share_no_certificate() -> None:
    pytest.importorskip("cryptography")
    first, second = credentials.make_certificate(), credentials.make_certificate()
    assert first.chain != second.chain
    assert "PRIVATE" not in repr(first)


def test_a_real_certificate_can_sign(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("c2pa")
    made = credentials.make_certificate()
    chain, key = photo.with_name("chain.pem"), photo.with_name("key.pem")
    chain.write_bytes(made.chain)
    key.write_bytes(made.key)
    options = ["-o", photo.with_name("out.jpg"), "--certificate", chain, "--key", key]
    assert call(capsys, "social", photo, *options)[1]["credentials"] == "signed"
    key.write_text("nonsense")
    code, report = call(
        capsys, "social", photo, *options[:1], photo.with_name("b.jpg"), *options[2:]
    )
    assert code == 2
    assert "could not be signed" in report["error"]
    assert not photo.with_name("b.jpg").exists()


def test_without_the_library_it_goes_unsigned_and_says_so(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ConfigError("credentials need c2pa-python: pip install 'veilcam[social]'")

    monkeypatch.setattr(credentials, "load_c2pa", missing)
    out = photo.with_name("out.jpg")
    code, report = call(capsys, "social", photo, "-o", out)
    assert (code, report["credentials"]) == (0, None)
    assert "c2pa-python" in report["no_credentials_because"]
    assert credentials.SOURCE_TYPES["face"].encode() in out.read_bytes()
    code, report = call(capsys, "verify", out)
    assert code == 2
    assert "c2pa-python" in report["error"]


@pytest.mark.parametrize(
    ("size", "wanted_wh"),
    [("full", (300, 200)), ("large", (300, 200)), ("square", (1080, 1080)),
     ("story", (1080, 1920))],
)  # fmt: skip
def test_presets_have_their_sizes(size: str, wanted_wh: tuple[int, int]) -> None:
    safe = SafeFrame.blank((200, 300), index=0, time_s=0.0, reason="x")
    data, size_wh = social.encode(safe, "JPEG", social.Size(size))
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == size_wh == wanted_wh


@pytest.mark.parametrize(("size", "longest"), [("large", 2048), ("medium", 1080), ("small", 640)])
def test_large_pictures_are_shrunk(size: str, longest: int) -> None:
    safe = SafeFrame.blank((1500, 3000), index=0, time_s=0.0, reason="x")
    assert social.encode(safe, "JPEG", social.Size(size))[1] == (longest, longest // 2)


def test_only_safe_frames_are_encoded() -> None:
    encode: Any = social.encode.__wrapped__  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="only a SafeFrame"):
        encode(np.zeros((20, 20, 3), np.uint8), "PNG", social.Size.FULL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["social", "{0}/photo.jpg", "-o", "{0}/photo.jpg"], "the original itself"),
        (["social", "{0}/photo.jpg", "-o", "{0}/out.gif"], "got suffix '.gif'"),
        (["social", "{0}/photo.jpg", "-o", "{0}/no/out.jpg"], "cannot write"),
        (["social", "{0}/none.jpg", "-o", "{0}/out.jpg"], "cannot be read: No such file"),
        (["social", "{0}/empty.jpg", "-o", "{0}/out.jpg"], "empty.jpg is empty"),
        (["social", "{0}/photo.jpg", "-o", "{0}/out.jpg", "--mode", "scene"], "wanted face"),
        (["social", "{0}/photo.jpg", "-o", "{0}/out.jpg", "--key", "{0}/k"], "both or none"),
        (["verify", "{0}/empty.jpg"], "empty.jpg is empty"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    photo: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    photo.with_name("empty.jpg").touch()
    before = photo.read_bytes()
    code, report = call(capsys, *(text.format(photo.parent) for text in arguments))
    assert code == 2
    assert message in report["error"]
    assert "\n" not in report["error"]
    assert photo.read_bytes() == before
    assert {p.name for p in photo.parent.iterdir()} == {"photo.jpg", "empty.jpg"}


def test_a_picture_in_doubt_is_not_written(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = SafeFrame.blank((64, 64), index=0, time_s=0.0, reason="64 heads or more")

    class Doubting:
        bundle, heads_replaced = load_bundle(), 1

        def __call__(self, _bgr: np.ndarray) -> SafeFrame:
            return blank

    monkeypatch.setattr(social, "make_protector", lambda *_, **__: Doubting())
    code, report = call(capsys, "social", photo, "-o", photo.with_name("out.jpg"))
    assert code == 2
    assert "cannot be vouched for: 64 heads" in report["error"]
    assert not photo.with_name("out.jpg").exists()
