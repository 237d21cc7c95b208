"""Settings written into an image's first partition, and the table that says where it is."""

import binascii
import shutil
import struct
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from veilcam.camera.errors import ConfigError, InputError, VeilcamError
from veilcam.hardware.customize import Card, customize, gather_secrets
from veilcam.hardware.gpt import ESP, read_partitions
from veilcam.hardware.settings import Secrets, read_settings

START, SIZE = 1 << 20, 1 << 20


def table(kind: uuid.UUID = ESP, start: int = START, size: int = SIZE) -> bytes:
    """The first 34 sectors of a disk with one partition."""
    name = "esp".encode("utf-16-le").ljust(72, b"\0")
    last = (start + size) // 512 - 1
    entry = struct.pack("<16s16sQQQ72s", kind.bytes_le, bytes(16), start // 512, last, 0, name)
    entries = entry.ljust(128 * 128, b"\0")
    fields = [b"EFI PART", b"\0\0\1\0", 92, 0, 0, 1, 99, 34, 90, bytes(16), 2, 128, 128]
    packed = struct.Struct("<8s4sIIIQQQQ16sQIII")
    header = packed.pack(*fields, binascii.crc32(entries))
    fields[3] = binascii.crc32(header)
    header = packed.pack(*fields, binascii.crc32(entries))
    return bytes(512) + header.ljust(512, b"\0") + entries


@pytest.fixture
def image(tmp_path: Path) -> Path:
    if not (shutil.which("mcopy") and shutil.which("mkfs.vfat")):
        pytest.skip("mtools or dosfstools is not installed")
    path = tmp_path / "veilcam.img"
    path.write_bytes(table().ljust(START + SIZE, b"\0"))
    (esp := tmp_path / "esp").write_bytes(bytes(SIZE))
    subprocess.run(["mkfs.vfat", str(esp)], check=True, capture_output=True)
    with path.open("r+b") as file:
        file.seek(START)
        file.write(esp.read_bytes())
    return path


def test_partitions_are_found_where_they_lie(tmp_path: Path) -> None:
    (path := tmp_path / "x.img").write_bytes(table().ljust(START + SIZE, b"\0"))
    (found,) = read_partitions(path)
    assert (found.kind, found.name, found.start, found.size) == (ESP, "esp", START, SIZE)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(512, 512 + 91) | st.integers(1024, 1024 + 128 * 128 - 1),
       bits=st.integers(1, 255))  # fmt: skip
def test_any_changed_byte_of_a_table_is_found(tmp_path: Path, place: int, bits: int) -> None:
    data = bytearray(table().ljust(START + SIZE, b"\0"))
    data[place] ^= bits
    (path := tmp_path / "x.img").write_bytes(data)
    with pytest.raises(InputError):
        read_partitions(path)


def test_an_image_cut_short_is_found(tmp_path: Path) -> None:
    (path := tmp_path / "x.img").write_bytes(table().ljust(START + SIZE - 1, b"\0"))
    with pytest.raises(InputError, match="shorter than its partition table"):
        read_partitions(path)


def test_settings_arrive_in_the_image_and_nothing_else_changes(image: Path, tmp_path: Path) -> None:
    before = image.read_bytes()
    report = customize(
        image, settings_file=None, assignments={"name": "door", "strength": "strict"},
        secrets=Secrets(password="four short words"),
    )  # fmt: skip
    after = image.read_bytes()
    assert after[:START] == before[:START]
    assert len(after) == len(before)
    (path := tmp_path / "back.toml").write_bytes(Card(image).read("veilcam.toml") or b"")
    assert (read_settings(path).name, read_settings(path).strength) == ("door", "strict")
    assert b"four short words" in (Card(image).read("secrets.toml") or b"")
    assert "four short words" not in str(report)


def test_a_second_time_keeps_what_the_first_set(image: Path) -> None:
    customize(image, settings_file=None, assignments={"name": "door"}, secrets=None)
    report = customize(image, settings_file=None, assignments={"web": "false"}, secrets=None)
    assert (report["settings"]["name"], report["settings"]["web"]) == ("door", False)


def test_a_wrong_setting_leaves_the_image_as_it_was(image: Path) -> None:
    before = image.read_bytes()
    for assignments in ({"nme": "x"}, {"name": "A B"}, {"wifi_ssid": "home"}):
        with pytest.raises(ConfigError):
            customize(image, settings_file=None, assignments=assignments, secrets=None)
    assert image.read_bytes() == before


def test_an_image_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "x.img").write_bytes(table(uuid.uuid4()).ljust(START + SIZE, b"\0"))
    with pytest.raises(VeilcamError, match=r"no partition of kind|mcopy is missing"):
        customize(path, settings_file=None, assignments={}, secrets=None)


def test_secrets_come_from_files(tmp_path: Path) -> None:
    (wifi := tmp_path / "wifi").write_text("hunter222\n")
    assert gather_secrets(None, wifi, None, None) == Secrets(wifi_password="hunter222")
    (stream := tmp_path / "stream").write_text("four short words\n")
    found = gather_secrets(None, None, None, stream)
    assert found == Secrets(stream_password="four short words")
    assert gather_secrets(None, None, None, None) is None
    with pytest.raises(ConfigError, match="cannot be read"):
        gather_secrets(None, tmp_path / "none", None, None)
